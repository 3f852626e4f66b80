"""Attention after a stage of a chain supernet, on a map whose width is not chosen yet.

Shapes: B images, C channels of the widest, H x W map, N = HW tokens.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from dcs_nas.models.blocks import DCSAttention, build_attention, select_channels
from dcs_nas.models.blocks.parts import attend, attention_scale, to_map, to_tokens
from dcs_nas.models.channel_mask import Widths, combined
from dcs_nas.models.flops import count_map
from dcs_nas.models.super_block import CostKind


class SuperAttention(nn.Module):
    """The weighted sum of the candidates: DCS-Attention on masked channels, any other block once for each width."""

    def __init__(self, names: tuple[str, ...], widths: tuple[int, ...], height: int, width: int) -> None:
        super().__init__()
        self.names, self.widths, self.size = names, widths, (height, width)
        made: dict[str, nn.Module] = {}
        for name in names:
            if name == "dcs":
                made[name] = MaskedDCS(max(widths))
            elif name != "none":
                made[name] = PerWidth(name, widths, height, width)
        self.candidates = nn.ModuleDict(made)

    def forward(self, x: Tensor, widths: Widths, weights: Tensor) -> Tensor:
        """x (B, C, H, W) of ``widths``, ``weights`` (A,) of the candidates."""
        total = torch.zeros_like(x)
        for name, weight in zip(self.names, weights):
            total = total + weight * (x if name == "none" else self.candidates[name](x, widths))
        return total

    def state(self, name: str, width: int) -> dict[str, Tensor]:
        """Parameters and statistics of candidate ``name`` from which those of a block of ``width`` are cut."""
        if name == "none":
            return {}
        block = self.candidates[name]
        return (block.blocks[str(width)] if isinstance(block, PerWidth) else block).state_dict()

    def cost(self, kind: CostKind, widths: Widths, weights: Tensor) -> Tensor:
        """Expected multiply-adds or parameters."""
        each = [widths.mean([attention_cost(kind, name, c, *self.size) for c in widths.values]) for name in self.names]
        return combined(weights, torch.stack(each))


class MaskedDCS(DCSAttention):
    """DCS-Attention whose channels beyond a candidate width are masked: the same weights serve every width.

    Masked channels of X are 0, so they add nothing to the logits of others nor to X o M; the scale and the
    share of channels kept are those of the width meant, and the batch norm's shift is masked.
    """

    def forward(self, x: Tensor, widths: Widths | None = None) -> Tensor:
        if widths is None:
            return super().forward(x)
        tokens = to_tokens(x)
        kept = select_channels(self.selector(tokens), self.tau, self.training).to(tokens.dtype)
        mask = widths.mask()
        self._record((kept * mask).mean() / mask.mean())
        selected = tokens * kept
        scale = widths.mean([attention_scale(self.scale_kind, c) for c in widths.values])
        refined = attend(selected * scale.to(tokens.dtype), selected, tokens, scale=1.0)
        refined = self.norm(self.local(to_map(refined, x.shape[2], x.shape[3])))
        return x + refined * mask.to(refined.dtype)[:, None, None]


class PerWidth(nn.Module):
    """A block that other channels would change (means over them, batch norms along them): one of each width.

    The block of the width with the largest weight computes, on the channels of that width; the others pass.
    """

    def __init__(self, name: str, widths: tuple[int, ...], height: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(c): build_attention(name, c, height, width) for c in widths})

    def forward(self, x: Tensor, widths: Widths) -> Tensor:
        channels = widths.strongest()
        return torch.cat([self.blocks[str(channels)](x[:, :channels]), x[:, channels:]], dim=1)


@lru_cache(maxsize=4096)
def attention_cost(kind: CostKind, name: str, channels: int, height: int, width: int) -> int:
    """Multiply-adds or parameters of the attention block ``name`` on one map."""
    cost, _ = count_map(build_attention(name, channels, height, width), (channels, height, width))
    return cost.macs if kind == "flops" else cost.parameters
