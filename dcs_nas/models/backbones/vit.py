"""Vision transformers, timm's parameter names, and TransReID's camera embedding; vit_variants.py has other kinds.

Shapes: B images, H x W image, h x w grid of patches, N = 1 + registers + hw tokens, D features, K heads.
Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; He et al., "TransReID: Transformer-based Object
Re-Identification", ICCV 2021, sections 3.1 (overlapping patches) and 3.3 (side information embedding), and
damo-cv/TransReID, model/backbones/vit_pytorch.py.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.backbone import Backbone, register_backbone
from dcs_nas.models.blocks.parts import check_sizes, drop_path, to_map, to_tokens

log = logging.getLogger(__name__)

Activation = Callable[[Tensor], Tensor]
PATCH = 16
_SIMILAR = math.log(1.7)  # a grid of half or twice the proportions could as well be the one that lies across
_APART = math.log(1.3)  # between the proportions of the nearest grid and the next


class SelfAttention(nn.Module):
    """Multi-head softmax attention: (B, N, D) to (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers with an activation between, four times as wide inside: (B, N, D) to (B, N, D)."""

    def __init__(self, width: int, activation: Activation = F.gelu) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for each feature, ``start`` at first (Touvron et al., ICCV 2021, equation 3)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class TransformerBlock(nn.Module):
    """Attention, then MLP, each normalised before and added: (B, N, D) to (B, N, D).

    In training each of the two is left out for an image with probability ``drop_path``. With ``layer_scale`` each goes
    through a ``LayerScale`` that starts there.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        drop_path: float,
        activation: Activation = F.gelu,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width, activation)
        self.ls1, self.ls2 = (
            nn.Identity() if layer_scale is None else LayerScale(width, layer_scale) for _ in range(2)
        )
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + drop_path(self.ls1(self.attn(self.norm1(x))), self.drop_path, self.training)
        return x + drop_path(self.ls2(self.mlp(self.norm2(x))), self.drop_path, self.training)


