"""Sections ``loss`` and ``dcs``: the training objective, and the DCS mask."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from dcs_nas.settings import Settings

BranchWeights = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1, max_length=64)]


class LossConfig(Settings):
    """The training objective: weights of its terms, and the information bottleneck (IB).

    The circle term is that of pairs (Sun et al., CVPR 2020, equation 6); its softmax form is a classifier,
    ``retrain.head``.

    Of a network with several vectors the identity term is the mean over their classifiers, the other terms are of all
    vectors side by side. With ``identity_branches`` or ``triplet_branches`` each vector has a term of its own, and the
    weighted terms are added.
    """

    identity_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy over the training identities; 0 leaves it out."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the target that is spread over all identities; 0 for none."""
    triplet_weight: float = Field(default=1.0, ge=0)
    """Weight of the triplet term; 0 leaves it out."""
    triplet_margin: float | None = Field(default=0.3, ge=0)
    """Margin of the triplet term, in distances; null for the soft margin."""
    triplet_mining: Literal["hard", "weighted"] = "hard"
    """The hardest pairs of each anchor, or all pairs with weights (AGW)."""
    triplet_normalize: bool = False
    """Compare features of length 1 in the triplet term."""
    identity_branches: BranchWeights | None = None
    """Weights of the identity terms of a network with several vectors, one each; by default their mean."""
    triplet_branches: BranchWeights | None = None
    """Weights of the triplet terms of a network with several vectors, one each; by default one term of all."""
    center_weight: float = Field(default=0.0, ge=0)
    """Weight of the centre loss, which pulls features to the centre of their identity; 0.0005 is usual, 0 for
    none."""
    circle_weight: float = Field(default=0.0, ge=0)
    """Weight of the circle loss of pairs; 0 leaves it out."""
    circle_margin: float = Field(default=0.25, gt=0, lt=1)
    """Margin m of the circle loss; 0.25 as published."""
    circle_scale: float = Field(default=128.0, gt=0)
    """Scale gamma of the circle loss; 128 as published for person re-identification."""
    ib_kind: Literal["none", "ibb", "ibb_tight", "plugin"] = "none"
    """Information-bottleneck term: the published bound (ibb), a tighter one (ibb_tight), the estimate itself
    (plugin), or none."""
    ib_weight: float = Field(default=0.0, ge=0)
    """Weight of the information-bottleneck term."""
    ib_grid: tuple[PositiveInt, PositiveInt] = (8, 4)
    """Rows and columns to which the IB term's input is averaged."""
    ib_input: Literal["image", "stem"] = "image"
    """Input of the IB term: the image, or the output of the network's stem."""
    ib_estimate: Literal["streaming", "exact"] = "streaming"
    """Class statistics of the IB term: gathered during the epoch (streaming), or by an extra pass after it (exact,
    slower)."""
    ib_temperature: PositiveFloat | Literal["auto"] = 1.0
    """Divides the squared distances of the IB term's assignments; auto keeps the assignments soft for features of
    hundreds of numbers."""
    ib_normalize: bool = False
    """Compare features of length 1 in the IB term."""

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.ib_weight > 0 and self.ib_kind == "none":
            raise ValueError(f"ib_weight is {self.ib_weight:g}, but ib_kind is 'none'; name a kind, e.g. ibb")
        if self.ib_kind == "none" and (self.ib_input, self.ib_estimate) != ("image", "streaming"):
            raise ValueError("ib_input or ib_estimate is set, but ib_kind is 'none'; name a kind, e.g. ibb")
        if not self.identity_weight and not self.triplet_weight and not self.circle_weight:
            raise ValueError("identity_weight, triplet_weight and circle_weight are all 0; give one of them a weight")
        for name in ("identity_branches", "triplet_branches"):
            if getattr(self, name) is not None and not any(getattr(self, name)):
                raise ValueError(f"{name} are all 0; give one vector a weight, or leave the term out by its own weight")
        return self


class DcsConfig(Settings):
    """DCS-Attention: the Gumbel temperature starts at ``tau`` and is multiplied by ``decay`` every epoch.

    The values are those of the searched widths in the authors' code, which has no lower bound; applied to masks, it
    leaves 83 % of the logits without a gradient after 120 epochs. ``tau_min`` is ours. A block's own ``scale``
    (``dcs_nas.models.blocks.DCSAttention``) replaces the one here.
    """

    tau: float = Field(default=5.0, gt=0)
    """Gumbel temperature of the first epoch; high values let all channels learn."""
    decay: float = Field(default=0.956, gt=0, le=1)
    """Factor on the temperature after every epoch."""
    tau_min: float = Field(default=0.5, ge=0)
    """Lowest temperature, below which few logits have a gradient; 0 for the published schedule without a floor."""
    scale: Literal["mean", "sqrt", "literal"] = "mean"
    """Scale of the affinities of tokens with C channels: 1 / C (mean), 1 / sqrt(C) (sqrt), or 1 as the paper writes
    it (literal)."""

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
