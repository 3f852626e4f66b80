"""Vision transformers with patches of 16, timm's parameter names, and TransReID's camera embedding.

Shapes: B images, H x W image, h x w grid of patches, N = 1 + hw tokens, D features, K heads.
Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; He et al., "TransReID: Transformer-based Object
Re-Identification", ICCV 2021, sections 3.1 (overlapping patches) and 3.3 (side information embedding), and
damo-cv/TransReID, model/backbones/vit_pytorch.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.backbone import Backbone, register_backbone
from dcs_nas.models.blocks.parts import check_sizes, to_map, to_tokens

log = logging.getLogger(__name__)
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
    """Two layers with GELU, four times as wide inside: (B, N, D) to (B, N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Attention, then MLP, each normalised before and added: (B, N, D) to (B, N, D).

    In training each of the two is left out for an image with probability ``drop_path``.
    """

    def __init__(self, width: int, heads: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attn(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        """Stochastic depth: whole images at 0, the rest scaled up so that the mean stays."""
        if not self.training or self.drop_path == 0:
            return x
        keep = x.new_empty(len(x), 1, 1).bernoulli_(1 - self.drop_path)
        return x * keep / (1 - self.drop_path)


class PatchEmbedding(nn.Module):
    """Patches of 16 x 16 as vectors: images (B, 3, H, W) to a map (B, D, h, w)."""

    def __init__(self, width: int, *, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class VisionTransformer(Backbone):
    """Images (B, 3, height, width) to the normalised class token, (B, D).

    Attention may follow every block but the last, whose patch tokens nothing reads; it acts on the patch tokens as an
    h x w map and leaves the class token as it is. By default it follows each quarter of the depth but the last.

    Args:
        height: H of every image.
        width: W of every image.
        embedding: D, a multiple of ``heads``.
        depth: number of blocks, at least 2.
        heads: K.
        stride: between patches; below 16 they overlap (TransReID: 12).
        cameras: number of cameras; above 0, each has a learned vector that is added to all tokens of its images.
        camera_weight: factor of that vector (TransReID's configs: 3).
        drop_path: stochastic depth of the last block, rising linearly from 0 (TransReID: 0.1).

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
        stride: int = PATCH,
        cameras: int = 0,
        camera_weight: float = 3.0,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        _check_options(stride=stride, cameras=cameras, drop_path=drop_path, camera_weight=camera_weight)
        self.image_size = (height, width)
        self.grid = tuple(max(0, side - PATCH) // stride + 1 for side in self.image_size)
        self.num_features = embedding
        self.stages = tuple(f"block{n}" for n in range(depth - 1))
        self.default_stages = tuple(f"block{depth * quarter // 4 - 1}" for quarter in (1, 2, 3))
        self.uses_cameras = cameras > 0
        self.camera_weight = camera_weight
        self.patch_embed = PatchEmbedding(embedding, stride=stride)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embedding))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + math.prod(self.grid), embedding))
        self.sie_embed = nn.Parameter(torch.empty(cameras, 1, embedding)) if cameras else None
        rates = [drop_path * n / (depth - 1) for n in range(depth)]
        self.blocks = nn.ModuleList([TransformerBlock(embedding, heads, drop_path=rate) for rate in rates])
        self.norm = nn.LayerNorm(embedding, eps=1e-6)
        self._start()

    def forward(self, x: Tensor, cameras: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) and their cameras (B,), whole numbers from 0, to class tokens (B, D).

        In evaluation an absent ``cameras`` stands for unknown cameras: the mean of their vectors (a choice of ours;
        TransReID always knows them).
        """
        tokens = self._embed(x, cameras)
        for n, block in enumerate(self.blocks):
            tokens = self._attend_patches(f"block{n}", block(tokens))
        return self.norm(tokens[:, 0])

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with ``pos_embed`` (1, N, D) on this network's grid, its class token's position first.

        The position of DeiT's distillation token is left out, and PASS' ``cls_pos`` put in front. Another grid is
        resized as timm does (layers/pos_embed.py): bicubic, antialiased. Camera vectors of another number of cameras
        are left out.

        Raises:
            InputError: a network with a norm before its blocks (CLIP), or positions of which the grid is not clear.
        """
        if "norm_pre.weight" in weights:
            raise InputError("it has a norm before its blocks ('norm_pre'), as CLIP has and this transformer has not")
        adapted = dict(weights)
        if self.sie_embed is None or adapted.get("sie_embed", self.sie_embed).shape != self.sie_embed.shape:
            adapted.pop("sie_embed", None)
        positions = adapted.get("pos_embed")
        if positions is None or positions.ndim != 3 or positions.shape[::2] != (1, self.num_features):
            return adapted
        if "cls_pos" in adapted:
            positions = torch.cat([adapted.pop("cls_pos"), positions], dim=1)
        elif "dist_token" in adapted:
            positions = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
        adapted["pos_embed"] = self._resized(positions)
        return adapted

    def _resized(self, positions: Tensor) -> Tensor:
        """Return positions (1, 1 + N', D) as (1, 1 + N, D); as many as this network has are taken to be of its grid."""
        count = positions.shape[1] - 1
        if count == math.prod(self.grid):
            return positions
        height, width = self._grid_of(count)
        log.info("positions of a %d x %d grid resized to %d x %d, bicubic", height, width, *self.grid)
        old = to_map(positions[:, 1:].float(), height, width)
        grid = F.interpolate(old, size=self.grid, mode="bicubic", antialias=True)
        return torch.cat([positions[:, :1].float(), to_tokens(grid)], dim=1)

    def _grid_of(self, count: int) -> tuple[int, int]:
        """Return the (h, w) of ``count`` patches: square, else the only one of about this network's proportions."""
        side = math.isqrt(max(0, count))
        if side and side * side == count:
            return side, side
        ratio = math.log(self.grid[0] / self.grid[1])
        pairs = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
        distances = sorted((abs(math.log(h / w) - ratio), h, w) for h, w in pairs)
        if not distances or distances[0][0] > _SIMILAR or any(d < distances[0][0] + _APART for d, *_ in distances[1:]):
            expected = "a square, or a grid of about the proportions of {} x {}".format(*self.grid)
            raise InputError(
                f"its {count} patch positions ('pos_embed') are of no grid that is clear; expected {expected}"
            )
        return distances[0][1:]

    def _embed(self, x: Tensor, cameras: Tensor | None) -> Tensor:
        """Return all tokens (B, N, D), class token first, with their positions and cameras."""
        if x.shape[2] != self.image_size[0] or x.shape[3] != self.image_size[1]:
            found, wanted = f"{x.shape[2]} x {x.shape[3]}", "{} x {}".format(*self.image_size)
            raise InputError(f"images are {found}; expected {wanted}, which this transformer was built for")
        patches = to_tokens(self.patch_embed(x))
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        if self.sie_embed is None:
            return tokens
        return tokens + self.camera_weight * self._camera_vectors(self.sie_embed, cameras)

    def _camera_vectors(self, vectors: Tensor, cameras: Tensor | None) -> Tensor:
        """(B, 1, D), or (1, 1, D) for unknown cameras."""
        if cameras is not None:
            return vectors[cameras]
        if self.training:
            raise InputError("this transformer has a camera embedding; give the images' cameras in training")
        return vectors.mean(0, keepdim=True)

    def _attend_patches(self, stage: str, tokens: Tensor) -> Tensor:
        if stage not in self.attention:
            return tokens
        patches = self.attend(stage, to_map(tokens[:, 1:], *self.grid))
        return torch.cat([tokens[:, :1], to_tokens(patches)], dim=1)

    def _start(self) -> None:
        """First values as in timm and TransReID."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        projection = self.patch_embed.proj.weight
        nn.init.normal_(projection, std=math.sqrt(2 / (PATCH * PATCH * projection.shape[0])))
        for parameter in (self.cls_token, self.pos_embed, self.sie_embed):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)


def _check_options(*, stride: int, cameras: int, drop_path: float, camera_weight: float) -> None:
    check_sizes(stride=stride)
    if not isinstance(cameras, int) or cameras < 0:
        raise InputError(f"cameras is {cameras!r}; expected a whole number, 0 for no camera embedding")
    if not 0 <= drop_path < 1:
        raise InputError(f"drop_path is {drop_path!r}; expected a probability below 1")
    if not math.isfinite(camera_weight):
        raise InputError(f"camera_weight is {camera_weight!r}; expected a finite number")


def _register(name: str, *, embedding: int, heads: int) -> None:
    @register_backbone(name)
    def make(
        *,
        height: int,
        width: int,
        stride: int = PATCH,
        cameras: int = 0,
        camera_weight: float = 3.0,
        drop_path: float = 0.1,
    ) -> VisionTransformer:
        return VisionTransformer(
            height=height,
            width=width,
            embedding=embedding,
            depth=12,
            heads=heads,
            stride=stride,
            cameras=cameras,
            camera_weight=camera_weight,
            drop_path=drop_path,
        )


_register("vit_small", embedding=384, heads=6)  # ViT-S/16 of DeiT and timm: 21.7 M parameters at 224 x 224
_register("vit_base", embedding=768, heads=12)  # ViT-B/16: 85.8 M parameters at 224 x 224