class PatchEmbedding(nn.Module):
    """Square patches as vectors: images (B, 3, H, W) to a map (B, D, h, w)."""

    def __init__(self, width: int, *, stride: int, patch: int = PATCH, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class TokenBackbone(Backbone):
    """A backbone of tokens: the class token, registers, and the patches of an h x w grid.

    Attributes:
        grid: h, w.
        registers: tokens between the class token and the patches.
    """

    grid: tuple[int, int]
    registers: int = 0

    def attend_patches(self, stage: str, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, D) that leave ``stage``, their patches after its attention, if any."""
        if stage not in self.attention:
            return tokens
        patches = self.attend(stage, self.patch_map(tokens))
        return torch.cat([tokens[:, : 1 + self.registers], to_tokens(patches)], dim=1)

    def patch_map(self, tokens: Tensor) -> Tensor:
        """Return the patches of tokens (B, N, D) as a map (B, D, h, w)."""
        return to_map(tokens[:, 1 + self.registers :], *self.grid)


class VisionTransformer(TokenBackbone):
    """Images (B, 3, height, width) to the normalised class token, (B, D).

    Attention may follow every block but the last, whose patch tokens nothing reads; it acts on the patch tokens as an
    h x w map and leaves the class token as it is. By default it follows each quarter of the depth but the last.

    Args:
        height: H of every image.
        width: W of every image.
        embedding: D, a multiple of ``heads``.
        depth: number of blocks, at least 2.
        heads: K.
        stride: between patches; None: their size. Below it they overlap (TransReID: 12).
        cameras: number of cameras; above 0, each has a learned vector that is added to all tokens of its images.
        camera_weight: factor of that vector (TransReID's configs: 3).
        drop_path: stochastic depth of the last block, rising linearly from 0 (TransReID: 0.1).
        registers: number of register tokens after the class token (Darcet et al., ICLR 2024).
        patch_bias: whether the patch embedding has a bias.
        pre_norm: whether the tokens are normalised before the first block too.
        block_settings: further settings of every ``TransformerBlock``.

    Raises:
        InputError: an option out of its range.
    """

    kind = "vector"
    smallest = PATCH
    stem_path = "patch_embed"

    def __init__(
        self,
        *,
        height: int,
        width: int,
        embedding: int,
        depth: int,
        heads: int,
        stride: int | None = None,
        cameras: int = 0,
        camera_weight: float = 3.0,
        drop_path: float = 0.1,
        registers: int = 0,
        patch_bias: bool = True,
        pre_norm: bool = False,
        **block_settings: Any,
    ) -> None:
        super().__init__()
        stride = self.smallest if stride is None else stride
        check_sizes(stride=stride)
        if depth < 2:
            raise InputError(f"a vision transformer has {depth} blocks; expected at least 2")
        _check_options(drop_path, camera_weight, cameras=cameras, registers=registers)
        self.image_size = (height, width)
        rows, columns = (max(0, side - self.smallest) // stride + 1 for side in (height, width))
        self.grid = rows, columns
        self.registers = registers
        self.num_features = embedding
        self.stages = tuple(f"block{n}" for n in range(depth - 1))
        self.default_stages = tuple(dict.fromkeys(f"block{max(0, depth * quarter // 4 - 1)}" for quarter in (1, 2, 3)))
        self.cameras = cameras
        self.camera_weight = camera_weight
        self.patch_embed = PatchEmbedding(embedding, stride=stride, patch=self.smallest, bias=patch_bias)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embedding))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + math.prod(self.grid), embedding))
        self.sie_embed = nn.Parameter(torch.empty(cameras, 1, embedding)) if cameras else None
        self.register_tokens = nn.Parameter(torch.empty(1, registers, embedding)) if registers else None
        eps = block_settings.get("norm_eps", 1e-6)
        self.norm_pre = nn.LayerNorm(embedding, eps=eps) if pre_norm else nn.Identity()
        rates = [drop_path * n / (depth - 1) for n in range(depth)]
        self.blocks = nn.ModuleList(
            [TransformerBlock(embedding, heads, drop_path=rate, **block_settings) for rate in rates]
        )
        self.norm = nn.LayerNorm(embedding, eps=eps)
        self._initialize()

    def forward(self, x: Tensor, cameras: Tensor | None = None) -> Tensor:
        """Return class tokens (B, D) of images (B, 3, H, W) and their cameras (B,), whole numbers from 0.

        In evaluation an absent ``cameras`` stands for unknown cameras: the mean of their vectors (a choice of ours;
        TransReID always knows them).
        """
        tokens = self.embed(x, cameras)
        for n, block in enumerate(self.blocks):
            tokens = self.attend_patches(f"block{n}", block(tokens))
        return self.norm(tokens[:, 0])

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with ``pos_embed`` (1, N, D) on this network's grid, its class token's position first.

        The position of DeiT's distillation token is left out, and PASS' ``cls_pos`` put in front. Another grid is
        resized as timm does (layers/pos_embed.py): bicubic, antialiased. Camera vectors of another number of cameras
        are left out.

        Raises:
            InputError: a network with a norm before its blocks (CLIP) or with registers where this has none, or
                positions of which the grid is not clear.
        """
        if "norm_pre.weight" in weights and isinstance(self.norm_pre, nn.Identity):
            raise InputError(
                "it has a norm before its blocks ('norm_pre'), as in CLIP, but not here; use clip_vit_base"
            )
        if "register_tokens" in weights and weights["register_tokens"].shape[1:2] != (self.registers,):
            shape = tuple(weights["register_tokens"].shape)
            raise InputError(f"its registers ('register_tokens') are {shape}; expected {self.registers} of them")
        adapted = dict(weights)
        if self.sie_embed is None or adapted.get("sie_embed", self.sie_embed).shape != self.sie_embed.shape:
            adapted.pop("sie_embed", None)
        positions = adapted.get("pos_embed")
        if positions is None or positions.ndim != 3 or positions.shape[::2] != self.pos_embed.shape[::2]:
            return adapted
        if "cls_pos" in adapted:
            positions = torch.cat([adapted.pop("cls_pos"), positions], dim=1)
        elif "dist_token" in adapted:
            positions = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
        adapted["pos_embed"] = self._resize(positions)
        return adapted

    def _resize(self, positions: Tensor) -> Tensor:
        """Return positions (1, 1 + N', D) as (1, 1 + N, D); N' = N means this network's own grid."""
        count = positions.shape[1] - 1
        self.interpolated.clear()
        if count == math.prod(self.grid):
            side = math.isqrt(count)
            if side * side == count and self.grid != (side, side):
                log.warning(
                    "its %d positions are read as the grid %d x %d of this network; if they are %d x %d, of square "
                    "images, take images of another size",
                    count, *self.grid, side, side,
                )  # fmt: skip
            return positions
        height, width = self._find_grid(count)
        self.interpolated["pos_embed"] = f"{height} x {width} to {self.grid[0]} x {self.grid[1]}"
        old = to_map(positions[:, 1:].float(), height, width)
        grid = F.interpolate(old, size=self.grid, mode="bicubic", antialias=True)
        return torch.cat([positions[:, :1].float(), to_tokens(grid)], dim=1)

    def _find_grid(self, count: int) -> tuple[int, int]:
        """Return the grid (h, w) of ``count`` patches: a square, else the only grid of about our proportions."""
        side = math.isqrt(max(0, count))
        if side and side * side == count:
            return side, side
        ratio = math.log(self.grid[0] / self.grid[1])
        pairs = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
        distances = sorted((abs(math.log(h / w) - ratio), h, w) for h, w in pairs)
        if not distances or distances[0][0] > _SIMILAR or any(d < distances[0][0] + _APART for d, *_ in distances[1:]):
            expected = "a square, or a grid of about the proportions of {} x {}".format(*self.grid)
            raise InputError(f"its {count} patch positions ('pos_embed') fit no single grid; expected {expected}")
        return distances[0][1:]

    def embed(self, x: Tensor, cameras: Tensor | None) -> Tensor:
        """Return all tokens (B, N, D), class token first, with positions and cameras, as the first block gets them."""
        if x.shape[2] != self.image_size[0] or x.shape[3] != self.image_size[1]:
            size, wanted = f"{x.shape[2]} x {x.shape[3]}", "{} x {}".format(*self.image_size)
            raise InputError(f"images are {size}; expected {wanted}, which this transformer was built for")
        patches = to_tokens(self.patch_embed(x))
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        if self.sie_embed is not None:
            tokens = tokens + self.camera_weight * self._select_cameras(self.sie_embed, cameras)
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(x.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        return self.norm_pre(tokens)

    def _select_cameras(self, vectors: Tensor, cameras: Tensor | None) -> Tensor:
        """Return (B, 1, D), or (1, 1, D) for unknown cameras."""
        if cameras is not None:
            return vectors[cameras]
        if self.training:
            raise InputError("this transformer has a camera embedding; give the images' cameras in training")
        return vectors.mean(0, keepdim=True)

    def _initialize(self) -> None:
        """Initialize as timm and TransReID do."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        projection = self.patch_embed.proj.weight
        nn.init.normal_(projection, std=math.sqrt(2 / (self.smallest**2 * projection.shape[0])))
        for parameter in (self.cls_token, self.pos_embed, self.sie_embed, self.register_tokens):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)


def strip_root(weights: Mapping[str, Tensor], landmark: str) -> dict[str, Tensor]:
    """Return the tensors below the prefix of the name ``landmark``, without the prefix; all if no name has it.

    Raises:
        InputError: the name occurs after several prefixes.
    """
    roots = [name.removesuffix(landmark) for name in weights if name == landmark or name.endswith(f".{landmark}")]
    if len(roots) > 1:
        raise InputError(f"it holds {len(roots)} networks: {', '.join(roots)}; choose one by retrain.weights_key")
    root = roots[0] if roots else ""
    return {name.removeprefix(root): tensor for name, tensor in weights.items() if name.startswith(root)}


def _check_options(drop_path: float, camera_weight: float, **counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 0:
            raise InputError(f"{name} is {count!r}; expected a whole number, 0 for none")
    if not 0 <= drop_path < 1:
        raise InputError(f"drop_path is {drop_path!r}; expected a probability below 1")
    if not math.isfinite(camera_weight):
        raise InputError(f"camera_weight is {camera_weight!r}; expected a finite number")


def register_transformer(
    name: str,
    network: Callable[..., Backbone],
    *,
    embedding: int,
    depth: int,
    heads: int,
    stride: int = PATCH,
    drop_path: float = 0.1,
    **own: Any,
) -> None:
    """Register a transformer of one size in ``BACKBONES``; its options are those of ``VisionTransformer`` and ``own``.

    Args:
        name: in ``BACKBONES``.
        network: a class that takes image size, ``embedding``, ``depth``, ``heads`` and the options.
        embedding: width of the tokens.
        depth: number of blocks.
        heads: of every block.
        stride: default of the option.
        drop_path: default of the option.
        own: further options with their defaults.
    """
    defaults = {"stride": stride, "cameras": 0, "camera_weight": 3.0, "drop_path": drop_path, **own}

    def make(*, height: int, width: int, **options: Any) -> Backbone:
        size = {"height": height, "width": width, "embedding": embedding, "depth": depth, "heads": heads}
        return network(**size, **{**defaults, **options})

    taken = [inspect.Parameter(side, inspect.Parameter.KEYWORD_ONLY) for side in ("height", "width")]
    taken += [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=value) for n, value in defaults.items()]
    make.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    make.__annotations__ = {n: int | None if value is None else type(value) for n, value in defaults.items()}
    register_backbone(name)(make)


# ViT-S/16 and ViT-B/16 of DeiT and timm: 21.7 and 85.8 M parameters at 224 x 224
register_transformer("vit_small", VisionTransformer, embedding=384, depth=12, heads=6)
register_transformer("vit_base", VisionTransformer, embedding=768, depth=12, heads=12)
