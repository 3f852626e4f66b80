"""Sections ``loss`` and ``dcs``: the training objective."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings


class LossConfig(Settings):
    """The training objective: weights of its terms, and the information bottleneck (IB).

    IB's input is the image, or the output of the network's stem, on ``ib_grid`` (rows, columns). Its class statistics
    are gathered over the epoch (``streaming``), or measured at its end by an extra pass over the images (``exact``).
    """

    identity_weight: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    triplet_weight: float = Field(default=1.0, ge=0)
    triplet_margin: float | None = Field(default=0.3, ge=0)
    center_weight: float = Field(default=0.0, ge=0)
    ib_kind: Literal["none", "ibb", "ibb_tight", "plugin"] = "none"
    ib_weight: float = Field(default=0.0, ge=0)
    ib_grid: tuple[int, int] = (8, 4)
    ib_input: Literal["image", "stem"] = "image"
    ib_estimate: Literal["streaming", "exact"] = "streaming"
    ib_temperature: float | Literal["auto"] = 1.0
    ib_normalize: bool = False

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.ib_weight > 0 and self.ib_kind == "none":
            raise ValueError(f"ib_weight is {self.ib_weight:g}, but ib_kind is 'none'; name a kind, e.g. ibb")
        if self.ib_kind == "none" and (self.ib_input, self.ib_estimate) != ("image", "streaming"):
            raise ValueError("ib_input or ib_estimate is set, but ib_kind is 'none'; name a kind, e.g. ibb")
        if not self.identity_weight and not self.triplet_weight:
            raise ValueError("identity_weight and triplet_weight are both 0; nothing would tell people apart")
        return self


class DcsConfig(Settings):
    """DCS-Attention: the Gumbel temperature starts at ``tau`` and is multiplied by ``decay`` every epoch.

    The values are those of the searched widths in the authors' code, where nothing stops the fall; applied to masks,
    it leaves 83 % of the logits without a gradient after 120 epochs. So it stops at ``tau_min`` here (ours; 0: never).
    ``scale`` is that of the affinities (``dcs_nas.models.blocks.DCSAttention``) where a block's settings name none.
    """

    tau: float = Field(default=5.0, gt=0)
    decay: float = Field(default=0.956, gt=0, le=1)
    tau_min: float = Field(default=0.5, ge=0)
    scale: Literal["mean", "sqrt", "literal"] = "mean"

    @model_validator(mode="after")
    def _check(self) -> DcsConfig:
        if self.tau_min > self.tau:
            raise ValueError(f"tau_min is {self.tau_min:g}, above tau {self.tau:g}; set tau_min to tau or below")
        return self

    def temperature(self, epoch: int) -> float:
        """Return the temperature of an epoch, from 0: max(tau * decay ** epoch, tau_min).

        >>> [round(DcsConfig().temperature(epoch), 3) for epoch in (0, 10, 60)]
        [5.0, 3.188, 0.5]
        """
        return max(self.tau * self.decay**epoch, self.tau_min)
