"""The plain Re-ID losses: identity cross-entropy, batch-hard triplet, center loss, prototypes. Each returns a scalar.

Shapes: n samples, D feature dimensions, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.losses.precision import full_precision


@full_precision
def identity_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.1) -> Tensor:
    """Return the cross-entropy of logits (n, K) with labels (n,), mean over the batch.

    The target is 1 - s on the identity plus s / K on every class (Szegedy et al., CVPR 2016, section 7).
    """
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


@torch.no_grad()
@full_precision
def batch_hard(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices (anchor, positive, negative), each (m,), by Euclidean distance of features (n, D).

    Per anchor, the farthest other sample of its identity and the nearest of another. An anchor that lacks either,
    such as the only image of an identity, is left out: m <= n.
    """
    distances = _squared_distances(features)
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = distances.masked_fill(~same | itself, -torch.inf).argmax(1)
    negative = distances.masked_fill(same, torch.inf).argmin(1)
    anchor = ((same & ~itself).any(1) & (~same).any(1)).nonzero()[:, 0]
    return anchor, positive[anchor], negative[anchor]


@full_precision
def triplet_loss(features: Tensor, labels: Tensor, *, margin: float | None = 0.3) -> Tensor:
    """Return the batch-hard triplet loss (Hermans, Beyer, Leibe, arXiv 1703.07737, equation 5), mean over the anchors.

    With d+ and d- the distances of an anchor to its hardest positive and negative: max(0, margin + d+ - d-), or the
    soft margin log(1 + exp(d+ - d-)) where ``margin`` is None. Zero, with zero gradients, if the batch has no triplet.

    Only the hardest pairs are differentiated, to any order (``torch.cdist`` has no second derivative, and the search's
    Hessian-vector products need one); at distance 0 the gradient is 0.

    Args:
        features: (n, D), not normalised.
        labels: (n,).
    """
    anchor, positive, negative = batch_hard(features, labels)
    if len(anchor) == 0:
        return features.sum() * 0
    gap = _distance(features[anchor], features[positive]) - _distance(features[anchor], features[negative])
    return F.softplus(gap).mean() if margin is None else F.relu(gap + margin).mean()


@full_precision
def weighted_triplet_loss(features: Tensor, labels: Tensor, *, margin: float | None = None) -> Tensor:
    """Return the triplet loss of weighted distances (Ye et al., TPAMI 2022, "AGW", equation 3), mean over the anchors.

    d+ and d- are the distances to all samples of the anchor's identity and to all others, each weighted by softmax(d)
    and softmax(-d); then as in ``triplet_loss``. As in fast-reid, the anchor counts as a sample of its own identity,
    and the sums of the weights are increased by 1e-6, so that negatives farther than about 14 lose theirs. Zero, with
    zero gradients, if all samples are of one identity.

    Args:
        features: (n, D), not normalised.
        labels: (n,).
    """
    same = (labels[:, None] == labels[None, :]).to(features.dtype)
    if bool(same.all()):
        return features.sum() * 0
    off_diagonal = 1 - torch.eye(len(labels), dtype=features.dtype, device=features.device)
    squared = _squared_distances(features).clamp(min=torch.finfo(features.dtype).tiny)
    distances = squared.sqrt().to(features.dtype) * off_diagonal
    positive = (distances * _weights(distances, same)).sum(1)
    negative = (distances * _weights(-distances, 1 - same)).sum(1)
    gap = positive - negative
    return F.softplus(gap).mean() if margin is None else F.relu(gap + margin).mean()


@full_precision
def circle_loss(features: Tensor, labels: Tensor, *, margin: float = 0.25, scale: float = 128.0) -> Tensor:
    """Return the circle loss (Sun et al., CVPR 2020, equation 6) of cosines, mean over the anchors; 0 without pairs.

    Args:
        features: (n, D), not normalised.
        labels: (n,).
        margin: m, between 0 and 1.
        scale: gamma.
    """
    from pytorch_metric_learning.losses import CircleLoss
    from pytorch_metric_learning.reducers import MeanReducer

    return CircleLoss(m=margin, gamma=scale, reducer=MeanReducer())(features, labels)


