"""Section ``search.trials``: strategies that train one network after another."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings


class LocalConfig(Settings):
    """Local search (White et al., arXiv 2005.02960): from the best of ``start`` random genotypes to better neighbours.

    ``first`` is the default of their code, ``all`` their algorithm 1. Where no neighbour is better, the search restarts
    from a random genotype.
    """

    start: int = Field(default=10, ge=1, le=100_000)
    """Random genotypes to begin with."""
    neighbors: Literal["first", "all"] = "first"
    """Neighbours that are trained before a move: up to the first better one, or all."""


class PredictorConfig(Settings):
    """Search guided by a predictor of scores (as BANANAS, arXiv 1910.11858), fitted to all trials before each.

    Half of the ``candidates`` are neighbours of the ``parents`` best trials, half are random. The one with the largest
    expected improvement over the best trial is next (Jones, Schonlau, Welch, J. Global Optimization 13, 1998). It is
    trained for ``share`` of the epochs of a trial, and the ``finish`` best continue to the end, as in model-based
    successive halving (Klein et al., arXiv 2003.10865). The strategy proposals reads ``model`` and ``start`` alone.
    """

    model: Literal["gaussian_process", "forest"] = "gaussian_process"
    """A Gaussian process, or a forest of regression trees."""
    start: int = Field(default=10, ge=1, le=100_000)
    """Trials before the first prediction."""
    candidates: int = Field(default=100, ge=1, le=10_000)
    """Untrained genotypes to choose from."""
    parents: int = Field(default=5, ge=1, le=10_000)
    """Best trials whose neighbours are candidates."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of a trial's epochs after which the predictor learns its score; 1 for whole trainings alone."""
    finish: int = Field(default=2, ge=1, le=10_000)
    """Best trials that continue to the end, where ``share`` is below 1."""


class HalvingConfig(Settings):
    """Asynchronous successive halving (Li et al., arXiv 1810.05934, algorithm 2) over random genotypes."""

    factor: int = Field(default=2, ge=2, le=16)
    """Inverse of the share of a rung's trials that continue, and factor on their epochs."""
    rungs: int = Field(default=3, ge=1, le=16)
    """Number of rungs; the last trains all epochs."""

    def share(self, rung: int) -> float:
        """Return the share of all epochs after which rung 0, 1, ... ends.

        >>> [HalvingConfig().share(rung) for rung in range(3)]
        [0.25, 0.5, 1.0]
        """
        return 1 / self.factor ** (self.rungs - 1 - rung)


class ProposalsConfig(Settings):
    """Genotypes proposed by a supernet, decided by short trainings.

    The supernet scores the candidates with its own parameters. With ``supernet: paths`` its weights train for
    ``search.epochs`` along paths drawn uniformly (Guo et al., "Single Path One-Shot NAS", arXiv 1904.00420).
    ``bilevel`` trains it by the bilevel search of the configuration. ``draw: evolution`` finds half of the candidates
    by an evolution on the supernet's scores, as in the same paper. The first ``search.trials.predictor.start`` trials
    follow the order of the scores, the next that of the predictor.
    """

    supernet: Literal["paths", "bilevel"] = "paths"
    """Training of the supernet: along paths drawn uniformly, or by a bilevel search with the settings of search."""
    candidates: int = Field(default=60, ge=1, le=100_000)
    """Genotypes that the supernet scores."""
    draw: Literal["uniform", "evolution", "alphas"] = "uniform"
    """Origin of the candidates: drawn uniformly; half of them, and then neighbours of those that the supernet scores
    best (evolution); or drawn by the mixture weights of a supernet of kind bilevel (alphas)."""
    batches: int = Field(default=2, ge=1, le=1000)
    """Batches to measure the running statistics of each candidate."""
    weight: float = Field(default=0.5, ge=0, le=100)
    """Weight of the supernet's mAP beside the mAP of a trial when the best trial is chosen; 0 for the trial alone."""

    @model_validator(mode="after")
    def _check(self) -> ProposalsConfig:
        if self.draw == "alphas" and self.supernet == "paths":
            raise ValueError(
                "draw is 'alphas', but supernet is 'paths', whose alphas do not learn; set supernet to bilevel, "
                "or draw to uniform"
            )
        return self


Evidence = Literal["parameters", "naswot", "synflow", "jacobian", "gradient_norm"]


