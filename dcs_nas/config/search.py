"""Section ``search``: relaxation, cost term, collapse guard, derivation, trials, and the search itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dcs_nas.settings import FILE_OR_NAME, Settings


class RelaxationConfig(Settings):
    """Mixture weights from alphas (``dcs_nas.models.relaxation``)."""

    kind: Literal["softmax", "gumbel", "gumbel_softmax", "dirichlet"] = "softmax"
    """Function from alphas to mixture weights: softmax (DARTS), gumbel (GDAS), gumbel_softmax, or dirichlet (DrNAS)."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature in the first epoch; lower values make choices harder."""
    temperature_end: float | None = Field(default=None, gt=0)
    """Temperature in the last epoch; null keeps the first one."""
    schedule: Literal["linear", "exponential"] = "linear"
    """Form of the change of temperature from the first to the last epoch."""
    partial_channels: int = Field(default=1, ge=1, le=64)
    """K: the operations see 1/K of the channels (PC-DARTS), which saves memory; 1 for all."""
    edge_normalization: bool | None = None
    """Weights of the edges into a node beside those of the operations (PC-DARTS); by default with partial
    channels."""
    anchor: float = Field(default=0.0, ge=0)
    """Weight of DrNAS' regulariser, which keeps the distribution near the uniform one; for dirichlet."""

    @model_validator(mode="after")
    def _check(self) -> RelaxationConfig:
        if self.anchor and self.kind != "dirichlet":
            raise ValueError(f"anchor is {self.anchor:g}, but kind is '{self.kind}'; only dirichlet has an anchor")
        return self

    def at(self, epoch: int, epochs: int) -> float:
        """Return the temperature of an epoch, from 0, of ``epochs``.

        >>> [RelaxationConfig(temperature=10, temperature_end=2).at(e, 5) for e in (0, 2, 4)]
        [10.0, 6.0, 2.0]
        """
        if self.temperature_end is None or epochs < 2:
            return self.temperature
        share = epoch / (epochs - 1)
        if self.schedule == "linear":
            return self.temperature + share * (self.temperature_end - self.temperature)
        return self.temperature * (self.temperature_end / self.temperature) ** share


class CostConfig(Settings):
    """Cost of the searched network as a term of the architecture loss (``dcs_nas.losses.cost``).

    Units: multiply-adds (``flops``), numbers (``parameters``), microseconds per batch (``latency``). The published
    ``beta`` is 0.07 with a target, 0.6 without, 0.5 for ``logarithmic``.
    """

    kind: Literal["none", "flops", "parameters", "latency"] = "none"
    """Cost that counts in the architecture loss: multiply-adds, parameters, measured latency, or none."""
    form: Literal["additive", "multiplicative", "logarithmic"] = "additive"
    """Form of the cost in the loss: added beyond the target, as a factor, or its logarithm's power as a factor
    (DCS-DNAS)."""
    weight: float = Field(default=1.0, ge=0, le=1e9)
    """Weight of the cost term."""
    target: float | None = Field(default=None, gt=0, le=1e18)
    """Cost that the network may have, in the cost's own unit."""
    beta: float | None = Field(default=None, gt=0, le=100)
    """Exponent of the cost; null for the published one of the form."""
    latency_table: Path | None = None
    """File of `dcs-nas profile CONFIG --latency-table FILE`, for kind latency."""
    other_latency_table: bool = False
    """Accept a table of another device or space."""

    @model_validator(mode="after")
    def _check_kind(self) -> CostConfig:
        if self.kind == "none":
            for name, field in CostConfig.model_fields.items():
                if getattr(self, name) != field.default:
                    raise ValueError(f"{name} is set, but kind is 'none'; name a kind: flops, parameters or latency")
        if self.kind == "latency" and self.latency_table is None:
            raise ValueError(
                "kind is 'latency' and latency_table is not set; measure one with "
                "dcs-nas profile CONFIG --latency-table FILE"
            )
        if self.kind != "latency" and (self.latency_table is not None or self.other_latency_table):
            raise ValueError(f"a latency table is set, but kind is '{self.kind}'; set kind to latency, or leave it out")
        return self

    @model_validator(mode="after")
    def _check_form(self) -> CostConfig:
        if self.kind != "none" and self.form == "additive":
            if self.target is None:
                raise ValueError("form is 'additive' and target is not set; give the cost that the network may have")
            if self.beta is not None:
                raise ValueError("beta is set, but form is 'additive'; beta is the exponent of form multiplicative")
        if self.form == "logarithmic" and self.target is not None:
            raise ValueError("target is set, but form is 'logarithmic', which has none; leave it out")
        if self.form != "additive" and not self.weight:
            raise ValueError(f"weight is 0 and form is '{self.form}', which leaves no loss; set a weight above 0")
        return self


