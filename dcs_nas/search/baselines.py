"""Baselines on the space, data and loss of a search: random genotypes, and NNI 3.0's own strategies.

NNI's one-shot strategies build their own supernet of our ``CellSpace`` and take their own steps. Its multi-trial ones
run in this process by its sequential engine: no experiment manager, no port, nothing written outside the run folder.
As in NNI's own DARTS space, ``none`` is no candidate for them: the one-shot cells have a path of zero weight anyway,
and no genotype that we derive holds it. NNI's samples may let a node read one state twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import nn

from dcs_nas import __version__
from dcs_nas.config import Config, SearchConfig
from dcs_nas.config.idle import idle_settings
from dcs_nas.data.augment import build_augment
from dcs_nas.data.datamodule import HALVES, ReidData
from dcs_nas.data.images import Progress
from dcs_nas.errors import InputError, TrainingError, choices
from dcs_nas.files import write_text
from dcs_nas.models.blocks import set_scale
from dcs_nas.models.cell_kind import cells_of_sample, random_cells
from dcs_nas.models.cell_space import CellSpace, fixed_network
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.nni_imports import DARTS, GumbelDARTS, Random, RegularizedEvolution, Strategy
from dcs_nas.runs import MetricsFile, RunFolder, logging_to
from dcs_nas.search.nni_trials import explore
from dcs_nas.search.oneshot import OneShotTraining, write_architecture
from dcs_nas.search.trials import Evaluate, Outcome, Trials, write_best
from dcs_nas.seeds import mix_seed, seed_everything
from dcs_nas.space import Genotype, NetworkSpec, Origin, SpaceSpec, load_genotype, read_space, shipped_file
from dcs_nas.space.table import Table
from dcs_nas.training.checkpoints import LAST, is_damaged
from dcs_nas.training.error_messages import training_errors
from dcs_nas.training.objective import build_objective, require_plain_statistics
from dcs_nas.training.trainer import EpochLog, fit, make_trainer, memory_format, without_known_warnings
from dcs_nas.training.trial_training import train_and_score
from dcs_nas.training.validation import validate

log = logging.getLogger(__name__)


def run_baseline(
    strategy: str,
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> Genotype:
    """Search by ``strategy``, one of ``STRATEGIES``, and give the genotype found.

    The run folder is that of a search. Strategies of many trials keep each in ``trials/NNN``, with its genotype and
    score, and ``metrics.csv`` has a row for each. Raises as ``run_search`` does.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"unknown baseline '{strategy}'; {choices(strategy, STRATEGIES)}")
    RunFolder.require_free(folder)
    job = _Job(strategy, _on_one_device(strategy, config), progress)
    search = STRATEGIES[strategy](job)
    with RunFolder.open(folder, config, resume=resume, overwrite=overwrite) as run:
        if (run / "genotype.yaml").is_file() and not is_damaged(run / "checkpoints" / LAST):
            log.info("%s is finished already", folder)
            genotype = load_genotype(run / "genotype.yaml")
            assert isinstance(genotype, Genotype)
            return genotype
        if job.table is None:
            job.data.save_labels(run.path)
        with logging_to(run / "log.txt"), without_known_warnings(), training_errors(config, "search"):
            for remark in idle_settings(config, "search", {}):
                log.warning("%s", remark)
            genotype = search(run)
        write_text(run / "genotype.yaml", genotype.to_yaml())
        return genotype


