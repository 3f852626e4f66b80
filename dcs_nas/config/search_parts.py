"""Parts of the section ``search``: relaxation, cost term, collapse guard, derivation, trials."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings


class RelaxationConfig(Settings):
    """From alphas to mixture weights (``dcs_nas.models.relaxation``).

    The temperature goes from ``temperature`` in the first epoch to ``temperature_end`` in the last; without an end it
    stays. ``partial_channels`` K lets the operations see 1/K of the channels (PC-DARTS), by default with edge
    normalisation. ``anchor`` weighs DrNAS' regulariser.
    """

    kind: Literal["softmax", "gumbel", "gumbel_softmax", "dirichlet"] = "softmax"
    temperature: float = Field(default=1.0, gt=0)
    temperature_end: float | None = Field(default=None, gt=0)
    schedule: Literal["linear", "exponential"] = "linear"
    partial_channels: int = Field(default=1, ge=1, le=64)
    edge_normalization: bool | None = None
    anchor: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> RelaxationConfig:
        if self.anchor and self.kind != "dirichlet":
            raise ValueError(f"anchor is {self.anchor:g}, but kind is '{self.kind}'; only dirichlet has an anchor")
        return self

    def at(self, epoch: int, epochs: int) -> float:
        """The temperature of an epoch, from 0, of ``epochs``.

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
    """What a searched network may cost, as a term of the architecture loss (``dcs_nas.losses.cost``).

    ``target`` is in the cost's own unit: multiply-adds (``flops``) or numbers (``parameters``) of the network searched,
    microseconds a batch (``latency``). ``latency_table`` is a file of ``dcs-nas profile CONFIG --latency-table FILE``;
    one of another device or space is refused, but with ``other_latency_table``. Without ``beta`` the published exponent
    is taken: 0.07 with a target, 0.6 without.
    """

    kind: Literal["none", "flops", "parameters", "latency"] = "none"
    form: Literal["additive", "multiplicative"] = "additive"
    weight: float = Field(default=1.0, ge=0, le=1e9)
    target: float | None = Field(default=None, gt=0, le=1e18)
    beta: float | None = Field(default=None, gt=0, le=100)
    latency_table: Path | None = None
    other_latency_table: bool = False

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
        if self.form == "multiplicative" and not self.weight:
            raise ValueError("weight is 0 and form is 'multiplicative', which leaves no loss; set a weight above 0")
        return self


class GuardConfig(Settings):
    """Watches for collapse onto skip connections; its figures are logged after every epoch.

    ``action``: ``log``; ``stop`` ends the search at a collapse and keeps the last good genotype; ``cap`` lets a cell
    keep at most ``max_skips`` when the genotype is derived (P-DARTS, arXiv 1904.12760). A collapse is a normal cell of
    more than ``max_skips`` skips (DARTS+, arXiv 1909.06035: 2), or a dominant eigenvalue of the architecture loss's
    Hessian whose mean over ``window`` epochs grew by more than 1 / ``ratio`` in as many (arXiv 1909.09656: 5 and 0.75).
    ``eigenvalue_iterations`` of power iteration on ``eigenvalue_images`` images, 0 for none; ``gap`` to measure
    the discretisation gap.
    """

    action: Literal["log", "stop", "cap"] = "log"
    max_skips: int | None = Field(default=None, ge=0)
    eigenvalue_iterations: int = Field(default=5, ge=0, le=1000)
    eigenvalue_images: int = Field(default=8, ge=2)
    window: int = Field(default=5, ge=1)
    ratio: float = Field(default=0.75, gt=0, lt=1)
    gap: bool = True

    @model_validator(mode="after")
    def _check(self) -> GuardConfig:
        if self.action == "cap" and self.max_skips is None:
            raise ValueError("action is 'cap' and max_skips is not set; give the number of skips that a cell may keep")
        if self.action == "stop" and self.max_skips is None and not self.eigenvalue_iterations:
            raise ValueError("action is 'stop' with nothing to stop at; set max_skips or eigenvalue_iterations")
        return self


class PerturbationConfig(Settings):
    """Derivation by perturbation (DARTS-PT, arXiv 2108.04392).

    ``batches`` of the architecture half for each test; after each choice ``tune_steps`` of the weights, at rate ``lr``.
    """

    batches: int = Field(default=2, ge=1)
    tune_steps: int = Field(default=0, ge=0)
    lr: float = Field(default=0.001, gt=0)


class RetrievalConfig(Settings):
    """Derivation by retrieval: ``candidates`` genotypes, drawn by the alphas, compared on the people held out.

    Running statistics are measured on ``batches`` of the weights' half for each.
    """

    candidates: int = Field(default=30, ge=1, le=100_000)
    batches: int = Field(default=8, ge=1, le=1000)


class TrialsConfig(Settings):
    """Strategies that train one network after another: ``random``, ``nni.random``, ``nni.evolution``.

    Each of at most ``trials`` networks is trained for ``epochs`` as a search trains its weights, without the share
    ``validation`` of the people, on whom it is scored; the search's own share counts where it is not 0. No trial begins
    once ``minutes`` of training are spent.
    ``table`` names a table of ``dcs_nas.space.table``, whose scores are read in place of training, at the seconds that
    it has recorded: the search has to be on the table's space, and needs no data.
    ``population`` and ``sample`` are those of regularized evolution (arXiv 1802.01548, algorithm 1).
    """

    trials: int = Field(default=20, ge=1, le=100_000)
    epochs: int = Field(default=5, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=1)
    minutes: float | None = Field(default=None, gt=0)
    population: int = Field(default=10, ge=1)
    sample: int = Field(default=5, ge=1)
    table: Literal["bench_cells"] | None = None

    @model_validator(mode="after")
    def _check(self) -> TrialsConfig:
        if self.sample > self.population:
            raise ValueError(f"sample {self.sample} of a population of {self.population}; lower sample to it or below")
        return self
