"""The information bottleneck (IB) term: features should say little about the input and much about the identity.

Shapes: n samples, D feature dimensions, E input dimensions, K classes; images or maps are (n, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError, choices
from dcs_nas.losses.information import ibb, ibb_tight, log_assignments, log_mean, plugin
from dcs_nas.losses.precision import full_precision
from dcs_nas.losses.reid import validate_labels

Temperature = float | Literal["auto"]
Kind = Literal["ibb", "ibb_tight", "plugin"]
Batch = tuple[Tensor, Tensor, Tensor]


def input_features(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average images, or a stem's output, (n, C, H, W) to a grid of (h, w) cells and flatten them: (n, C h w)."""
    if images.dim() != 4:
        raise InputError(f"input of shape {tuple(images.shape)} cannot be pooled to a grid; expected (n, C, H, W)")
    return F.adaptive_avg_pool2d(images, grid).flatten(1)


class ClassMeans(nn.Module):
    """Class means in use, and the sums of the epoch that will replace them.

    All are buffers, so a resumed run continues with the same numbers. ``refresh`` swaps the new means in; a class
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
        """Map (n, D) to (n, K): log phi with the means in use; the gradient goes to the points alone."""
        return log_assignments(self._normalize(points), self.means, temperature=self.scale, assignable=self.seen)

    def log_assignments_of_means(self) -> Tensor:
        """Return (K, K), whose row y is log phi of class y's own mean."""
        return log_assignments(self.means, self.means, temperature=self.scale, assignable=self.seen)

    @torch.no_grad()
    def update(self, points: Tensor, labels: Tensor) -> None:
        """Add points (n, D) with labels (n,) to the sums; no gradient is kept."""
        if self.sums.dtype in (torch.float16, torch.bfloat16):
            raise InputError(
                f"class sums are {self.sums.dtype}, expected float32: use autocast, and don't convert the loss"
            )
        points = self._normalize(points).to(self.sums.dtype)
        self.sums.index_add_(0, labels, points)
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.long))
        self.squares += points.square().sum()

    @torch.no_grad()
    def refresh(self) -> bool:
        """Swap in the means of the sums and start new sums; return whether a class was seen for the first time."""
        has_samples = self.counts > 0
        grew = bool((has_samples & ~self.seen).any())
        fresh = self.sums / self.counts.clamp(min=1)[:, None]
        if self.temperature == "auto" and has_samples.any():
            self.scale.copy_(self._spread(fresh) / math.log(len(fresh)))
        self.means.copy_(torch.where(has_samples[:, None], fresh, self.means))
        self.seen |= has_samples
        self.reset()
        return grew

    def reset(self) -> None:
        """Forget the sums; the means in use stay."""
        for total in self.accumulators():
            total.zero_()

    def accumulators(self) -> list[Tensor]:
        """Return the tensors to be summed over processes."""
        return [self.sums, self.counts, self.squares]

    def _spread(self, means: Tensor) -> Tensor:
        """Return the mean squared distance (()) of the points to their class means, never below its rounding error."""
        total = self.counts.sum()
        within = (self.squares - (self.counts * means.square().sum(1)).sum()) / total
        info = torch.finfo(means.dtype)
        return within.clamp(min=info.eps * self.squares / total).clamp(min=info.tiny**0.5)

    @full_precision
    def _normalize(self, points: Tensor) -> Tensor:
        return F.normalize(points, dim=1) if self.normalize else points