class TrialsConfig(Settings):
    """Strategies that train one network after another: ``TRIAL_STRATEGIES``.

    A network is trained as a search trains its weights. ``search.validation`` replaces ``validation`` unless it is 0. A
    ``table`` (``dcs_nas.space.table``) must be of the searched space; a search by it needs no data and counts the
    recorded seconds. ``evidence`` lists scores of ``dcs_nas.strategies.zero_cost``. ``population`` and ``sample`` are
    those of regularized evolution (arXiv 1802.01548, algorithm 1).
    """

    trials: int = Field(default=20, ge=1, le=100_000)
    """Networks to train at most; strategies that continue trainings begin so many."""
    epochs: int = Field(default=5, ge=1)
    """Epochs of each training."""
    parameters: int | None = Field(default=None, ge=1)
    """Parameters of each backbone: a genotype of cells is trained, and returned, at the width that comes nearest, so
    that heavy candidates have no advantage; null for the width of the space."""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """Share of the identities held out to score networks."""
    minutes: float | None = Field(default=None, gt=0)
    """Minutes of trainings, supernets and scores after which no trial begins; null for no limit."""
    population: int = Field(default=10, ge=1)
    """Networks kept by regularized evolution."""
    sample: int = Field(default=5, ge=1)
    """Networks of the population among which evolution chooses a parent."""
    table: Literal["bench_cells", "bench_chain"] | None = None
    """Table of a whole space, whose scores are read in place of training."""
    concurrency: int = Field(default=1, ge=1, le=1024)
    """Processes that train at the same time."""
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """GPUs of these processes, one each."""
    evidence: tuple[Evidence, ...] = ()
    """Scores without training that the predictor learns from."""
    local: LocalConfig = LocalConfig()
    """Options of the strategy local."""
    predictor: PredictorConfig = PredictorConfig()
    """Options of the predictor, of the strategies predictor and proposals."""
    halving: HalvingConfig = HalvingConfig()
    """Options of the strategy halving."""
    proposals: ProposalsConfig = ProposalsConfig()
    """Options of the strategy proposals."""

    @model_validator(mode="after")
    def _check(self) -> TrialsConfig:
        if self.sample > self.population:
            raise ValueError(f"sample {self.sample} of a population of {self.population}; lower sample to it or below")
        if self.gpus and self.concurrency != len(self.gpus):
            raise ValueError(
                f"concurrency is {self.concurrency}, but gpus names {len(self.gpus)}; set concurrency to one process "
                "for each GPU"
            )
        return self

    def epochs_of(self, share: float) -> int:
        """Return the whole number of epochs that is nearest to a share of them, at least one."""
        return max(1, round(share * self.epochs))

    @property
    def in_parallel(self) -> bool:
        """True if worker processes train."""
        return self.concurrency > 1 or bool(self.gpus)

    def check_share(self) -> None:
        """Refuse a ``predictor.share`` that leaves no whole epoch, or that a table has no score for."""
        share = self.predictor.share
        if self.table is not None and share not in (0.25, 0.5, 1):
            raise ValueError(
                f"trials.predictor.share is {share:g}, but a table has scores after a quarter, half and all of the "
                "epochs; set it to 0.25, 0.5 or 1"
            )
        empty = share < 1 and (share * self.epochs < 1 or self.epochs_of(share) == self.epochs)
        if self.table is None and empty:
            least = math.ceil(round(1 / min(share, 1 - share), 6))
            raise ValueError(
                f"trials.predictor.share {share:g} of {self.epochs} epochs leaves no whole epoch before or after; "
                f"set trials.epochs to {least} or more, or trials.predictor.share to 1"
            )

    def check_rungs(self) -> None:
        """Refuse rungs of ``halving`` that begin with less than an epoch, or that a table has no score for."""
        halving = self.halving
        most = halving.factor ** (halving.rungs - 1)
        if self.table is not None and most not in (1, 2, 4):
            raise ValueError(
                f"trials.halving begins with 1/{most} of the epochs, but a table has scores after a quarter, half and "
                "all of them; set factor 2 with rungs up to 3, or factor 4 with rungs 2"
            )
        if self.table is None and most > self.epochs:
            raise ValueError(
                f"trials.halving begins with 1/{most} of {self.epochs} epochs, less than one; "
                "raise trials.epochs, or lower trials.halving.rungs or factor"
            )


OWN_TRIALS = ("random", "evolution", "local", "predictor", "halving", "proposals")
TRIAL_STRATEGIES = (*OWN_TRIALS, "nni.random", "nni.evolution")