class _Job:
    """What all strategies start from; making one checks settings, space and data."""

    def __init__(self, strategy: str, config: Config, progress: Callable[[str], Progress] | None) -> None:
        self.strategy, self.config = strategy, config
        self.settings: SearchConfig = config.section("search")
        self.space: SpaceSpec = read_space(shipped_file("search_spaces", self.settings.space))
        size = config.data.height, config.data.width
        self.network: NetworkSpec = self.space.network(
            *size, channels=self.settings.channels, cells=self.settings.cells
        )
        self.table = Table.read(self.settings.trials.table) if self.settings.trials.table else None
        if self.table is not None and not (self.table.whole and self.table.seeds):
            raise InputError(
                f"the table {self.table.name} has {len(self.table)} architectures and is unfinished, expected a whole "
                f"one; train the others with benchmarks/bench_table.py {self.table.name}, or leave "
                "search.trials.table out"
            )
        self._progress = progress
        if self.table is None:
            self.data  # noqa: B018  bad data shall be told before a run folder is made

    @cached_property
    def data(self) -> ReidData:
        """The images, which a search that reads a table does not need."""
        return ReidData(self.config, progress=self._progress)

    def origin(self, note: str, epoch: int | None = None) -> Origin:
        version = self.data.dataset.version if self.table is None else f"table {self.table.name}"
        method = f"{self.strategy}, {note}"
        return Origin(data=version, seed=self.config.seed, epoch=epoch, method=method, version=__version__)

    def nni_space(self) -> CellSpace:
        """The space as NNI is given it: without ``none``."""
        return CellSpace(self.space.model_copy(update={"operations": tuple(self.space.computing)}), self.network)

    def reid(self, backbone: Any, people: int) -> ReidNetwork:
        """The backbone with a Re-ID head."""
        set_scale(backbone, self.config.dcs.scale)
        height, width = self.config.data.height, self.config.data.width
        return memory_format(ReidNetwork(backbone, people, height=height, width=width))


Search = Callable[[RunFolder], Genotype]


def _one_shot(job: _Job) -> Search:
    """NNI's DARTS or GumbelDARTS."""
    config, settings, data = job.config, job.settings, job.data
    halves, held = data.search_halves(share=settings.weight_share, validation=settings.validation)
    loaders = {
        name: data.identity_loader(halves[half], stream=i, what=half)
        for i, (name, half) in enumerate(zip(("train", "val"), HALVES))
    }
    seed_everything(config.seed)
    strategy = {"nni.darts": DARTS, "nni.gumbel": GumbelDARTS}[job.strategy](
        arc_learning_rate=settings.arch_lr, gradient_clip_val=settings.grad_clip, warmup_epochs=settings.warmup_epochs
    )
    supernet = strategy.mutate_model(job.nni_space())
    network = job.reid(supernet, data.num_people)
    objective = build_objective(config.loss, people=data.num_people, features=network.num_features)

    def search(run: RunFolder) -> Genotype:
        augment = build_augment(config)
        validation = partial(validate, network, data, held, metric=config.evaluate.metric) if held is not None else None
        training = OneShotTraining(
            network, objective, augment, config, halves=halves, validation=validation, epoch_log=EpochLog(run)
        )
        module = strategy.configure_oneshot_module(training)
        alphas = _in_fixed_order(module)
        module.arch_parameters = lambda: alphas

        def genotype(epoch: int) -> Genotype:
            origin = job.origin("one-shot", epoch)
            return cells_of_sample(module.export(), job.space, job.network, name=job.space.name, origin=origin)

        def record(epoch: int) -> None:
            write_architecture(run / f"architecture/epoch_{epoch:03d}.yaml", supernet, genotype(epoch), epoch)

        training.after_epoch = record
        fit(make_trainer(config, run, epochs=settings.epochs), module, CombinedLoader(loaders, "min_size"), run)
        return genotype(settings.epochs - 1)

    return search


def _in_fixed_order(module: Any) -> list[nn.Parameter]:
    """NNI's alphas in the modules' order. Its own is a set's, to which a checkpoint of their optimizer does not fit."""
    alphas = {id(alpha) for alpha in module.arch_parameters()}
    return [parameter for parameter in module.parameters() if id(parameter) in alphas]


def _by_trials(job: _Job) -> Search:
    """NNI's Random or RegularizedEvolution."""
    evaluate = _trial_evaluation(job)
    origin = job.origin(_note(job))

    def to_genotype(sample: Mapping[str, Any]) -> Genotype:
        return cells_of_sample(sample, job.space, job.network, name=job.space.name, origin=origin)

    def search(run: RunFolder) -> Genotype:
        trials = Trials(job.settings.trials, run, evaluate)
        explore(_nni_strategy(job), job.nni_space(), trials, to_genotype)
        if trials.may_begin():
            log.warning("%s found no more new genotypes after %d trials", job.strategy, len(trials.done))
        return trials.best().genotype

    return search


