"""Soft assignment of points to classes by their distance to the class means, and the streaming means themselves.

Shapes: n points, D dimensions, K classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.losses.precision import full_precision

Temperature = float | Literal["auto"]


@full_precision
def log_assignments(
    points: Tensor, means: Tensor, *, temperature: Tensor | float = 1.0, assignable: Tensor | None = None
) -> Tensor:
    """log phi(x_i, a) = log softmax_a(-||x_i - c_a||^2 / temperature), (n, D) and (K, D) to (n, K).

    A temperature of 1 is the published formula (Wang, Jojic, Yang, arXiv 2505.08961). Classes outside ``assignable``
    (K,) get probability 0, by a logarithm that is finite, so 0 log 0 is 0 in value and gradient. Every output is finite
    while squared distances are (below 1e19 in float32).
    """
    means = means.to(points.dtype)
    centre = means.mean(0)  # distances don't change by a shift, and the product rounds less around the centre
    x, c = points - centre, means - centre
    logits = (2 * x @ c.T - c.square().sum(1)) / temperature  # ||x||^2 is the same for all classes: softmax drops it
    if assignable is not None:
        logits = logits.masked_fill(~assignable, torch.finfo(logits.dtype).min / 2)
    return F.log_softmax(logits, dim=1)


def validate_labels(labels: Tensor, *, points: Tensor, num_classes: int) -> None:
    """Raises ``InputError`` unless ``labels`` is (n,), one per row of ``points``, integers in 0 .. num_classes - 1."""
    if labels.shape != points.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}, expected {points.shape[0]} integers: "
            "one per feature"
        )
    if labels.numel() and (labels.min() < 0 or labels.max() >= num_classes):
        raise InputError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, expected 0 to {num_classes - 1}: "
            "relabel the people or set num_classes"
        )


class ClassMeans(nn.Module):
    """Class means in use, and the sums of the epoch that will replace them.

    All of it is buffers, so a resumed run goes on with the same numbers. ``refresh`` swaps the new means in; a class
    without samples keeps its old mean, one never seen is assigned no probability.

    Args:
        num_classes: K, at least 2.
        dim: D of the points.
        temperature: divides the squared distances; 1 is the published formula. ``auto`` is the mean squared distance
            of a point to its class mean over the last epoch, divided by log K: a point twice as far (in squared
            distance) from all other means as from its own is then assigned to its own by about one half. With
            temperature 1 and hundreds of dimensions assignments are one-hot, and gradients through them vanish.
        normalize: points are scaled to unit length first.
    """

    means: Tensor
    seen: Tensor
    scale: Tensor
    sums: Tensor
    counts: Tensor
    squares: Tensor

    def __init__(self, *, num_classes: int, dim: int, temperature: Temperature = 1.0, normalize: bool = False) -> None:
        super().__init__()
        _validate(num_classes, dim, temperature)
        self.temperature = temperature
        self.normalize = normalize
        self.register_buffer("means", torch.zeros(num_classes, dim))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("scale", torch.tensor(1.0 if temperature == "auto" else float(temperature)))
        self.register_buffer("sums", torch.zeros(num_classes, dim))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("squares", torch.zeros(()))

    def extra_repr(self) -> str:
        classes, dim = self.means.shape
        return f"num_classes={classes}, dim={dim}, temperature={self.temperature}, normalize={self.normalize}"

    def log_assignments(self, points: Tensor) -> Tensor:
        """(n, D) to (n, K): log phi with the means in use; the gradient goes to the points alone."""
        return log_assignments(self._scaled(points), self.means, temperature=self.scale, assignable=self.seen)

    def log_assignments_of_means(self) -> Tensor:
        """(K, K): row y is log phi of class y's own mean."""
        return log_assignments(self.means, self.means, temperature=self.scale, assignable=self.seen)

    @torch.no_grad()
    def update(self, points: Tensor, labels: Tensor) -> None:
        """Add points (n, D) with labels (n,) to the sums; no gradient is kept."""
        if self.sums.dtype in (torch.float16, torch.bfloat16):
            raise InputError(
                f"class sums are {self.sums.dtype}, expected float32: use autocast, and don't convert the loss"
            )
        points = self._scaled(points).to(self.sums.dtype)
        self.sums.index_add_(0, labels, points)
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.long))
        self.squares += points.square().sum()

    @torch.no_grad()
    def refresh(self) -> bool:
        """Swap in the means of the sums and start new sums; whether a class was seen for the first time."""
        found = self.counts > 0
        grew = bool((found & ~self.seen).any())
        fresh = self.sums / self.counts.clamp(min=1)[:, None]
        if self.temperature == "auto" and found.any():
            self.scale.copy_(self._spread(fresh) / math.log(len(fresh)))
        self.means.copy_(torch.where(found[:, None], fresh, self.means))
        self.seen |= found
        self.reset()
        return grew

    def reset(self) -> None:
        """Forget the sums; the means in use stay."""
        for total in self.accumulators():
            total.zero_()

    def accumulators(self) -> list[Tensor]:
        """What is to be summed over processes."""
        return [self.sums, self.counts, self.squares]

    def _spread(self, means: Tensor) -> Tensor:
        """Mean squared distance of the summed points to their class means, (), never below its rounding error."""
        total = self.counts.sum()
        within = (self.squares - (self.counts * means.square().sum(1)).sum()) / total
        info = torch.finfo(means.dtype)
        return within.clamp(min=info.eps * self.squares / total).clamp(min=info.tiny**0.5)

    @full_precision
    def _scaled(self, points: Tensor) -> Tensor:
        return F.normalize(points, dim=1) if self.normalize else points


def _validate(num_classes: int, dim: int, temperature: Temperature) -> None:
    if num_classes < 2 or dim < 1:
        raise InputError(f"class means of {num_classes} classes in {dim} dimensions; expected at least 2 classes and 1")
    if temperature != "auto" and not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
        raise InputError(f"temperature is {temperature!r}, expected a positive number or 'auto'")
