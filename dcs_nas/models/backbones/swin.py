"""Swin transformers with the parameter names of SOLIDER (and of mmdetection, from which they are).

Shapes: B images, C channels, H x W map, R windows of M x M positions, N = M^2, K heads.
Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021, sections 3.1
to 3.3; Chen et al., "Beyond Appearance: a Semantic Controllable Self-Supervised Learning Framework for Human-Centric
Visual Tasks" (SOLIDER), CVPR 2023, equation 5; tinyvision/SOLIDER-REID at 8c08e1c, model/backbones/swin_transformer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.backbone import Backbone, register_backbone
from dcs_nas.models.blocks.parts import constants, drop_path

WINDOW = 7
_SEPARATE = -100.0  # added to the logits of positions that only the shift brought together
# Microsoft's names, ours; see ``SwinTransformer.adapt_weights``.
_MICROSOFT_NAMES = (
    ("layers.", "stages."),
    (".attn.", ".attn.w_msa."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
    ("patch_embed.proj.", "patch_embed.projection."),
)


class WindowAttention(nn.Module):
    """Attention within windows, softmax(q k^T / sqrt(C / K) + bias) v: (B, R, N, C) to (B, R, N, C).

    The bias is learned for each head and each of the (2 M - 1)^2 offsets between two positions of a window.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _index_offsets())
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows; ``mask`` (R, N, N) is added to the logits."""
        windows = x.shape[1]
        qkv = self.qkv(x).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        q, k, v = qkv.flatten(2, 3)  # of each head of each window, (B, RK, N, C / K)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias if mask is None else bias + mask.unsqueeze(1).to(bias.dtype)
        bias = bias.expand(windows, -1, -1, -1).flatten(0, 1).unsqueeze(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)).unflatten(1, (windows, self.heads))
        return self.proj(out.transpose(2, 3).flatten(3))


def _index_offsets() -> Tensor:
    """Return (N, N): the index, out of (2 M - 1)^2, of the offset from the second position to the first."""
    place = torch.arange(WINDOW)
    offset = place.unsqueeze(1) - place + WINDOW - 1
    index = (2 * WINDOW - 1) * offset[:, None, :, None] + offset[None, :, None, :]
    return index.reshape(WINDOW**2, WINDOW**2)


class ShiftedWindowAttention(nn.Module):
    """``WindowAttention`` on a map (B, H, W, C), padded to whole windows, moved by half a window if ``shifted``.

    Positions that the move brings into one window from opposite sides of the map do not attend to each other.
    """

    def __init__(self, channels: int, heads: int, *, shifted: bool) -> None:
        super().__init__()
        self.w_msa = WindowAttention(channels, heads)
        self.shift = WINDOW // 2 if shifted else 0

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        mask = None
        if self.shift:
            mask = _build_mask(x.shape[1], x.shape[2], self.shift, x.device)
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        rows = x.shape[1] // WINDOW
        windows = self.w_msa(_split_windows(x), mask)
        x = windows.unflatten(1, (rows, -1)).unflatten(3, (WINDOW, WINDOW)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


def _split_windows(x: Tensor) -> Tensor:
    """Return a map (B, H, W, C) of whole windows as (B, R, N, C)."""
    x = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _build_mask(height: int, width: int, shift: int, device: torch.device) -> Tensor:
    """Return the mask (R, N, N) of a moved map: 0 for two positions of one region, -100 for those of two regions."""
    rows, columns = (
        sum((torch.arange(side, device=device) >= side - last).long() for last in (WINDOW, shift))
        for side in (height, width)
    )
    regions = (3 * rows[:, None] + columns).view(1, height, width, 1)  # type: ignore[index]
    region = _split_windows(regions)[0, :, :, 0]
    return torch.where(region.unsqueeze(1) == region.unsqueeze(2), 0.0, _SEPARATE)


class FeedForward(nn.Module):
    """Two layers with GELU, four times as wide inside: (..., C) to (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU())
        self.layers = nn.Sequential(first, nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SwinBlock(nn.Module):
    """Attention within windows, then a feed-forward part, each normalised before and added: (B, H, W, C) to the same.

    In training each of the two is left out for an image with probability ``drop_path``.
    """

    def __init__(self, channels: int, heads: int, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = ShiftedWindowAttention(channels, heads, shifted=shifted)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_path, self.training)
        return x + drop_path(self.ffn(self.norm2(x)), self.drop_path, self.training)


class PatchMerging(nn.Module):
    """2 x 2 positions as one of twice the channels: (B, H, W, C) to (B, H / 2, W / 2, 2 C), zeros at odd borders."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
        return self.reduction(self.norm(x.permute(0, 1, 3, 5, 2, 4).flatten(3)))


class SwinStage(nn.Module):
    """Blocks, every second one shifted, then a ``PatchMerging`` unless it is the last stage."""

    def __init__(self, channels: int, heads: int, drop_paths: list[float], *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, shifted=n % 2 == 1, drop_path=rate) for n, rate in enumerate(drop_paths)
        )
        self.downsample = None if last else PatchMerging(channels)


class PatchEmbedding(nn.Module):
    """Patches of 4 x 4 as normalised vectors: images (B, 3, H, W) to a map (B, C, H / 4, W / 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SwinTransformer(Backbone):
    """Images (B, 3, H, W) to normalised maps (B, 8 embedding, H / 32, W / 32).

    The stages are named "0" to "3", as in the weights.

    Args:
        embedding: channels of the first stage; each of the four doubles it.
        depths: blocks in each stage.
        heads: of the first stage; each doubles it.
        drop_path: stochastic depth of the last block, rising linearly from 0.
        semantic_weight: SOLIDER's lambda, from 0 (appearance) to 1 (semantics): between two stages
            x softplus(W a) + V a with a = (lambda, 1 - lambda), W and V from the weights file and frozen. None: no such
            embedding.

    Raises:
        InputError: a rate or weight out of its range.
    """

    kind = "map"
    stem_path = "patch_embed"
    default_stages = ("0", "1", "2", "3")

    def __init__(
        self,
        *,
        embedding: int,
        depths: tuple[int, int, int, int],
        heads: int,
        drop_path: float = 0.1,
        semantic_weight: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise InputError(f"drop_path is {drop_path!r}; expected a probability below 1")
        if semantic_weight is not None and not 0 <= semantic_weight <= 1:
            raise InputError(f"semantic_weight is {semantic_weight!r}; expected a number from 0 to 1, or null for none")
        rates = [drop_path * n / (sum(depths) - 1) for n in range(sum(depths))]
        widths = [embedding * 2**n for n in range(4)]
        self.num_features = widths[-1]
        self.patch_embed = PatchEmbedding(embedding)
        # A mapping of names to modules, as ``Backbone.stages`` is iterated by name and the weights say stages.0.
        self.stages = nn.ModuleDict()  # type: ignore[assignment]
        for n, depth in enumerate(depths):
            before = sum(depths[:n])
            self.stages[str(n)] = SwinStage(widths[n], heads * 2**n, rates[before : before + depth], last=n == 3)  # type: ignore[index]
        self.norm3 = nn.LayerNorm(widths[-1])
        self.semantic_weight = semantic_weight
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if semantic_weight is not None:
            self.semantic_embed_w = nn.ModuleList(_build_frozen(width) for width in widths[1:])
            self.semantic_embed_b = nn.ModuleList(_build_frozen(width) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, num_features, h, w) of images (B, 3, H, W)."""
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        for n, (name, stage) in enumerate(self.stages.items()):  # type: ignore[attr-defined]
            for block in stage.blocks:
                x = block(x)
            x = self.attend(name, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            if stage.downsample is not None:
                x = self._condition(n, stage.downsample(x))
        return self.norm3(x).permute(0, 3, 1, 2)

    def _condition(self, n: int, x: Tensor) -> Tensor:
        """Return the map that leaves stage n, conditioned on the semantic weight."""
        if self.semantic_weight is None:
            return x
        weights = constants([self.semantic_weight, 1 - self.semantic_weight], like=x)
        return x * F.softplus(self.semantic_embed_w[n](weights)) + self.semantic_embed_b[n](weights)

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of SOLIDER, or of microsoft/Swin-Transformer, without tensors that the last map does not read.

        Left out are the norms of the other stages' outputs and the semantic embedding of the last stage; without
        ``semantic_weight`` that of every stage. Microsoft's merging reads its four positions in another order.
        """
        adapted = {}
        for name, tensor in _rename_microsoft(weights).items():
            unread = name.startswith(("norm0.", "norm1.", "norm2.", "semantic_embed_w.3.", "semantic_embed_b.3."))
            semantic = name.startswith("semantic_embed_")
            if not unread and not (semantic and self.semantic_weight is None):
                adapted[name] = tensor
        return adapted


def _rename_microsoft(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not any(name.startswith("layers.") for name in weights):
        return dict(weights)
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("head.") or name.endswith(".attn_mask"):
            continue
        ours = name
        for theirs, replacement in _MICROSOFT_NAMES:
            ours = ours.replace(theirs, replacement, 1)
        if ".downsample." in name:
            # (place, channel) with the places by columns, to (channel, place) by rows
            tensor = tensor.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-1, -2).flatten(-2)
        renamed[f"norm3.{ours.removeprefix('norm.')}" if ours.startswith("norm.") else ours] = tensor
    return renamed


def _build_frozen(width: int) -> nn.Linear:
    """Return a layer of SOLIDER's pretraining, which SOLIDER-REID does not train on."""
    layer = nn.Linear(2, width)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer.requires_grad_(False)


def _register(name: str, **sizes: Any) -> None:
    def make(
        *, height: int, width: int, drop_path: float = 0.1, semantic_weight: float | None = None
    ) -> SwinTransformer:
        return SwinTransformer(**sizes, drop_path=drop_path, semantic_weight=semantic_weight)

    register_backbone(name)(make)


# Swin-T, Swin-S and Swin-B: 27.5, 48.8 and 86.7 M parameters; 768, 768 and 1024 channels out
_register("swin_tiny", embedding=96, depths=(2, 2, 6, 2), heads=3)
_register("swin_small", embedding=96, depths=(2, 2, 18, 2), heads=3)
_register("swin_base", embedding=128, depths=(2, 2, 18, 2), heads=4)
