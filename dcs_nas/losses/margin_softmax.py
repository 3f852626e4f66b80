"""Softmax losses with a margin on the cosines between features and class weights.

Shapes: n samples, K classes. All take cosines (n, K) and labels (n,), and return logits (n, K) for ``identity_loss``.
With s the scale, m the margin, y the sample's class and c_j its cosine with class j:

    cosface   s (c_y - m),           s c_j                Wang et al., CVPR 2018, equation 4
    arcface   s cos(arccos c_y + m), s c_j                Deng et al., CVPR 2019, equation 3
    circle    s a_p (c_y - (1 - m)), s a_n (c_j - m)      Sun et al., CVPR 2020, equation 8
              a_p = max(0, 1 + m - c_y), a_n = max(0, c_j + m), without gradients
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dcs_nas.losses.precision import full_precision
from dcs_nas.registry import Registry

MARGIN_SOFTMAX: Registry[Callable[..., Tensor]] = Registry("margin softmax")
_EDGE = 1e-7  # the arc cosine has no gradient at 1


@MARGIN_SOFTMAX.register("cosface")
def cosface(cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """Return the logits of CosFace."""
    return scale * (cosines - margin * _one_hot(cosines, labels))


@MARGIN_SOFTMAX.register("arcface")
def arcface(cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """Return the logits of ArcFace; cosines are kept 1e-7 away from -1 and 1."""
    angles = cosines.clamp(-1 + _EDGE, 1 - _EDGE).arccos()
    return scale * (angles + margin * _one_hot(cosines, labels)).cos()


@MARGIN_SOFTMAX.register("circle")
def circle(cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """Return the logits of the circle softmax."""
    fixed = cosines.detach()
    positive = F.relu(1 + margin - fixed) * (cosines - (1 - margin))
    negative = F.relu(fixed + margin) * (cosines - margin)
    return scale * torch.where(_one_hot(cosines, labels).bool(), positive, negative)


@full_precision
def margin_logits(kind: str, cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """Return the logits of a named margin softmax, in float32 under autocast.

    Raises:
        InputError: an unknown ``kind``.
    """
    return MARGIN_SOFTMAX[kind](cosines, labels, scale=scale, margin=margin)


def _one_hot(cosines: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, cosines.shape[1]).to(cosines.dtype)
