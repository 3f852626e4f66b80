"""RGA's relations between all nodes, embedded and normalised without the relation matrix.

Shapes: B batch, D features, M nodes, d embedded features, e embedded relations.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.blocks.parts import widened

_ROWS = 128  # relation features at a time: the backward pass holds (B, 128, M) beside what the forward pass saved


def product(weight: Tensor, x: Tensor) -> Tensor:
    """weight (E, D) times each image of x (B, D, M); ``matmul`` would copy x to fold the batch into one product."""
    return torch.bmm(weight.expand(x.shape[0], -1, -1), x)


def gram(x: Tensor) -> Tensor:
    """x x^T (B, D, D) of x (B, D, M)."""
    return cast(Tensor, _Gram.apply(x))


class _Gram(torch.autograd.Function):
    """The gradient (G + G^T) x as one product, which is two products and a sum to autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,), (x,) = gradients, ctx.saved_tensors
        return (gradient + gradient.mT) @ x


class Pointwise(nn.Module):
    """A 1x1 convolution without bias, then BatchNorm: (B, D, M) to (B, E, M)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.norm = nn.BatchNorm1d(out_features)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """BN(weight x)."""
        return self.norm(product(self.weight, x))


class RelationEmbedding(nn.Module):
    """P ReLU(BN(W_in R_i. + W_out R_.i)) for every node i, with R_ij = theta_i . phi_j and a matrix P (E, e).

    The embedding is linear before its BatchNorm, W_in R_i. + W_out R_.i = (W_in phi) theta_i + (W_out theta) phi_i, a
    mixing matrix (e, 2d) per image times the stacked [theta; phi], so R (M, M) is never formed. The mean and variance
    of such products follow from those of [theta; phi] and its covariance (2d, 2d), so the BatchNorm is folded into the
    mixing matrix, and some rows of it at a time are enough.

    Attributes:
        weight: W_out and W_in, (2, e, M).
    """

    def __init__(self, nodes: int, relations: int) -> None:
        super().__init__()
        bound = (2 * nodes) ** -0.5  # that of a 1x1 convolution of 2M channels
        self.weight = nn.Parameter(torch.empty(2, relations, nodes).uniform_(-bound, bound))
        self.norm = nn.BatchNorm1d(relations)

    def forward(self, theta_phi: Tensor, projection: Tensor) -> Tensor:
        """(B, E, M) of theta_phi (B, 2d, M), theta above phi, and P (E, e)."""
        mixing = self._mixing(theta_phi)
        if not isinstance(self.norm, nn.BatchNorm1d):  # such as SyncBatchNorm, whose statistics span processes
            return product(projection, F.relu(self.norm(mixing @ theta_phi), inplace=True))
        mixing, shift = self._normalised(mixing, theta_phi)
        rows = zip(mixing.split(_ROWS, 1), shift.split(_ROWS), projection.split(_ROWS, 1), strict=True)
        return reduce(torch.add, (product(p, F.relu_(torch.bmm(m, theta_phi).add_(s))) for m, s, p in rows))

    def _mixing(self, theta_phi: Tensor) -> Tensor:
        """[W_in phi^T, W_out theta^T] (B, e, 2d), as one product over the whole batch."""
        batch, _, nodes = theta_phi.shape
        rows = theta_phi.unflatten(1, (2, -1)).transpose(0, 1).reshape(2, -1, nodes)
        mixed = torch.bmm(self.weight, rows.mT).unflatten(2, (batch, -1))
        return mixed.flip(0).permute(2, 1, 0, 3).flatten(2)

    def _normalised(self, mixing: Tensor, theta_phi: Tensor) -> tuple[Tensor, Tensor]:
        """Matrix (B, e, 2d) and shift (e, 1) with BN(mixing @ theta_phi) = matrix @ theta_phi + shift."""
        with torch.autocast(theta_phi.device.type, enabled=False):
            mean, variance = self._statistics(widened(mixing), widened(theta_phi))
            gain = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
            shift = self.norm.bias - mean * gain
            return (gain.unsqueeze(1) * mixing).to(mixing.dtype), shift.unsqueeze(1).to(mixing.dtype)

    def _statistics(self, mixing: Tensor, theta_phi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (e) that normalise ``mixing @ theta_phi``; in training the batch's, which are recorded."""
        if not self.norm.training:
            return self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        centre = theta_phi.mean(2, keepdim=True)
        spread = theta_phi - centre
        covariance = gram(spread) / theta_phi.shape[2]
        means = (mixing @ centre).squeeze(2)
        within = ((mixing @ covariance) * mixing).sum(2).mean(0)
        mean, variance = means.mean(0), within + means.var(0, correction=0)
        _record(self.norm, mean, variance, count=theta_phi.shape[0] * theta_phi.shape[2])
        return mean, variance


@torch.no_grad()
def _record(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, *, count: int) -> None:
    """Updates the running statistics as BatchNorm does: unbiased variance, cumulative without a momentum."""
    seen, running_mean, running_var = map(norm.get_buffer, ("num_batches_tracked", "running_mean", "running_var"))
    seen += 1
    rate = 1 / seen if norm.momentum is None else norm.momentum
    running_mean += rate * (mean - running_mean)
    running_var += rate * (variance * count / (count - 1) - running_var)
