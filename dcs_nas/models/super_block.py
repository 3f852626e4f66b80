"""The block of a chain supernet: every kernel, expansion and width on one set of weights.

Shapes: B images, C channels of the widest input, E those of the widest expansion, D of the widest output, H x W map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.channel_mask import Widths, combined, kernel_mask
from dcs_nas.models.inverted_residual import InvertedResidual, fitted
from dcs_nas.space import StageSpec, squeezed

CostKind = Literal["flops", "parameters"]
BlockWeights = Mapping[str, Tensor]  # kernel, expansion, width, squeeze_excite, depth: (n,) each


class SuperBlock(nn.Module):
    """An ``InvertedResidual`` of the largest kernel, expansion and width, of which the weights keep a part.

    Masks (arXiv 2004.05565, section 3) stand behind the batch norms, whose shifts would fill masked channels again: one
    over the expanded channels, of a width of the input times an expansion, one over the output. The depthwise kernel is
    masked before its convolution. Expansion 1 mixes the input itself with the expanded map; depth mixes the input with
    the output.
    """

    def __init__(self, stage: StageSpec, before: tuple[int, ...], *, first: bool) -> None:
        super().__init__()
        self.stage, self.before, self.first = stage, before, first
        self.stride = stage.stride if first else 1
        self.largest = InvertedResidual(
            max(before),
            max(stage.widths),
            kernel=max(stage.kernels),
            expansion=max(stage.expansions),
            squeeze_excite=True in stage.squeeze_excite,
            stride=self.stride,
            activation=stage.activation,
            shortcut=not first,
        )

    def forward(self, x: Tensor, widths: Widths, weights: BlockWeights) -> tuple[Tensor, Widths]:
        """x (B, C, H, W) of ``widths`` to (B, D, H / stride, W / stride) and its widths; masked channels are 0."""
        expanded = widths.expanded(self.stage.expansions, weights["expansion"])
        hidden = self._filtered(self._expanded(x, weights["expansion"]), weights["kernel"])
        hidden = self._excited(_masked(hidden, expanded.mask()), expanded, weights["squeeze_excite"])
        out = Widths(self.stage.widths, weights["width"])
        y = self.largest.project(hidden)
        y = _masked(y if self.first else y + fitted(x, y.shape[1]), out.mask())
        if len(weights["depth"]) == 1:
            return y, out
        skip = weights["depth"][1]
        return y + skip * (x - y), out.mixed(widths, skip)

    def _expanded(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, E, H, W): the expanded map, and where expansion 1 is a candidate, its share of the input itself."""
        if self.largest.expand is None:
            return x
        y = self.largest.expand(x)
        if 1 not in self.stage.expansions:
            return y
        itself = weights[self.stage.expansions.index(1)]
        return y + itself * (fitted(x, y.shape[1]) - y)

    def _filtered(self, x: Tensor, weights: Tensor) -> Tensor:
        layer = self.largest.depthwise
        kernel = layer.conv.weight * kernel_mask(self.stage.kernels, weights)
        padding = max(self.stage.kernels) // 2
        y = F.conv2d(x, kernel, None, self.stride, padding, groups=x.shape[1])
        return layer.activation(layer.norm(y))

    def _excited(self, x: Tensor, expanded: Widths, weights: Tensor) -> Tensor:
        if self.largest.excite is None:
            return x
        inner = Widths(tuple(squeezed(e) for e in expanded.values), expanded.weights).mask()
        gate = self.largest.excite.gate(x, inner)
        if len(self.stage.squeeze_excite) == 1:
            return x * gate
        return x * (1 + weights[self.stage.squeeze_excite.index(True)] * (gate - 1))

    def cost(
        self, kind: CostKind, widths: Widths, weights: BlockWeights, size: tuple[int, int]
    ) -> tuple[Tensor, Widths]:
        """Expected multiply-adds or parameters for a map of ``size`` (H, W), and the widths of the output.

        The choices are independent and every term is a product of what single choices decide, so the expectation of
        the block is exact.
        """
        stage = self.stage
        out = Widths(stage.widths, weights["width"])
        area = size[0] * size[1] if kind == "flops" else 1
        area_out = -(-size[0] // self.stride) * -(-size[1] // self.stride) if kind == "flops" else 1
        norm = 0 if kind == "flops" else 2
        taps = combined(weights["kernel"], out.weights.new_tensor([k * k for k in stage.kernels]))
        width = out.mean(stage.widths)
        hidden = widths.expanded(stage.expansions, weights["expansion"])
        into = [
            0 if expansion == 1 else c * expansion * (c * area + norm)
            for c in widths.values
            for expansion in stage.expansions
        ]
        bias = 0 if kind == "flops" else 1
        excite = [2 * e * squeezed(e) + bias * (e + squeezed(e)) for e in hidden.values]
        excited = combined(weights["squeeze_excite"], out.weights.new_tensor(stage.squeeze_excite))
        total = hidden.mean(into) + hidden.mean(hidden.values) * (area_out * (taps + width) + norm)
        total = total + excited * hidden.mean(excite) + norm * width
        if len(weights["depth"]) == 1:
            return total, out
        return total * weights["depth"][0], out.mixed(widths, weights["depth"][1])


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    return x * mask.to(x.dtype)[:, None, None]
