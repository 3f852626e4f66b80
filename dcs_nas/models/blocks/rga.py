"""Relation-aware Global Attention (RGA): every node is judged by its relations to all others.

Shapes: B batch, C channels, H x W map, N = HW; M nodes of D features each (spatial: M = N, D = C; channel: M = C,
D = N); d = D / 8 embedded features, e = M / 8 embedded relations, both at least 1.
Source: Zhang, Lan, Zeng, Jin, Chen, "Relation-Aware Global Attention for Person Re-Identification", CVPR 2020,
equations 3 to 8, and microsoft/Relation-Aware-Global-Attention-Networks, reid/models/models_utils/rga_modules.py.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.blocks.parts import check_sizes, start_gate
from dcs_nas.models.blocks.relations import Pointwise, RelationEmbedding


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
        """Logits (B, 1, M) of nodes (B, D, M)."""
        own, theta_phi = F.relu(self.features(nodes), inplace=True).split([self.embedded, 2 * self.embedded], 1)
        from_own, from_relations = self.hidden.weight.tensor_split([1], dim=1)
        hidden = from_own * own.mean(1, keepdim=True) + self.relations(theta_phi, from_relations)
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
        """Weighs the positions and the channels of x (B, C, H, W)."""
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
        """(B, 1, H, W) in (0, 1)."""
        pooled = self._pool(x)
        logits = gate(pooled.flatten(2)).unflatten(2, pooled.shape[2:])
        if self.stride > 1:
            logits = F.interpolate(logits, size=(self.height, self.width), mode="bilinear")
        return torch.sigmoid(logits)

    def _channel_weights(self, x: Tensor, gate: RelationGate) -> Tensor:
        """(B, C, 1, 1) in (0, 1)."""
        descriptors = self._pool(x).flatten(2).mT
        return torch.sigmoid(gate(descriptors)).view(x.shape[0], -1, 1, 1)

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride, ceil_mode=True) if self.stride > 1 else x


def _pooling_stride(height: int, width: int, max_nodes: int | None) -> int:
    """The least whole stride that leaves at most ``max_nodes`` positions."""
    if max_nodes is None:
        return 1
    check_sizes(max_nodes=max_nodes)
    stride = 1
    while math.ceil(height / stride) * math.ceil(width / stride) > max_nodes:
        stride += 1
    return stride