class CenterLoss(nn.Module):
    """Center loss 1/n sum_i ||x_i - c_{y_i}||^2, learned centres c (Wen et al., ECCV 2016, equation 2, per sample).

    Without the paper's factor 1/2, as in the code of Luo et al. (michuanhaohao/reid-strong-baseline).

    The centres are a parameter. Its gradient carries the weight of the term, so give it an optimizer of its own (the
    paper moves centres at rate 0.5) or expect slow centres at small weights.

    Args:
        num_classes: K.
        feature_dim: D.
    """

    def __init__(self, *, num_classes: int, feature_dim: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, feature_dim))

    @full_precision
    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Map features (n, D) and labels (n,) to a scalar; raise ``InputError`` on other shapes or labels."""
        classes, dim = self.centres.shape
        if features.dim() != 2 or features.shape[1] != dim:
            raise InputError(f"features have shape {tuple(features.shape)}, expected (n, {dim}): set feature_dim")
        validate_labels(labels, points=features, num_classes=classes)
        return (features - self.centres[labels]).square().sum(1).mean()


class PrototypeMemory(nn.Module):
    """One unit vector for each identity, a moving average of its features; no parameters.

    L = -1/n sum_i log softmax_k(f_i . c_k / t)[y_i], f_i the unit feature, over the identities seen so far (Ge et al.,
    SpCL, arXiv 2006.02713, eq. 1, with identities for clusters). The update is c <- m c + (1 - m) mean f of the
    identity's images in the batch, then c / |c| (eq. 3); an identity's first batch sets it. With ``update`` "each", c
    moves so by every image of the batch in turn (vimar-gu/MSINet at 2a8845b, reid/models/cm.py).

    Args:
        num_identities: K, labels 0 .. K - 1.
        feature_dim: D.
        temperature: t.
        momentum: m.
        update: ``mean`` or ``each``.
    """

    prototypes: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        num_identities: int,
        feature_dim: int,
        temperature: float = 0.05,
        momentum: float = 0.2,
        update: Literal["mean", "each"] = "mean",
    ) -> None:
        super().__init__()
        if not temperature > 0 or not 0 <= momentum < 1:
            raise InputError(
                f"temperature is {temperature} and momentum {momentum}; expected above 0, and from 0 to below 1"
            )
        self.temperature, self.momentum, self.by_each = temperature, momentum, update == "each"
        self.register_buffer("prototypes", torch.zeros(num_identities, feature_dim))
        self.register_buffer("seen", torch.zeros(num_identities, dtype=torch.bool))

    @full_precision
    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar: 0 while fewer than two identities are known. Samples of new ones don't count.

        Args:
            features: (n, D), not normalised.
            labels: (n,) integers.
        """
        known = self.seen[labels]
        if int(self.seen.sum()) < 2 or not bool(known.any()):
            return features.sum() * 0.0
        scores = F.normalize(features[known]) @ self.prototypes.to(features.dtype).T / self.temperature
        return F.cross_entropy(scores.masked_fill(~self.seen, -torch.inf), labels[known])

    @torch.no_grad()
    @full_precision
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Move the prototypes of the identities in a batch, shaped as in ``forward``."""
        if self.by_each:
            same = labels[:, None] == labels[None, :]
            turns = same.tril(-1).sum(1)  # how many images of its identity stand before an image
            for turn in range(int(turns.max()) + 1 if len(labels) else 0):
                self._move(labels[turns == turn], F.normalize(features[turns == turn]))
            return
        identities, index = labels.unique(return_inverse=True)
        members = F.one_hot(index, len(identities)).to(features)  # a product, since index_add_ on a GPU is in any order
        self._move(identities, F.normalize(members.T @ F.normalize(features)))

    def _move(self, identities: Tensor, means: Tensor) -> None:
        """Move the prototypes of different identities (k,) towards unit vectors (k, D)."""
        kept = self.momentum * self.seen[identities].to(means.dtype)[:, None]
        moved = kept * self.prototypes[identities].to(means.dtype) + (1 - kept) * means
        self.prototypes[identities] = F.normalize(moved).to(self.prototypes.dtype)
        self.seen[identities] = True


def validate_labels(labels: Tensor, *, points: Tensor, num_classes: int) -> None:
    """Raise ``InputError`` unless ``labels`` is (n,), one per row of ``points``, integers in 0 .. num_classes - 1."""
    if labels.shape != points.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}, expected {points.shape[0]} integers: "
            "one per feature"
        )
    if labels.numel() and (labels.min() < 0 or labels.max() >= num_classes):
        raise InputError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, expected 0 to {num_classes - 1}: "
            "relabel the identities or set num_classes"
        )


def _squared_distances(x: Tensor) -> Tensor:
    """Map (n, D) to (n, n) by one matrix product, centred and in float64, so that it rounds less than the features."""
    x = x - x.mean(0)
    x = x if x.device.type == "mps" else x.double()  # Metal has no float64
    norms = x.square().sum(1)
    return norms[:, None] + norms[None, :] - 2 * x @ x.T


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """Return Euclidean distances row by row; the clamp stops the gradient at 0, where the root's is infinite."""
    return (x - y).square().sum(-1).clamp(min=torch.finfo(x.dtype).tiny).sqrt()


def _weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax of scores (n, n) over the columns where ``mask`` is 1."""
    exponentials = (scores - (scores * mask).amax(1, keepdim=True)).exp() * mask
    return exponentials / (exponentials.sum(1, keepdim=True) + 1e-6)
