"""Parts of section ``search`` that a bilevel search reads: relaxation, cost, collapse guard, derivation, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings


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

    With form ``logarithmic`` both ``beta`` and ``weight``, and with ``multiplicative`` the ``weight``, scale the
    gradient of all alphas alike, which Adam does not notice: what they change is the loss that is printed.
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
