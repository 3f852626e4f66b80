"""Relation-aware Global Attention (RGA): the weight of a node depends on its relations to all nodes.

Shapes: B batch, C channels, H x W map, N = HW; M nodes of D features each (spatial: M = N, D = C; channel: M = C,
D = N); d = D / 8 embedded features, e = M / 8 embedded relations, both at least 1.
Source: Zhang, Lan, Zeng, Jin, Chen, "Relation-Aware Global Attention for Person Re-Identification", CVPR 2020,
equations 3 to 8, and microsoft/Relation-Aware-Global-Attention-Networks, reid/models/models_utils/rga_modules.py.
The relations between all nodes are embedded and normalised without the relation matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial, reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.blocks.parts import check_sizes, start_gate, widen

_ROWS = 128  # relation features at a time: the backward pass holds (B, 128, M) beside what the forward pass saved
_PIECE = 2**17  # relation features of nodes at a time of a thread: 512 KiB, which stay in a core's cache


def product(weight: Tensor, x: Tensor) -> Tensor:
    """Return weight (E, D) times each image of x (B, D, M): (B, E, M).

    One product over the whole batch copies x; one for each image makes its gradient of the weight, B times in memory.
    """
    if weight.shape[0] <= x.shape[2]:
        return torch.bmm(weight.expand(x.shape[0], -1, -1), x)
    return (weight @ x.transpose(0, 1).flatten(1)).unflatten(1, (x.shape[0], -1)).transpose(0, 1)


def gram(x: Tensor) -> Tensor:
    """Return x x^T (B, D, D) of x (B, D, M)."""
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


def project_relu(projection: Tensor, own: Tensor, mixing: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    """Return P [o; ReLU(m x + s)], (B, E, M), of P (E, 1 + e), o (B, 1, M) >= 0, m (B, e, D), s (e, 1) and x (B, D, M).

    In training on a CPU the ReLU (B, e, M) is not kept but computed again, in pieces that fit the cache.
    """
    by_pieces = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if by_pieces and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # ReLU(o) is o: a first row of m picks it, and the last column is the shift
        mixing = F.pad(torch.cat([mixing, shift.expand(x.shape[0], -1, -1)], 2), (1, 0, 1, 0))
        mixing[:, 0, 0] = 1.0
        return cast(Tensor, _ProjectedRelu.apply(projection, mixing, torch.cat([own, x, torch.ones_like(own)], 1)))
    of_own, projection = projection.tensor_split([1], dim=1)
    rows = zip(mixing.split(_ROWS, 1), shift.split(_ROWS), projection.split(_ROWS, 1), strict=True)
    return reduce(torch.add, (product(p, F.relu_(torch.bmm(m, x).add_(s))) for m, s, p in rows), of_own * own)


class _ProjectedRelu(torch.autograd.Function):
    """P (E, e), m (B, e, D) and x (B, D, M) to P ReLU(m x), (B, E, M)."""

    @staticmethod
    def forward(ctx: Any, projection: Tensor, mixing: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(projection, mixing, x)
        y = x.new_zeros(x.shape[0], projection.shape[0], x.shape[2])
        for part, rows in _pieces(mixing, x):
            hidden = torch.bmm(mixing[part, rows], x[part]).relu_()
            y[part] += torch.bmm(projection[:, rows].expand(len(hidden), -1, -1), hidden)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), saved = gradients, ctx.saved_tensors
        projection, mixing, x = saved
        if torch.is_grad_enabled():  # it is differentiated again
            y, wanted = projection @ torch.relu(mixing @ x), ctx.needs_input_grad
            leaves = [tensor for tensor, is_wanted in zip(saved, wanted) if is_wanted]
            gradients_of = iter(torch.autograd.grad(y, leaves, gradient, create_graph=True))
            return tuple(next(gradients_of) if is_wanted else None for is_wanted in wanted)
        of_projection, of_mixing, of_x = map(torch.zeros_like, saved)
        for part, rows in _pieces(mixing, x):
            hidden = torch.bmm(mixing[part, rows], x[part]).relu_()
            if ctx.needs_input_grad[0]:
                of_projection[:, rows] += torch.bmm(gradient[part], hidden.mT).sum(0)
            of_hidden = torch.bmm(projection[:, rows].mT.expand(len(hidden), -1, -1), gradient[part])
            of_hidden = torch.ops.aten.threshold_backward(of_hidden, hidden, 0)
            torch.bmm(of_hidden, x[part].mT, out=of_mixing[part, rows])
            of_x[part] += torch.bmm(mixing[part, rows].mT, of_hidden)
        return of_projection, of_mixing, of_x


def _pieces(mixing: Tensor, x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield images and rows of m (B, e, D) whose products with x (B, D, M) fit the caches of the threads."""
    (batch, relations, _), nodes = mixing.shape, x.shape[2]
    room = _PIECE * torch.get_num_threads()
    rows = max(1, min(relations, room // nodes))
    images = max(1, room // (rows * nodes))
    for image in range(0, batch, images):
        for row in range(0, relations, rows):
            yield slice(image, image + images), slice(row, row + rows)


class Pointwise(nn.Module):
    """A 1x1 convolution without bias, then BatchNorm: (B, D, M) to (B, E, M)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.norm = nn.BatchNorm1d(out_features)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return BN(weight x)."""
        return self.norm(product(self.weight, x))


class RelationEmbedding(nn.Module):
    """P [o_i; ReLU(BN(W_in R_i. + W_out R_.i))] for every node i and its own feature o_i, R_ij = theta_i . phi_j.

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

    def forward(self, own: Tensor, theta_phi: Tensor, projection: Tensor) -> Tensor:
        """Return (B, E, M) of own features (B, 1, M) >= 0, theta_phi (B, 2d, M), theta first, and P (E, 1 + e)."""
        mixing = self._mixing(theta_phi)
        (relations, width), nodes = mixing.shape[1:], theta_phi.shape[2]
        # SyncBatchNorm has statistics that span processes; few relations are smaller than the covariance
        if not isinstance(self.norm, nn.BatchNorm1d) or relations * nodes < width**2:
            embedded = F.relu(self.norm(torch.bmm(mixing, theta_phi)), inplace=True)
            return product(projection, torch.cat([own, embedded], 1))
        return project_relu(projection, own, *self._normalise(mixing, theta_phi), theta_phi)

    def _mixing(self, theta_phi: Tensor) -> Tensor:
        """Return [W_in phi^T, W_out theta^T] (B, e, 2d), as one product over the whole batch."""
        batch, _, nodes = theta_phi.shape
        rows = theta_phi.unflatten(1, (2, -1)).transpose(0, 1).reshape(2, -1, nodes)
        mixed = torch.bmm(self.weight, rows.mT).unflatten(2, (batch, -1))
        return mixed.flip(0).permute(2, 1, 0, 3).flatten(2)

    def _normalise(self, mixing: Tensor, theta_phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return matrix (B, e, 2d) and shift (e, 1) with BN(mixing @ theta_phi) = matrix @ theta_phi + shift."""
        with torch.autocast(theta_phi.device.type, enabled=False):
            mean, variance = self._statistics(widen(mixing), widen(theta_phi))
            gain = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
            shift = self.norm.bias - mean * gain
            return (gain.unsqueeze(1) * mixing).to(mixing.dtype), shift.unsqueeze(1).to(mixing.dtype)

    def _statistics(self, mixing: Tensor, theta_phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (e) of ``mixing @ theta_phi``: in training of the batch, which are recorded."""
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
    """Update the running statistics as BatchNorm does: unbiased variance, cumulative without a momentum."""
    seen, running_mean, running_var = map(norm.get_buffer, ("num_batches_tracked", "running_mean", "running_var"))
    seen += 1
    rate = 1 / seen if norm.momentum is None else norm.momentum
    running_mean += rate * (mean - running_mean)
    running_var += rate * (variance * count / (count - 1) - running_var)


class RelationGate(nn.Module):
    """One logit per node from its own features and its relations to all nodes: (B, D, M) to (B, 1, M).

    A node is described by mean(g(x_i)) and its embedded relations; two 1x1 convolutions make the logit. The embeddings
    g, theta, phi are one product and one BatchNorm, in this order.
    """

    def __init__(self, features: int, nodes: int, *, reduction: int = 8, gate_start: str = "constant") -> None:
        super().__init__()
        self.embedded, relations = max(1, features // reduction), max(1, nodes // reduction)
        hidden = max(1, (1 + relations) // reduction)
        self.features = Pointwise(features, 3 * self.embedded)
        self.relations = RelationEmbedding(nodes, relations)
        self.hidden = Pointwise(1 + relations, hidden)
        self.logit = Pointwise(hidden, 1)
        start_gate(self.logit.norm, gate_start)

    def forward(self, nodes: Tensor) -> Tensor:
        """Return logits (B, 1, M) of nodes (B, D, M)."""
        own, theta_phi = F.relu(self.features(nodes), inplace=True).split([self.embedded, 2 * self.embedded], 1)
        hidden = self.relations(own.mean(1, keepdim=True), theta_phi, self.hidden.weight)
        return self.logit(F.relu(self.hidden.norm(hidden), inplace=True))


class RGA(nn.Module):
    """Spatial RGA, channel RGA, or spatial then channel: (B, C, H, W) to (B, C, H, W).

    out = X o sigmoid(gate over positions), then X o sigmoid(gate over channels)

    Args:
        channels: C.
        height: H of every map, since the gates' weights fit one number of positions.
        width: W of every map.
        use_spatial: gate the positions.
        use_channel: gate the channels.
        reduction: divides the widths of all embeddings (published: 8), never below 1.
        max_nodes: larger maps are average-pooled to at most so many positions for the gates alone, and the positions'
            logits are brought back by bilinear interpolation. None: never.
        gate_start: "constant": every weight starts at 1/2 (ours, for training from scratch); "published": random gates.

    Raises:
        InputError: a size below 1, no gate at all, an unknown start, or a map of another size than the block was
            built for.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        use_spatial: bool = True,
        use_channel: bool = True,
        reduction: int = 8,
        max_nodes: int | None = None,
        gate_start: str = "constant",
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, height=height, width=width, reduction=reduction)
        if not (use_spatial or use_channel):
            raise InputError("RGA got use_spatial and use_channel both false; expected one or both to be true")
        self.height, self.width = height, width
        self.stride = _pooling_stride(height, width, max_nodes)
        positions = math.ceil(height / self.stride) * math.ceil(width / self.stride)
        gate = partial(RelationGate, reduction=reduction, gate_start=gate_start)
        self.spatial = gate(channels, positions) if use_spatial else None
        self.channel = gate(positions, channels) if use_channel else None

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the positions and the channels of x (B, C, H, W)."""
        if x.shape[2] != self.height or x.shape[3] != self.width:
            raise InputError(
                f"RGA got a map of {x.shape[2]} x {x.shape[3]}; expected {self.height} x {self.width}, which its "
                "weights fit: resize the images or build the block for this size"
            )
        if self.spatial is not None:
            x = x * self._position_weights(x, self.spatial)
        if self.channel is not None:
            x = x * self._channel_weights(x, self.channel)
        return x

    def _position_weights(self, x: Tensor, gate: RelationGate) -> Tensor:
        """Return weights (B, 1, H, W) in (0, 1)."""
        pooled = self._pool(x)
        logits = gate(pooled.flatten(2)).unflatten(2, pooled.shape[2:])
        if self.stride > 1:
            logits = F.interpolate(logits, size=(self.height, self.width), mode="bilinear")
        return torch.sigmoid(logits)

    def _channel_weights(self, x: Tensor, gate: RelationGate) -> Tensor:
        """Return weights (B, C, 1, 1) in (0, 1)."""
        descriptors = self._pool(x).flatten(2).mT
        return torch.sigmoid(gate(descriptors)).view(x.shape[0], -1, 1, 1)

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride, ceil_mode=True) if self.stride > 1 else x


def _pooling_stride(height: int, width: int, max_nodes: int | None) -> int:
    """Return the least whole stride that leaves at most ``max_nodes`` positions."""
    if max_nodes is None:
        return 1
    check_sizes(max_nodes=max_nodes)
    stride = 1
    while math.ceil(height / stride) * math.ceil(width / stride) > max_nodes:
        stride += 1
    return stride