class GuardConfig(Settings):
    """Guard against collapse onto skip connections; its figures are logged after every epoch.

    A collapse is a normal cell of more than ``max_skips`` skips (DARTS+, arXiv 1909.06035: 2), or a dominant eigenvalue
    of the architecture loss's Hessian whose mean over ``window`` epochs grew by more than 1 / ``ratio`` in as many
    (arXiv 1909.09656: 5 and 0.75). ``stop`` keeps the last genotype before the collapse; ``cap`` limits the skips of a
    derived cell (P-DARTS, arXiv 1904.12760).
    """

    action: Literal["log", "stop", "cap"] = "log"
    """Action at a collapse onto skip connections: log it, stop the search, or cap the skips of a cell."""
    max_skips: int | None = Field(default=None, ge=0)
    """Skip connections that a normal cell may have; 2 in DARTS+."""
    eigenvalue_iterations: int = Field(default=5, ge=0, le=1000)
    """Power iterations for the dominant Hessian eigenvalue after each epoch; 0 saves their time."""
    eigenvalue_images: int = Field(default=8, ge=2)
    """Images that the eigenvalue is measured on; more are steadier and slower."""
    window: int = Field(default=5, ge=1)
    """Epochs over which the eigenvalue is averaged."""
    ratio: float = Field(default=0.75, gt=0, lt=1)
    """A collapse is growth of the eigenvalue by more than 1 / ratio within a window."""
    gap: bool = True
    """Measure the loss of the discrete network after every epoch too."""

    @model_validator(mode="after")
    def _check(self) -> GuardConfig:
        if self.action == "cap" and self.max_skips is None:
            raise ValueError("action is 'cap' and max_skips is not set; give the number of skips that a cell may keep")
        if self.action == "stop" and self.max_skips is None and not self.eigenvalue_iterations:
            raise ValueError("action is 'stop' with nothing to stop at; set max_skips or eigenvalue_iterations")
        return self


class PerturbationConfig(Settings):
    """Derivation by perturbation (DARTS-PT, arXiv 2108.04392)."""

    batches: int = Field(default=2, ge=1)
    """Batches of the architecture half for each test of an operation; more are steadier and slower."""
    tune_steps: int = Field(default=0, ge=0)
    """Steps of the weights after each choice; 0 for none."""
    lr: float = Field(default=0.001, gt=0)
    """Learning rate of the steps."""


class RetrievalConfig(Settings):
    """Derivation by retrieval among the identities held out."""

    candidates: int = Field(default=30, ge=1, le=100_000)
    """Genotypes, drawn by the alphas, to compare."""
    batches: int = Field(default=8, ge=1, le=1000)
    """Batches of the weights' half to measure the running statistics of each genotype."""


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
    gpus: tuple[int, ...] = ()
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


OWN_TRIALS = ("random", "evolution", "local", "predictor", "halving", "proposals")
TRIAL_STRATEGIES = (*OWN_TRIALS, "nni.random", "nni.evolution")


