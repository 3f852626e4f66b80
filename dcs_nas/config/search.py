"""Section ``search``: the bilevel search and its baselines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dcs_nas.config.search_parts import (
    CostConfig,
    GuardConfig,
    PerturbationConfig,
    RelaxationConfig,
    RetrievalConfig,
    TrialsConfig,
)
from dcs_nas.settings import FILE_OR_NAME, Settings


class SearchConfig(Settings):
    """The bilevel search: weights by SGD and a cosine schedule, architecture parameters (alphas) by Adam.

    ``order`` 2 differentiates through the next step of the weights, by ``hessian``. ``weight_share`` of the training
    images move the weights, the others the alphas: of every person where ``identity_overlap`` is 1; below, only that
    share of the people is in both halves, and the alphas learn from losses that need no classifier. The share
    ``validation`` of the people is in neither: retrieval among them is measured every ``validate_every`` epochs, and
    ``choose: best`` takes the genotype of the best of these. A genotype is derived by the ``strongest`` alphas, by
    ``perturbation``, or by ``retrieval`` among those people, for supernets that train sampled paths.
    """

    space: Annotated[str, FILE_OR_NAME]
    channels: int | None = Field(default=None, ge=1, le=2048)
    cells: int | None = Field(default=None, ge=1, le=100)
    epochs: int = Field(default=50, ge=1)
    warmup_epochs: int = Field(default=0, ge=0)
    weight_share: float = Field(default=0.5, gt=0, lt=1)
    lr: float = Field(default=0.025, gt=0)
    lr_min: float = Field(default=0.001, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=3e-4, ge=0)
    grad_clip: float = Field(default=5.0, gt=0)
    arch_lr: float = Field(default=3e-4, gt=0)
    arch_betas: tuple[float, float] = (0.5, 0.999)
    arch_weight_decay: float = Field(default=1e-3, ge=0)
    strategy: Literal["bilevel", "random", "nni.darts", "nni.gumbel", "nni.random", "nni.evolution"] = "bilevel"
    trials: TrialsConfig = TrialsConfig()
    cost: CostConfig = CostConfig()
    order: Literal[1, 2] = 1
    hessian: Literal["exact", "finite_difference"] = "exact"
    relaxation: RelaxationConfig = RelaxationConfig()
    identity_overlap: float = Field(default=1.0, ge=0, le=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    validate_every: int = Field(default=5, ge=1)
    choose: Literal["last", "best"] = "last"
    derivation: Literal["strongest", "perturbation", "retrieval"] = "strongest"
    perturbation: PerturbationConfig = PerturbationConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint_activations: bool = False

    @model_validator(mode="after")
    def _check_choice(self) -> SearchConfig:
        if self.choose == "best" and not self.validation:
            raise ValueError("choose is 'best', but validation is 0; hold out a share of the people, e.g. 0.1")
        if self.choose == "best" and self.derivation != "strongest":
            raise ValueError(f"choose 'best' and derivation '{self.derivation}' exclude each other: both choose")
        if self.guard.action == "stop" and self.derivation != "strongest":
            raise ValueError(f"guard.action 'stop' and derivation '{self.derivation}' exclude each other: both choose")
        if self.derivation == "retrieval" and not self.validation:
            raise ValueError("derivation is 'retrieval', but validation is 0; hold out a share of the people, e.g. 0.1")
        if self.order == 2 and self.hessian == "exact" and self.checkpoint_activations:
            raise ValueError("checkpoint_activations and hessian 'exact' exclude each other; use finite_difference")
        return self

    @model_validator(mode="after")
    def _check(self) -> SearchConfig:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves no epoch of {self.epochs} in which alphas would move"
            )
        return self

    @model_validator(mode="after")
    def _check_strategy(self) -> SearchConfig:
        if self.strategy != "bilevel" and self.cost != CostConfig():
            raise ValueError(f"strategy {self.strategy} knows no cost term; leave cost out, or search by bilevel")
        if self.trials.table is not None and self.strategy not in ("random", "nni.random", "nni.evolution"):
            raise ValueError(
                f"trials.table is '{self.trials.table}', but strategy {self.strategy} trains a supernet; leave it "
                "out, or choose a strategy of trials: random, nni.random or nni.evolution"
            )
        if self.trials.table is not None and self.trials.table != self.space:
            raise ValueError(f"trials.table is '{self.trials.table}', but space is '{self.space}'; set both alike")
        if self.strategy == "nni.evolution" and self.trials.population >= self.trials.trials:
            raise ValueError(
                f"trials.population {self.trials.population} of {self.trials.trials} trials leaves none to evolve; "
                "lower trials.population or raise trials.trials"
            )
        return self
