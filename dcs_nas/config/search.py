"""Section ``search``: the search itself; its parts are in ``bilevel`` and ``trials``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dcs_nas.config.bilevel import (
    CostConfig,
    GuardConfig,
    MemoryConfig,
    PerturbationConfig,
    RelaxationConfig,
    RetrievalConfig,
)
from dcs_nas.config.retrain import Beta
from dcs_nas.config.trials import OWN_TRIALS, TRIAL_STRATEGIES, TrialsConfig
from dcs_nas.settings import FILE_OR_NAME, Settings


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
    """Share of the training images that move the weights; the others move the alphas. An epoch ends with the smaller
    half. With 1 the alphas stay as they
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
    arch_betas: tuple[Beta, Beta] = (0.5, 0.999)
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
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min {self.lr_min} is above lr {self.lr}, at which the cosine begins; lower it")
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
            trials.check_rungs()
        if self.strategy == "predictor":
            trials.check_share()
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