class MemoryConfig(Settings):
    """Prototypes of identities in place of a classifier (``dcs_nas.losses.reid.PrototypeMemory``).

    The alphas' memory of ``auto`` is updated by both halves; with ``both`` each memory is updated by its own half
    (MSINet's twins contrastive search).
    """

    levels: Literal["auto", "both"] = "auto"
    """Level of the search that has a memory of prototypes: the alphas where `identity_overlap` is below 1 (auto),
    or both levels one each."""
    temperature: float = Field(default=0.05, gt=0, le=100)
    """Divides the similarities to the prototypes; lower values make the term harder."""
    momentum: float = Field(default=0.2, ge=0, lt=1)
    """Share of a prototype that stays at each update."""
    update: Literal["mean", "each"] = "mean"
    """A prototype moves by the mean of its identity's images in a batch (SpCL), or by each in turn (MSINet)."""


class SearchConfig(Settings):
    """The search: weights by SGD and a cosine schedule; in a bilevel search, architecture parameters (alphas) by Adam.

    Each identity has images in both halves where ``identity_overlap`` is 1; below, only that share of the identities is
    in both halves, and the alphas learn from losses without a classifier (``memory``). The derivation ``retrieval``
    needs a supernet that trains sampled paths.
    """

    space: Annotated[str, FILE_OR_NAME]
    """Search space: a file, or the name of one in search_spaces/."""
    channels: int | None = Field(default=None, ge=1, le=2048)
    """Width of the first cell, in place of the space's; lower it where memory runs out."""
    cells: int | None = Field(default=None, ge=1, le=100)
    """Number of cells, in place of the space's."""
    epochs: int = Field(default=50, ge=1)
    """Epochs of the search."""
    warmup_epochs: int = Field(default=0, ge=0)
    """First epochs in which only weights move and the alphas stay."""
    weight_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the training images that move the weights; the others move the alphas. With 1 the alphas stay as they
    begin, so that relaxation `gumbel` draws paths uniformly (single-path one-shot); derivation `retrieval` chooses."""
    lr: float = Field(default=0.025, gt=0)
    """Learning rate of the weights in the first epoch (SGD)."""
    lr_min: float = Field(default=0.001, ge=0)
    """Learning rate of the weights at the end of the cosine."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the weights' SGD."""
    weight_decay: float = Field(default=3e-4, ge=0)
    """Weight decay of the weights."""
    grad_clip: float = Field(default=5.0, gt=0)
    """Largest norm of the weights' gradient."""
    arch_lr: float = Field(default=3e-4, gt=0)
    """Learning rate of the alphas (Adam); raise it where they hardly move in few epochs."""
    arch_betas: tuple[float, float] = (0.5, 0.999)
    """Betas of the alphas' Adam."""
    arch_weight_decay: float = Field(default=1e-3, ge=0)
    """Weight decay of the alphas."""
    strategy: Literal[
        "bilevel", "random", "evolution", "local", "predictor", "halving", "proposals",
        "nni.darts", "nni.gumbel", "nni.random", "nni.evolution",
    ] = "proposals"  # fmt: skip
    """Search strategy: by a supernet (bilevel, and NNI's darts and gumbel), or by training one
    network after another (all others, of which proposals trains a supernet too)."""
    trials: TrialsConfig = TrialsConfig()
    """Strategies that train one network after another."""
    cost: CostConfig = CostConfig()
    """Cost of the searched network as a term of the loss."""
    order: Literal[1, 2] = 1
    """Order of the alphas' gradient: 1, or 2 through the next step of the weights, which takes longer."""
    hessian: Literal["exact", "finite_difference"] = "exact"
    """Second order by exact Hessian-vector products, or by the published finite differences."""
    relaxation: RelaxationConfig = RelaxationConfig()
    """Mixture weights from alphas."""
    identity_overlap: float = Field(default=1.0, ge=0, le=1)
    """Share of the identities that are in both halves; below 1 the alphas learn from losses without a classifier."""
    memory: MemoryConfig = MemoryConfig()
    """Prototypes of identities in place of a classifier."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the identities that are in neither half and measure retrieval; 0 for none."""
    validate_every: int = Field(default=5, ge=1)
    """Epochs between two measurements of retrieval."""
    choose: Literal["last", "best"] = "last"
    """Genotype of the last epoch, or of the best retrieval among the identities held out."""
    derivation: Literal["strongest", "perturbation", "retrieval"] = "strongest"
    """Derivation of the genotype: by the strongest alphas, by perturbation (DARTS-PT), or by retrieval of drawn
    candidates."""
    perturbation: PerturbationConfig = PerturbationConfig()
    """Derivation by perturbation."""
    retrieval: RetrievalConfig = RetrievalConfig()
    """Derivation by retrieval."""
    guard: GuardConfig = GuardConfig()
    """Figures and actions against a collapse onto skip connections."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass: less memory, more time."""

    @model_validator(mode="after")
    def _check_choice(self) -> SearchConfig:
        if self.choose == "best" and not self.validation:
            raise ValueError("choose is 'best', but validation is 0; hold out a share of the identities, e.g. 0.1")
        if self.choose == "best" and self.derivation != "strongest":
            raise ValueError(f"choose 'best' excludes derivation '{self.derivation}', as both choose; set one of them")
        if self.guard.action == "stop" and self.derivation != "strongest":
            raise ValueError(
                f"guard.action 'stop' excludes derivation '{self.derivation}', as both choose; set one of them"
            )
        if self.derivation == "retrieval" and not self.validation:
            raise ValueError(
                "derivation is 'retrieval', but validation is 0; hold out a share of the identities, e.g. 0.1"
            )
        if self.order == 2 and self.hessian == "exact" and self.checkpoint_activations:
            raise ValueError("checkpoint_activations and hessian 'exact' exclude each other; use finite_difference")
        return self

    @model_validator(mode="after")
    def _check(self) -> SearchConfig:
        if self.warmup_epochs >= self.epochs and self.weight_share < 1:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves no epoch of {self.epochs} in which alphas would move"
            )
        return self

    @model_validator(mode="after")
    def _check_resting_alphas(self) -> SearchConfig:
        of_bilevel = self.strategy == "proposals" and self.trials.proposals.supernet == "bilevel"
        if self.weight_share < 1 or (self.strategy in TRIAL_STRATEGIES and not of_bilevel):
            return self
        conflicts = {
            "trials.proposals.supernet is bilevel": of_bilevel,
            f"strategy is {self.strategy}": self.strategy != "bilevel",
            f"derivation is {self.derivation}": self.derivation != "retrieval",
            f"identity_overlap is {self.identity_overlap:g}": self.identity_overlap < 1,
            "memory is set": self.memory != MemoryConfig(),
            "cost is set": self.cost != CostConfig(),
        }
        conflict = next((text for text, is_so in conflicts.items() if is_so), None)
        if conflict is not None:
            raise ValueError(
                f"weight_share is 1, which leaves no images for the alphas, but {conflict}, which needs them to learn; "
                "set weight_share below 1, e.g. 0.5"
            )
        return self

    @model_validator(mode="after")
    def _check_memory(self) -> SearchConfig:
        if self.memory != MemoryConfig() and self.memory.levels == "auto" and self.identity_overlap == 1:
            raise ValueError(
                "memory is set, but memory.levels is 'auto' and identity_overlap is 1, which needs no memory; set "
                "memory.levels to both, or identity_overlap below 1"
            )
        return self

    @property
    def has_memory(self) -> bool:
        """True if the alphas learn from prototypes in place of a classifier."""
        return self.identity_overlap < 1 or self.memory.levels == "both"

    @model_validator(mode="after")
    def _check_strategy(self) -> SearchConfig:
        if self.strategy != "bilevel" and self.cost != CostConfig():
            raise ValueError(f"strategy {self.strategy} has no cost term; leave cost out, or set strategy to bilevel")
        if self.trials.table is not None and self.strategy not in TRIAL_STRATEGIES:
            raise ValueError(
                f"trials.table is '{self.trials.table}', but strategy {self.strategy} trains a supernet; leave it "
                f"out, or choose a strategy of trials: {', '.join(TRIAL_STRATEGIES)}"
            )
        if self.trials.table is not None and self.trials.parameters is not None:
            raise ValueError(
                f"trials.parameters is {self.trials.parameters}, but trials.table is '{self.trials.table}', whose "
                "networks all have the width of their space; leave one of them out"
            )
        if self.trials.table is not None and self.trials.table != self.space:
            raise ValueError(f"trials.table is '{self.trials.table}', but space is '{self.space}'; set both alike")
        return self

    @model_validator(mode="after")
    def _check_trials(self) -> SearchConfig:
        trials = self.trials
        first = {
            "evolution": ("population", trials.population),
            "nni.evolution": ("population", trials.population),
            "local": ("local.start", trials.local.start),
            "predictor": ("predictor.start", trials.predictor.start),
        }
        name, count = first.get(self.strategy, ("", 0))
        if count >= trials.trials:
            verb = "evolve" if name == "population" else "choose"
            raise ValueError(
                f"trials.{name} {count} of {trials.trials} trials leaves none to {verb}; "
                f"lower trials.{name} or raise trials.trials"
            )
        if trials.concurrency > 1 and self.strategy not in OWN_TRIALS:
            raise ValueError(
                f"trials.concurrency is {trials.concurrency}, but strategy {self.strategy} runs in one process; leave "
                f"it out, or choose one of {', '.join(OWN_TRIALS)}"
            )
        if self.strategy == "halving":
            self._check_rungs()
        if self.strategy == "predictor":
            self._check_share()
        if self.strategy == "proposals" and trials.evidence and trials.trials <= trials.predictor.start:
            raise ValueError(
                f"trials.evidence is read by a predictor after {trials.predictor.start} trials, but trials.trials is "
                f"{trials.trials}; lower trials.predictor.start, or leave evidence out"
            )
        return self

    @property
    def most_trials(self) -> int:
        """The largest number of trials of the strategy, with those that continue others."""
        trials = self.trials
        if self.strategy == "halving":
            return trials.trials * trials.halving.rungs
        if self.strategy == "predictor" and trials.predictor.share < 1:
            return trials.trials + min(trials.predictor.finish, trials.trials)
        return trials.trials

    def _check_share(self) -> None:
        share, trials = self.trials.predictor.share, self.trials
        if trials.table is not None and share not in (0.25, 0.5, 1):
            raise ValueError(
                f"trials.predictor.share is {share:g}, but a table has scores after a quarter, half and all of the "
                "epochs; set it to 0.25, 0.5 or 1"
            )
        empty = share < 1 and (share * trials.epochs < 1 or trials.epochs_of(share) == trials.epochs)
        if trials.table is None and empty:
            least = math.ceil(round(1 / min(share, 1 - share), 6))
            raise ValueError(
                f"trials.predictor.share {share:g} of {trials.epochs} epochs leaves no whole epoch before or after; "
                f"set trials.epochs to {least} or more, or trials.predictor.share to 1"
            )

    def _check_rungs(self) -> None:
        halving, trials = self.trials.halving, self.trials
        most = halving.factor ** (halving.rungs - 1)
        if trials.table is not None and most not in (1, 2, 4):
            raise ValueError(
                f"trials.halving begins with 1/{most} of the epochs, but a table has scores after a quarter, half and "
                "all of them; set factor 2 with rungs up to 3, or factor 4 with rungs 2"
            )
        if trials.table is None and most > trials.epochs:
            raise ValueError(
                f"trials.halving begins with 1/{most} of {trials.epochs} epochs, less than one; "
                "raise trials.epochs, or lower trials.halving.rungs or factor"
            )
