"""The plain Re-ID losses: identity cross-entropy, batch-hard triplet, center loss. Each gives a scalar.

Shapes: n samples, D feature dimensions, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.losses.assignments import validate_labels
from dcs_nas.losses.precision import full_precision


@full_precision
def identity_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.1) -> Tensor:
    """Cross-entropy of logits (n, K) with labels (n,), mean over the batch.

    The target is 1 - s on the person plus s / K on every class (Szegedy et al., CVPR 2016, section 7).
    """
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


@torch.no_grad()
@full_precision
def batch_hard(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices (anchor, positive, negative), each (m,), by Euclidean distance of features (n, D).

    Per anchor, the farthest other sample of its person and the nearest of another person. An anchor that lacks either,
    such as the only image of a person, is left out: m <= n.
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
    """Batch-hard triplet loss (Hermans, Beyer, Leibe, arXiv 1703.07737, equation 5), mean over the anchors.

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


class CenterLoss(nn.Module):
    """1/(2n) sum_i ||x_i - c_{y_i}||^2 with learned centres c (Wen et al., ECCV 2016, equation 2, per sample).

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
        """Features (n, D) and labels (n,) to a scalar; raises ``InputError`` on other shapes or labels."""
        classes, dim = self.centres.shape
        if features.dim() != 2 or features.shape[1] != dim:
            raise InputError(f"features have shape {tuple(features.shape)}, expected (n, {dim}): set feature_dim")
        validate_labels(labels, points=features, num_classes=classes)
        return (features - self.centres[labels]).square().sum(1).mean() / 2


def _squared_distances(x: Tensor) -> Tensor:
    """(n, D) to (n, n) by one matrix product: centred and in float64 its rounding is below that of the features."""
    x = x - x.mean(0)
    x = x if x.device.type == "mps" else x.double()  # Metal has no float64
    norms = x.square().sum(1)
    return norms[:, None] + norms[None, :] - 2 * x @ x.T


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distance row by row; the clamp stops the gradient at 0, where that of the square root is infinite."""
    return (x - y).square().sum(1).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
