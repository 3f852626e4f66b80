"""The base class of strategies by trials: propose, observe, best."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dcs_nas.config import Config
from dcs_nas.data.datamodule import ReidData
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import mix_seed, seed_everything
from dcs_nas.space import AnyGenotype, Origin, require_settings
from dcs_nas.space.table import Table
from dcs_nas.strategies.base import ReadProgress, Strategy, on_one_device
from dcs_nas.strategies.neighbors import Neighborhood
from dcs_nas.strategies.trials import Outcome, Proposal, Trial, TrialFolder, best_of, rate_by_score, working
from dcs_nas.training.retraining import train_trial

log = logging.getLogger(__name__)
JOURNAL = "journal.log"
JOINS = "DCS_NAS_JOINS"  # in the environment of a worker: the run folder of the search that it may join, not begin
_DRAWS = 100  # of a genotype, until one is new
_COLUMNS = {0.25: "quarter_mAP", 0.5: "half_mAP", 1.0: "validation_mAP"}


class TrialStrategy(Strategy):
    """Trains and scores one genotype after another, or looks them up in a table, and takes the best.

    A subclass says which is next, ``propose``. It may look at ``observed``, the trials that have ended, in their order,
    and draws from ``random(number)`` alone: so a resumed search, which observes the recorded trials again, continues as
    the uninterrupted one. Each trial is kept in ``trials/NNN``, and ``metrics.csv`` has a row for each.
    """

    preparation_seconds = 0.0
    """What ``begin`` took, or had taken before the search was interrupted."""
    exhausted = False
    """True once no new genotype was found."""

    def __init__(self, config: Config, progress: ReadProgress) -> None:
        super().__init__(on_one_device(config))
        self.observed: list[Trial] = []
        self._identities: list[str] = []
        self._table = _whole_table(self.settings.trials.table)
        if self._table is None or self.needs_images:
            self.data = ReidData(self.config, progress=progress)
        if self.data is not None and (self.trains or self.needs_images):
            own, trials = self.settings.validation, self.settings.trials
            self.images, self.held = self.data.load_training_and_validation(
                share=own or trials.validation, setting="search.validation" if own else "search.trials.validation"
            )
            self.data.make_identity_loader(self.images, stream=9)  # raises where a batch takes too many identities
        trials = self.settings.trials
        known = torch.cuda.device_count()
        if config.trainer.cuda and max(trials.gpus, default=-1) >= known:
            raise InputError(f"search.trials.gpus names GPU {max(trials.gpus)}, expected numbers below {known}")
        require_settings(self.space, {"trials.parameters": trials.parameters is not None})
        scored = f"of table {trials.table}" if trials.table else f"of {trials.epochs} epochs"
        self.trial_origin: Origin = self.origin(f"best of {trials.trials} trials {scored}")
        self.neighborhood = Neighborhood(self.space, self.spec, self.trial_origin)
        self._require_size()

    @property
    def trains(self) -> bool:
        """True if genotypes are scored."""
        return True

    @property
    def needs_images(self) -> bool:
        """True if the strategy reads images even with a table in place of trainings."""
        return False

    @property
    def kept(self) -> int | None:
        """The number of best trials whose checkpoints are kept for a later trial; None for all."""
        return None

    def begin(self, run: RunFolder) -> None:
        """Prepare what proposals need, in the run folder; called before the first and again on resume."""

    def propose(self, number: int, pending: Sequence[Proposal]) -> Proposal | None:
        """Return the proposal of trial ``number``; None if there is none before ``pending`` have ended.

        Args:
            number: from 0.
            pending: proposals whose trials have not ended; none where one process searches.
        """
        raise NotImplementedError

    def observe(self, trial: Trial) -> None:
        """Learn the outcome of a trial."""
        self.observed.append(trial)
        self._identities.append(trial.genotype.identity())

    def best(self) -> Trial:
        """Return the best trial, whose genotype is the search's result."""
        return best_of(self.observed, self.rate)

    def rate(self, trial: Trial) -> tuple[float, float]:
        """Return the key by which trials are ranked."""
        return rate_by_score(trial)

    def search(self, run: RunFolder) -> AnyGenotype:
        trials = self.open_trials(run)
        self.begin(run)
        if self.settings.trials.in_parallel or (run / JOURNAL).is_file():
            from dcs_nas.strategies.parallel import search_in_parallel

            search_in_parallel(self, trials)
        else:
            for trial in trials.iterate():
                self.observe(trial)
            while trials.may_begin() and (proposal := self.next_proposal(trials, ())) is not None:
                number = len(trials.done)
                if self._table is None:
                    trials.begin(number, proposal)
                trial = trials.write(number, proposal, self.evaluate(number, proposal, trials))
                trials.end(trial)
                self.observe(trial)
        drawn = sum(trial.continues is None for trial in trials.done)
        if self.exhausted and drawn < self.settings.trials.trials:
            log.warning("%s found no more new genotypes after %d trials", self.settings.strategy, drawn)
        trials.remove_checkpoints()
        return self.best().genotype

    def open_trials(self, run: RunFolder) -> TrialFolder:
        """Return the trials of a run folder, of which this strategy ranks and keeps the best."""
        settings = self.settings
        return TrialFolder(settings.trials, run, self.space, most=settings.most_trials, rate=self.rate, kept=self.kept)

    def next_proposal(self, trials: TrialFolder, pending: Sequence[Proposal]) -> Proposal | None:
        """Return the proposal of the next trial, that of an interrupted one first, with the seconds that it took.

        Those of ``begin`` count for the first.
        """
        number = len(trials.done) + len(pending)
        if (interrupted := trials.read_interrupted(number)) is not None:
            return interrupted
        began = self.clock()
        proposal = self.propose(number, pending)
        if proposal is None:
            return None
        genotype = self.fit(proposal.genotype)
        seconds = self.clock() - began + (0 if number else self.preparation_seconds)
        return proposal.model_copy(update={"genotype": genotype, "proposal_seconds": round(seconds, 3)})

    def _require_size(self) -> None:
        genotype = self.kind.random_genotype(self.space, self.spec, self.random(0), origin=self.trial_origin)
        if self._table is not None:
            self._table[genotype]  # raises where the width or the images are others
        try:
            self.fit(genotype)
        except InputError as error:
            raise InputError(f"search.trials.parameters is {self.settings.trials.parameters}: {error}") from None

    def fit(self, genotype: AnyGenotype) -> AnyGenotype:
        """Return the genotype at the width of ``search.trials.parameters``, where that is set."""
        parameters = self.settings.trials.parameters
        return genotype if parameters is None else self.kind.fit_width(genotype, parameters)

    def clock(self) -> float:
        """Return a time in seconds: the processor's with a table, whose seconds are the processor's too."""
        return time.process_time() if self._table is not None else time.monotonic()

    def evaluate(self, number: int, proposal: Proposal, trials: TrialFolder) -> Outcome:
        """Return the outcome of a training, from the table or by a trial training; one that breaks down scores 0."""
        if self._table is not None:
            row = self._table[proposal.genotype].trainings[self._table.seeds[self.config.seed % len(self._table.seeds)]]
            seconds = row.seconds * (proposal.share - proposal.after)
            score = getattr(row, _COLUMNS[proposal.share]) / 100
            return Outcome(score=score, parameters=row.parameters, seconds=seconds)
        began = self.clock()
        seed_everything(self.config.seed)
        network = self.with_heads(
            self.kind.build_fixed_network(proposal.genotype), len(set(self.images.labels.tolist()))
        )
        result: dict[str, Any] = {"parameters": count_parameters(network.backbone)}
        try:
            result["score"] = self._train(number, proposal, trials, network)
        except (TrainingError, torch.OutOfMemoryError) as error:
            if isinstance(error, torch.OutOfMemoryError) and not working(trials.done):
                raise  # not this genotype alone
            result |= {"score": 0, "problem": " ".join(str(error).split())[:300]}
            torch.cuda.empty_cache()
        return Outcome(**result, seconds=round(self.clock() - began, 3))

    def _train(self, number: int, proposal: Proposal, trials: TrialFolder, network: Any) -> float:
        assert self.data is not None
        assert self.held is not None
        run = trials.folder(number if proposal.continues is None else proposal.continues)
        epochs = self.settings.trials.epochs_of(proposal.share)
        return train_trial(
            network, self.config, run=run, data=self.data, images=self.images, held=self.held, epochs=epochs
        )

    def random(self, number: int) -> np.random.Generator:
        """Return the generator that trial ``number`` draws from."""
        return np.random.default_rng(mix_seed(self.config.seed, 7, number))

    def list_known(self, pending: Sequence[Proposal]) -> set[str]:
        """Return the identities of all genotypes tried or being tried."""
        return {*self._identities, *(proposal.genotype.identity() for proposal in pending)}

    def draw(self, random: np.random.Generator, known: set[str]) -> AnyGenotype | None:
        """Return a genotype drawn uniformly that is not known, None where a hundred draws give none."""
        for _ in range(_DRAWS):
            genotype = self.kind.random_genotype(self.space, self.spec, random, origin=self.trial_origin)
            if genotype.identity() not in known:
                return genotype
        return None

    def draw_new(self, number: int, pending: Sequence[Proposal]) -> Proposal | None:
        """Return the proposal of a new random genotype."""
        genotype = self.draw(self.random(number), self.list_known(pending))
        self.exhausted = genotype is None
        return None if genotype is None else Proposal(genotype=genotype)


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters())


def _whole_table(name: str | None) -> Table | None:
    if name is None:
        return None
    table = Table.read(name)
    if table.whole and not table.seeds:
        raise InputError(
            f"the table {table.name} has no seed with which all architectures were trained, expected one; train the "
            f"others with benchmarks/bench_table.py {table.name}, or leave search.trials.table out"
        )
    if not table.whole:
        raise InputError(
            f"the table {table.name} has {len(table)} architectures and is unfinished, expected a whole one; train the "
            f"others with benchmarks/bench_table.py {table.name}, or leave search.trials.table out"
        )
    return table