def _random(job: _Job) -> Search:
    """Genotypes drawn uniformly, each from its own stream; a single one is drawn and not trained."""
    alone = job.settings.trials.trials == 1
    evaluate = None if alone else _trial_evaluation(job)

    def draw(number: int) -> Genotype:
        random = np.random.default_rng(mix_seed(job.config.seed, 7, number))
        origin = job.origin("drawn" if alone else _note(job))
        return random_cells(job.space, job.network, random, name=job.space.name, origin=origin)

    def search(run: RunFolder) -> Genotype:
        if evaluate is None:
            genotype = draw(0)
            parameters = _parameters(job.reid(fixed_network(genotype), job.data.num_people))
            MetricsFile(run / "metrics.csv").append(0, {"parameters": parameters})
            write_best(run / "architecture/epoch_000.yaml", genotype, 0)
            return genotype
        trials = Trials(job.settings.trials, run, evaluate)
        while trials.may_begin():
            trials.score(draw(len(trials.done)))
        return trials.best().genotype

    return search


STRATEGIES: dict[str, Callable[[_Job], Search]] = {
    "random": _random,
    "nni.darts": _one_shot,
    "nni.gumbel": _one_shot,
    "nni.random": _by_trials,
    "nni.evolution": _by_trials,
}


def _trial_evaluation(job: _Job) -> Evaluate:
    """How a genotype is trained and scored; a training that breaks down scores 0."""
    if job.table is not None:
        return partial(_look_up, job.table, job.config.seed)
    require_plain_statistics(job.config.loss)
    own = job.settings.validation
    images, held = job.data.training_and_validation(
        share=own or job.settings.trials.validation,
        setting="search.validation" if own else "search.trials.validation",
    )
    assert held is not None
    job.data.identity_loader(images, stream=9)
    people = len(set(images.labels.tolist()))

    def evaluate(genotype: Genotype, run: RunFolder) -> Outcome:
        seed_everything(job.config.seed)
        network = job.reid(fixed_network(genotype), people)
        parameters = _parameters(network)
        try:
            score = train_and_score(network, job.config, data=job.data, images=images, held=held, run=run)
        except TrainingError as error:
            return Outcome(score=0, parameters=parameters, problem=str(error))
        return Outcome(score=score, parameters=parameters)

    return evaluate


def _look_up(table: Table, seed: int, genotype: Genotype, run: RunFolder) -> Outcome:
    """Return what the table holds of one training: the score of identities held out, with the seed whose turn it is."""
    row = table[genotype].trainings[table.seeds[seed % len(table.seeds)]]
    return Outcome(score=row.validation_mAP / 100, parameters=row.parameters, seconds=row.seconds)


def _nni_strategy(job: _Job) -> Strategy:
    trials, seed = job.settings.trials, job.config.seed
    if job.strategy == "nni.random":
        return Random(seed=seed)
    return RegularizedEvolution(population_size=trials.population, sample_size=trials.sample, seed=seed)


def _note(job: _Job) -> str:
    trials = job.settings.trials
    return f"best of {trials.trials} trials " + (
        f"of table {trials.table}" if trials.table else f"of {trials.epochs} epochs"
    )


def _parameters(network: ReidNetwork) -> int:
    return sum(p.numel() for p in network.backbone.parameters())


def _on_one_device(strategy: str, config: Config) -> Config:
    """The configuration with a single device; ``InputError`` where several are asked for."""
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if devices not in ("auto", "1", 1) or nodes > 1:
        raise InputError(
            f"search.strategy {strategy} runs on one device, but trainer.devices is {devices} on {nodes} nodes; "
            "set trainer.devices=1 and trainer.num_nodes=1"
        )
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"devices": 1})})
