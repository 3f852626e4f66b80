"""Ways to search: what all have in common, those by trials, and random genotypes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from dcs_nas import __version__
from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.datamodule import ReidData
from dcs_nas.data.images import Progress
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.models.blocks import set_scale
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.models.cell_space import fixed_network
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import mix_seed, seed_everything
from dcs_nas.space import AnyGenotype, Genotype, NetworkSpec, Origin, SpaceSpec, read_space, shipped_file
from dcs_nas.space.table import Table
from dcs_nas.strategies.record import write_trial_record
from dcs_nas.strategies.trials import Outcome, Trials
from dcs_nas.training.retraining import train_trial
from dcs_nas.training.trainer import memory_format

log = logging.getLogger(__name__)
ReadProgress = Callable[[str], Progress] | None


class Strategy:
    """A way to search: making one checks settings, space and data before a run folder is written.

    Attributes:
        config: of the job, as the strategy uses it.
        data: the images; None where a table of trained networks takes their place.
        network: the supernet with its heads, where the strategy has one.
    """

    data: ReidData | None = None
    network: ReidNetwork | None = None

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def settings(self) -> SearchConfig:
        return self.config.section("search")

    def search(self, run: RunFolder) -> AnyGenotype:
        """Return the genotype found; ``run`` keeps what a resumed search needs."""
        raise NotImplementedError


class CellStrategy(Strategy):
    """A strategy on a space of cells that runs on one device.

    The run folder is that of a search. As in NNI's own DARTS space, ``none`` is no candidate: NNI's one-shot cells have
    a path of zero weight anyway, and no genotype that we derive holds it.
    """

    def __init__(self, config: Config, progress: ReadProgress) -> None:
        super().__init__(_on_one_device(config))
        settings, images = self.settings, config.data
        self.space: SpaceSpec = read_space(shipped_file("search_spaces", settings.space))
        self.spec: NetworkSpec = self.space.network(
            images.height, images.width, channels=settings.channels, cells=settings.cells
        )
        self.table = _whole_table(settings.trials.table)
        self.data = ReidData(self.config, progress=progress) if self.table is None else None

    def origin(self, note: str, epoch: int | None = None) -> Origin:
        """Return where a genotype comes from; ``note`` follows the strategy's name."""
        data = self.data.dataset.version if self.data is not None else f"table {self.settings.trials.table}"
        method = f"{self.settings.strategy}, {note}"
        return Origin(data=data, seed=self.config.seed, epoch=epoch, method=method, version=__version__)

    def with_heads(self, backbone: Any, identities: int) -> ReidNetwork:
        """Return the backbone with a Re-ID head."""
        set_scale(backbone, self.config.dcs.scale)
        height, width = self.config.data.height, self.config.data.width
        return memory_format(ReidNetwork(backbone, identities, height=height, width=width))


class TrialStrategy(CellStrategy):
    """Trains and scores one genotype after another, or looks them up in a table, and takes the best.

    Each is kept in ``trials/NNN``, with its score, and ``metrics.csv`` has a row for each.
    """

    def __init__(self, config: Config, progress: ReadProgress) -> None:
        super().__init__(config, progress)
        if self.data is not None and self.trains:
            own, trials = self.settings.validation, self.settings.trials
            self._images, self._held = self.data.training_and_validation(
                share=own or trials.validation, setting="search.validation" if own else "search.trials.validation"
            )
            self.data.identity_loader(self._images, stream=9)  # raises where a batch takes too many identities

    @property
    def trains(self) -> bool:
        """True where genotypes are scored."""
        return True

    def explore(self, trials: Trials) -> None:
        """Choose and score trials while they may begin."""
        raise NotImplementedError

    def search(self, run: RunFolder) -> Genotype:
        trials = Trials(self.settings.trials, run, self.evaluate)
        self.explore(trials)
        if trials.may_begin():
            log.warning("%s found no more new genotypes after %d trials", self.settings.strategy, len(trials.done))
        return trials.best().genotype

    def evaluate(self, genotype: Genotype, run: RunFolder) -> Outcome:
        """Return the outcome of a training, from the table or by a trial training; one that breaks down scores 0."""
        if self.table is not None:
            row = self.table[genotype].trainings[self.table.seeds[self.config.seed % len(self.table.seeds)]]
            return Outcome(score=row.validation_mAP / 100, parameters=row.parameters, seconds=row.seconds)
        assert self.data is not None
        assert self._held is not None
        seed_everything(self.config.seed)
        network = self.with_heads(fixed_network(genotype), len(set(self._images.labels.tolist())))
        parameters = count_parameters(network.backbone)
        try:
            score = train_trial(network, self.config, run=run, data=self.data, images=self._images, held=self._held)
        except TrainingError as error:
            return Outcome(score=0, parameters=parameters, problem=str(error))
        return Outcome(score=score, parameters=parameters)

    def trial_origin(self) -> Origin:
        trials = self.settings.trials
        scored = f"of table {trials.table}" if trials.table else f"of {trials.epochs} epochs"
        return self.origin(f"best of {trials.trials} trials {scored}")


class RandomTrials(TrialStrategy):
    """Genotypes drawn uniformly, each from its own stream; a single one is drawn and not trained."""

    @property
    def trains(self) -> bool:
        return self.settings.trials.trials > 1

    def search(self, run: RunFolder) -> Genotype:
        if self.trains:
            return super().search(run)
        genotype = self._draw(0, self.origin("drawn"))
        parameters = count_parameters(fixed_network(genotype))
        run.write_metrics(0, {"parameters": parameters})
        write_trial_record(run, 0, genotype)
        return genotype

    def explore(self, trials: Trials) -> None:
        while trials.may_begin():
            trials.score(self._draw(len(trials.done), self.trial_origin()))

    def _draw(self, number: int, origin: Origin) -> Genotype:
        random = np.random.default_rng(mix_seed(self.config.seed, 7, number))
        return CellKind().random_genotype(self.space, self.spec, random, origin=origin)


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(p.numel() for p in network.parameters())


def _whole_table(name: str | None) -> Table | None:
    if name is None:
        return None
    table = Table.read(name)
    if not (table.whole and table.seeds):
        raise InputError(
            f"the table {table.name} has {len(table)} architectures and is unfinished, expected a whole one; train the "
            f"others with benchmarks/bench_table.py {table.name}, or leave search.trials.table out"
        )
    return table


def _on_one_device(config: Config) -> Config:
    """Return the configuration with a single device; raise ``InputError`` where several are asked for."""
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if devices not in ("auto", "1", 1) or nodes > 1:
        raise InputError(
            f"search.strategy {config.section('search').strategy} runs on one device, but trainer.devices is {devices} "
            f"on {nodes} nodes; set trainer.devices=1 and trainer.num_nodes=1"
        )
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"devices": 1})})
