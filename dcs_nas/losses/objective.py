"""The training objective: the one place where losses are weighted and added up.

Shapes: n samples, D feature dimensions, E input dimensions, K classes; images or maps are (n, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.losses.information_bottleneck import InformationBottleneck, Temperature
from dcs_nas.losses.reid import CenterLoss, identity_loss, triplet_loss


class Objective(nn.Module):
    """Weighted sum of identity, triplet, center and information-bottleneck (IB) terms.

    A term of weight 0 is not computed, but for IB, which is then only logged.

    Args:
        num_classes: K, people with labels 0 .. K - 1.
        feature_dim: D.
        identity_weight: weight of ``identity_loss``, with ``label_smoothing`` in [0, 1].
        triplet_weight: weight of ``triplet_loss``, with ``triplet_margin`` (None: soft margin).
        center_weight: weight of ``CenterLoss``, whose centres are parameters of this module.
        ib_kind: ``none``, or a kind of ``InformationBottleneck``, which the other ``ib_`` settings and ``input_dim``
            and ``input_grid`` are passed to.
        ib_weight: eta.
        ib_input: what the loop gives as ``input_features``: the images, or the output of the network's stem.
        ib_estimate: ``streaming``: ``update`` and ``end_epoch`` keep IB's statistics; ``exact``: ``estimate`` does.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        feature_dim: int,
        identity_weight: float = 1.0,
        label_smoothing: float = 0.1,
        triplet_weight: float = 1.0,
        triplet_margin: float | None = 0.3,
        center_weight: float = 0.0,
        ib_kind: Literal["none", "ibb", "ibb_tight", "plugin"] = "none",
        ib_weight: float = 0.0,
        input_dim: int | None = None,
        input_grid: tuple[int, int] | None = None,
        ib_temperature: Temperature = 1.0,
        ib_normalize: bool = False,
        ib_input: Literal["image", "stem"] = "image",
        ib_estimate: Literal["streaming", "exact"] = "streaming",
    ) -> None:
        super().__init__()
        self.ib_input, self.ib_estimate = ib_input, ib_estimate
        self.weights = {
            "identity": identity_weight,
            "triplet": triplet_weight,
            "center": center_weight,
            "ib": ib_weight,
        }
        _validate(self.weights, label_smoothing, triplet_margin)
        self.label_smoothing = label_smoothing
        self.triplet_margin = triplet_margin
        self.center = CenterLoss(num_classes=num_classes, feature_dim=feature_dim) if center_weight else None
        self.information_bottleneck: InformationBottleneck | None = None
        if ib_kind != "none":
            if input_dim is None:
                raise InputError(f"ib_kind is '{ib_kind}' and input_dim is not set: give the width of the inputs")
            self.information_bottleneck = InformationBottleneck(
                kind=ib_kind,
                num_classes=num_classes,
                feature_dim=feature_dim,
                input_dim=input_dim,
                input_grid=input_grid,
                temperature=ib_temperature,
                normalize=ib_normalize,
            )
        elif ib_weight:
            raise InputError(f"ib_weight is {ib_weight} and ib_kind is 'none': choose a kind, or set ib_weight to 0")

    @property
    def needs_inputs(self) -> bool:
        """Whether ``input_features`` must be given."""
        return self.information_bottleneck is not None

    def forward(
        self,
        logits: Tensor | Sequence[Tensor] | None,
        features: Tensor,
        labels: Tensor,
        input_features: Tensor | None = None,
        *,
        partial: bool = False,
    ) -> dict[str, Tensor]:
        """Named scalars: each term unweighted, the addends of IB, and ``loss``, their weighted sum.

        Args:
            logits: (n, K), several where a network has several classifiers (their mean counts), or None where these
                people have no classifier: no identity term.
            features: (n, D), not normalised.
            labels: (n,) integers.
            input_features: (n, E), or (n, C, H, W) with ``input_grid``; only for IB.
            partial: the caller adds terms of its own to ``loss``, which is 0 where no term is left.

        Raises:
            InputError: IB without ``input_features``; no term left to train; shapes or labels that don't fit.
        """
        terms: dict[str, Tensor] = {}
        if self.weights["identity"] and logits is not None:
            branches = [logits] if isinstance(logits, Tensor) else list(logits)
            losses = [identity_loss(branch, labels, label_smoothing=self.label_smoothing) for branch in branches]
            terms["identity"] = torch.stack(losses).mean()
        if self.weights["triplet"]:
            terms["triplet"] = triplet_loss(features, labels, margin=self.triplet_margin)
        if self.center is not None:
            terms["center"] = self.center(features, labels)
        if self.information_bottleneck is not None:
            terms |= self.information_bottleneck(features, _given(input_features), labels)
        return {**terms, "loss": self._weighted_sum(terms, partial=partial)}

    def update(self, features: Tensor, labels: Tensor, input_features: Tensor | None = None) -> None:
        """Add a batch to the statistics of IB, once per weight step; nothing to do without IB or with exact ones."""
        if self.information_bottleneck is not None and self.ib_estimate == "streaming":
            self.information_bottleneck.update(features, _given(input_features), labels)

    def end_epoch(self) -> None:
        """Put the statistics of the epoch in use; nothing to do without IB.

        Raises:
            InputError: exact statistics are asked for, which ``estimate`` measures.
        """
        if self.information_bottleneck is None:
            return
        if self.ib_estimate == "exact":
            raise InputError("ib_estimate is 'exact', and this training makes no extra pass: set it to streaming")
        self.information_bottleneck.end_epoch()

    def estimate(self, batches: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]) -> None:
        """Put exact statistics in use, see ``InformationBottleneck.estimate``; nothing to do without IB."""
        if self.information_bottleneck is not None:
            self.information_bottleneck.estimate(batches)

    def _weighted_sum(self, terms: Mapping[str, Tensor], *, partial: bool) -> Tensor:
        addends = [weight * terms[name] for name, weight in self.weights.items() if weight and name in terms]
        if not addends and not partial:
            raise InputError("no loss term is left for this batch: without logits, give another term a weight above 0")
        return torch.stack(addends).sum() if addends else torch.zeros(())  # of any device and type beside a scalar


def first_nonfinite(terms: Mapping[str, Tensor]) -> str | None:
    """Name of the first term that holds NaN or an infinity, or None."""
    return next((name for name, value in terms.items() if not torch.isfinite(value).all()), None)


def _given(input_features: Tensor | None) -> Tensor:
    if input_features is None:
        raise InputError("the IB term needs input_features and got none: pass the images or the stem's output")
    return input_features


def _validate(weights: Mapping[str, float], label_smoothing: float, margin: float | None) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise InputError(f"{name}_weight is {weight}, expected a number of at least 0")
    if not any(weights.values()):
        raise InputError("all loss weights are 0: give one of them a weight above 0")
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"label_smoothing is {label_smoothing}, expected 0 to 1")
    if margin is not None and margin < 0:
        raise InputError(f"triplet_margin is {margin}, expected at least 0, or none for the soft margin")
