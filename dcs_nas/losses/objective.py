"""The training objective, which alone weighs the losses and adds them up.

Shapes: n samples, D feature dimensions, K classes; images or maps are (n, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.config import LossConfig
from dcs_nas.errors import InputError, require_one_each
from dcs_nas.losses.information_bottleneck import InformationBottleneck
from dcs_nas.losses.precision import full_precision
from dcs_nas.losses.reid import CenterLoss, circle_loss, identity_loss, triplet_loss, weighted_triplet_loss


class Objective(nn.Module):
    """Weighted sum of identity, triplet, circle, center and information-bottleneck (IB) terms.

    A term of weight 0 is not computed, but for IB, which is then only logged.

    Args:
        settings: weights and options of the terms. With a center loss, its centres are parameters of this module.
        num_classes: K, identities with labels 0 .. K - 1.
        feature_dim: D.
        widths: of the vectors that stand side by side in the features; None: one of D.
        input_channels: C of the ``input_features`` that the loop passes to IB: 3 for images, or the stem's channels.
        softmax: turns a classifier's cosines and the labels into logits (``margin_logits``); None: they are logits.

    Raises:
        InputError: weights of branches of another number than ``widths``.
    """

    def __init__(
        self,
        settings: LossConfig,
        *,
        num_classes: int,
        feature_dim: int,
        widths: Sequence[int] | None = None,
        input_channels: int = 3,
        softmax: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self._softmax = softmax
        self._widths = [feature_dim] if widths is None else list(widths)
        for name in ("identity_branches", "triplet_branches"):
            require_one_each(getattr(settings, name), len(self._widths), setting=f"loss.{name}")
        self.weights = {
            "identity": settings.identity_weight,
            "triplet": settings.triplet_weight,
            "circle": settings.circle_weight,
            "center": settings.center_weight,
            "ib": settings.ib_weight,
        }
        self.center = CenterLoss(num_classes=num_classes, feature_dim=feature_dim) if settings.center_weight else None
        self.information_bottleneck: InformationBottleneck | None = None
        if settings.ib_kind != "none":
            self.information_bottleneck = InformationBottleneck(
                kind=settings.ib_kind,
                num_classes=num_classes,
                feature_dim=feature_dim,
                input_dim=input_channels * math.prod(settings.ib_grid),
                input_grid=settings.ib_grid,
                temperature=settings.ib_temperature,
                normalize=settings.ib_normalize,
            )

    @property
    def needs_inputs(self) -> bool:
        """True if ``forward`` needs ``input_features``."""
        return self.information_bottleneck is not None

    @property
    def needs_images(self) -> bool:
        """True if those are images, not the stem's output."""
        return self.needs_inputs and self.settings.ib_input == "image"

    def forward(
        self,
        logits: Tensor | Sequence[Tensor] | None,
        features: Tensor,
        labels: Tensor,
        input_features: Tensor | None = None,
        *,
        partial: bool = False,
        centers: bool = True,
    ) -> dict[str, Tensor]:
        """Return the named scalars: each term unweighted, the addends of IB, and ``loss``, their weighted sum.

        Args:
            logits: (n, K), several where a network has several classifiers (their mean counts), or None where these
                identities have no classifier: no identity term.
            features: (n, D), not normalised.
            labels: (n,) integers.
            input_features: (n, C, H, W), only for IB, which averages them on ``ib_grid``.
            partial: the caller adds further terms to ``loss``, which is 0 if no term is left.
            centers: False for identities whose centres do not learn: no center term.

        Raises:
            InputError: IB without ``input_features``; no term left to train; shapes or labels that don't fit.
        """
        terms: dict[str, Tensor] = {}
        if self.weights["identity"] and logits is not None:
            branches = [logits] if isinstance(logits, Tensor) else list(logits)
            terms["identity"] = _combine(
                branches, self.settings.identity_branches, lambda x: self._compute_identity(x, labels)
            )
        if self.weights["triplet"]:
            weights = self.settings.triplet_branches
            vectors = [features] if weights is None else features.split(self._widths, dim=1)
            terms["triplet"] = _combine(vectors, weights, lambda x: self._compute_triplet(x, labels))
        if self.weights["circle"]:
            s = self.settings
            terms["circle"] = circle_loss(features, labels, margin=s.circle_margin, scale=s.circle_scale)
        if self.center is not None and centers:
            terms["center"] = self.center(features, labels)
        if self.information_bottleneck is not None:
            terms |= self.information_bottleneck(features, _require_input(input_features), labels)
        return {**terms, "loss": self._add_up(terms, partial=partial)}

    def update(self, features: Tensor, labels: Tensor, input_features: Tensor | None = None) -> None:
        """Add a batch to the statistics of IB, once per weight step; nothing to do without IB or with exact ones."""
        if self.information_bottleneck is not None and self.settings.ib_estimate == "streaming":
            self.information_bottleneck.update(features, _require_input(input_features), labels)

    def end_epoch(self) -> None:
        """Put the statistics of the epoch in use; without IB do nothing.

        Raises:
            InputError: the settings ask for exact statistics, which ``estimate`` measures.
        """
        if self.information_bottleneck is None:
            return
        if self.settings.ib_estimate == "exact":
            raise InputError("ib_estimate is 'exact', and this training makes no extra pass: set it to streaming")
        self.information_bottleneck.end_epoch()

    def estimate(self, batches: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]) -> None:
        """Put exact statistics in use, see ``InformationBottleneck.estimate``; nothing to do without IB."""
        if self.information_bottleneck is not None:
            self.information_bottleneck.estimate(batches)

    def _compute_identity(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits if self._softmax is None else self._softmax(logits, labels)
        return identity_loss(logits, labels, label_smoothing=self.settings.label_smoothing)

    def _compute_triplet(self, features: Tensor, labels: Tensor) -> Tensor:
        triplet = triplet_loss if self.settings.triplet_mining == "hard" else weighted_triplet_loss
        features = full_precision(F.normalize)(features) if self.settings.triplet_normalize else features
        return triplet(features, labels, margin=self.settings.triplet_margin)

    def _add_up(self, terms: Mapping[str, Tensor], *, partial: bool) -> Tensor:
        addends = [weight * terms[name] for name, weight in self.weights.items() if weight and name in terms]
        if not addends and not partial:
            raise InputError("no loss term is left for this batch: without logits, give another term a weight above 0")
        return torch.stack(addends).sum() if addends else torch.zeros(())  # a scalar adds to any device and type


def _combine(branches: Sequence[Tensor], weights: Sequence[float] | None, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of a loss over branches, or its sum by ``weights``, of which 0 leaves a branch out."""
    if weights is None:
        return torch.stack([loss(branch) for branch in branches]).mean()
    return torch.stack([w * loss(branch) for w, branch in zip(weights, branches, strict=True) if w]).sum()


def first_nonfinite(terms: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first term that holds NaN or an infinity, or None."""
    return next((name for name, value in terms.items() if not torch.isfinite(value).all()), None)


def _require_input(input_features: Tensor | None) -> Tensor:
    if input_features is None:
        raise InputError(
            "input_features is None, expected a tensor for the IB term: pass the images or the stem's output"
        )
    return input_features