class InformationBottleneck(nn.Module):
    """The IB term over streaming class statistics.

    phi(F_i, a) = softmax_a(-||F_i - C_a||^2) with C_a the class means of the features, phi(X_i, b) the same for input
    features, Q(a | y) the class-conditional mean of phi(F, .). With n samples (arXiv 2505.08961)

        IBB = 1/n sum_i sum_a sum_b phi(F_i,a) phi(X_i,b) log phi(X_i,b) - 1/n sum_i sum_a phi(F_i,a) log Q(a | y_i)

    and IB = I(F;X) - I(F;Y) <= IBB + H(B). Two facts to know before choosing a kind:

    * phi(F_i, .) sums to 1, so the first term is -H(phi(X_i)) and moves no weight of what computes F from X.
    * The bound drops -H(A), H(A) the entropy of the mean feature assignment. IBB - H(A) + H(B) still bounds IB, more
      tightly, and its extra term resists collapse onto few classes: ``ibb_tight``. ``plugin`` is IB of the batch
      itself.

    The loop calls ``update`` once per weight step and ``end_epoch`` once per epoch; ``forward`` only reads. Means and Q
    of an epoch serve the next one. While a class is new, Q is phi of the class means; until the first ``end_epoch`` the
    term is zero. ``estimate`` instead computes means and then Q exactly, in two passes over the data. Samples of
    identities without a class mean don't count. Q is floored at the smallest normal number: the bound stays valid.

    Under data parallel training ``end_epoch`` and ``estimate`` sum over processes; torch's own wrapper must not
    broadcast these buffers, or each step replaces all sums by those of the first process.

    Args:
        kind: ``ibb`` (published), ``ibb_tight`` or ``plugin``.
        num_classes: K, identities with labels 0 .. K - 1.
        feature_dim: D.
        input_dim: E of the input features, after pooling.
        input_grid: (h, w): ``inputs`` are images or maps (n, C, H, W), pooled by ``input_features``; None: (n, E).
        temperature: see ``ClassMeans``: 1 is published, ``auto`` keeps assignments soft in hundreds of dimensions.
        normalize: scale features and input features to unit length first; False is published.
    """

    log_q: Tensor
    assignment_sums: Tensor
    assignment_counts: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        feature_dim: int,
        input_dim: int,
        kind: Kind = "ibb",
        input_grid: tuple[int, int] | None = None,
        temperature: Temperature = 1.0,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise InputError(f"unknown IB kind '{kind}'; {choices(kind, get_args(Kind))}")
        self.kind = kind
        self.num_classes = num_classes
        self.input_grid = input_grid
        self.feature_means = ClassMeans(
            num_classes=num_classes, dim=feature_dim, temperature=temperature, normalize=normalize
        )
        self.input_means = ClassMeans(
            num_classes=num_classes, dim=input_dim, temperature=temperature, normalize=normalize
        )
        self.register_buffer("log_q", torch.full((num_classes, num_classes), -math.log(num_classes)))
        self.register_buffer("assignment_sums", torch.zeros(num_classes, num_classes))
        self.register_buffer("assignment_counts", torch.zeros(num_classes, dtype=torch.long))

    def extra_repr(self) -> str:
        return f"kind={self.kind}, input_grid={self.input_grid}"

    @property
    def ready(self) -> bool:
        """True once class means exist and the term is active."""
        return bool(self.feature_means.seen.any())

    @full_precision
    def forward(self, features: Tensor, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the named scalars ``ib`` and its addends; no state changes.

        The addends are ``ib_compression``, ``ib_relevance`` and, for ``ibb_tight``, ``ib_spread``.

        Args:
            features: (n, D).
            inputs: (n, E), or (n, C, H, W) with ``input_grid``.
            labels: (n,) integers.

        Raises:
            InputError: a shape or a label that doesn't fit the settings.
        """
        inputs = self._check(features, inputs, labels)
        addends = self._addends(features, inputs, labels) if self.ready else self._zeros(features)
        terms = {f"ib_{name}": value for name, value in addends.items()}
        return {"ib": torch.stack(list(terms.values())).sum(), **terms}

    @torch.no_grad()
    @full_precision
    def update(self, features: Tensor, inputs: Tensor, labels: Tensor) -> None:
        """Add a batch, shaped as in ``forward``, to the statistics of this epoch; no gradient is kept."""
        self._add_to_means(features, inputs, labels)
        if self.ready:
            self._add_assignments(features, labels)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Sum over processes, put the statistics of this epoch in use and start new ones."""
        self.synchronize()
        grew = self._refresh_means()
        self._refresh_q(from_means=grew)

    @torch.no_grad()
    def estimate(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Measure exact statistics in two passes: the class means, then Q under these means.

        Args:
            batches: returns the same (features, inputs, labels) batches at each of its two calls.

        Raises:
            InputError: no samples, or other numbers of them in the two passes. The sums of ``update`` are discarded.
        """
        self.reset()
        for batch in batches():
            self._add_to_means(*batch)
        self.synchronize()
        samples = int(self.feature_means.counts.sum())
        self._refresh_means()
        for features, _, labels in batches():
            self._add_assignments(features, labels)
        self.synchronize()
        again = int(self.assignment_counts.sum())
        if samples == 0 or again != samples:
            self.reset()
            raise InputError(
                f"the first pass has {samples} samples and the second {again}, expected the same number, above 0: "
                "pass a callable that restarts the batches"
            )
        self._refresh_q(from_means=False)

    def synchronize(self) -> None:
        """Sum the statistics of this epoch over all processes, if torch.distributed runs; else do nothing."""
        if dist.is_available() and dist.is_initialized():
            for total in self._accumulators():
                dist.all_reduce(total)

    def reset(self) -> None:
        """Clear the statistics of this epoch; those in use stay."""
        for total in self._accumulators():
            total.zero_()

    def _addends(self, features: Tensor, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        log_f = self.feature_means.log_assignments(features)
        log_x = self.input_means.log_assignments(inputs)
        known = self.feature_means.seen[labels].to(log_f.dtype)
        weights = known / known.sum().clamp(min=1)
        if self.kind == "plugin":
            return plugin(log_f, log_x, labels, weights)
        bound = ibb if self.kind == "ibb" else ibb_tight
        return bound(log_f, log_x, labels, self.log_q, weights)

    def _zeros(self, features: Tensor) -> dict[str, Tensor]:
        names = ("compression", "relevance", "spread") if self.kind == "ibb_tight" else ("compression", "relevance")
        return {name: features.new_zeros(()) for name in names}

    def _add_to_means(self, features: Tensor, inputs: Tensor, labels: Tensor) -> None:
        inputs = self._check(features, inputs, labels)
        self.feature_means.update(features, labels)
        self.input_means.update(inputs, labels)

    def _add_assignments(self, features: Tensor, labels: Tensor) -> None:
        phi = self.feature_means.log_assignments(features).exp()
        self.assignment_sums.index_add_(0, labels, phi.to(self.assignment_sums.dtype))
        self.assignment_counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.long))

    def _refresh_means(self) -> bool:
        self.input_means.refresh()
        return self.feature_means.refresh()

    def _refresh_q(self, *, from_means: bool) -> None:
        """Put a new Q in use: of the epoch or, where it has new classes, of the class means."""
        counts = self.assignment_counts
        if from_means:
            fresh = self.feature_means.log_assignments_of_means().exp()
            fresh, has_samples = log_mean(fresh, torch.ones_like(counts)), self.feature_means.seen
        else:
            fresh, has_samples = log_mean(self.assignment_sums, counts), counts > 0
        self.log_q.copy_(torch.where(has_samples[:, None], fresh, self.log_q))
        self.assignment_sums.zero_()
        self.assignment_counts.zero_()

    def _accumulators(self) -> list[Tensor]:
        means = self.feature_means.accumulators() + self.input_means.accumulators()
        return [*means, self.assignment_sums, self.assignment_counts]

    def _check(self, features: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the input features (n, E), once all shapes fit."""
        if self.input_grid is not None:
            inputs = input_features(inputs, self.input_grid)
        for name, points, means in (
            ("features", features, self.feature_means.means),
            ("input features", inputs, self.input_means.means),
        ):
            if points.dim() != 2 or points.shape[1] != means.shape[1] or len(points) != len(features):
                raise InputError(
                    f"{name} have shape {tuple(points.shape)}, expected ({len(features)}, {means.shape[1]}): "
                    "fit feature_dim, input_dim or input_grid to the data"
                )
        validate_labels(labels, points=features, num_classes=self.num_classes)
        return inputs


def _validate(num_classes: int, dim: int, temperature: Temperature) -> None:
    if num_classes < 2 or dim < 1:
        raise InputError(f"num_classes is {num_classes}, the dimension {dim}; expected at least 2 classes, 1 dimension")
    if temperature != "auto" and not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
        raise InputError(f"temperature is {temperature!r}, expected a positive number or 'auto'")
