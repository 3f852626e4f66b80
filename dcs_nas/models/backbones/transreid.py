"""TransReID: a vision transformer with camera embedding and jigsaw patches, the published names.

Shapes: B images, h x w grid of patches, N = 1 + hw tokens, D features, A identities.
Source: He et al., "TransReID: Transformer-based Object Re-Identification", ICCV 2021, sections 3.1 to 3.3, and
damo-cv/TransReID at dec5504, model/make_model.py (build_transformer_local).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.vit import TokenBackbone, VisionTransformer, register_transformer, strip_root
from dcs_nas.models.blocks.parts import check_sizes
from dcs_nas.models.heads import Embedding

PARTS = 4
_ENDINGS = ("", "_1", "_2", "_3", "_4")  # of the names of the published heads
STRIDE = 12


class TransReID(TokenBackbone):
    """Images (B, 3, height, width) to the global vector and the vectors of four parts, each (B, D).

    All blocks but the last are shared. The global branch b1, a last block and norm, reads all tokens. The jigsaw branch
    b2, another one, reads the class token with each quarter of the shuffled patches: (1) the patches are moved by
    ``shift`` - 1 positions, the first ones to the end; (2) where ``groups`` does not divide their number, the last but
    one is repeated at the end; (3) as a matrix of ``groups`` rows they are read by columns; (4) quarter k has the
    patches k L to (k + 1) L - 1 of this order, L = hw / 4 rounded down.

    Args:
        stride: between patches of 16 x 16.
        shift: published: 5.
        groups: published: 2.
        settings: of ``VisionTransformer``, without registers.

    Raises:
        InputError: an option out of its range, or fewer patches than the parts need.
    """

    kind = "vectors"
    smallest = 16
    stem_path = "base.patch_embed"

    def __init__(self, *, stride: int = STRIDE, shift: int = 5, groups: int = 2, **settings: Any) -> None:
        super().__init__()
        base = VisionTransformer(stride=stride, **settings)
        if base.registers:
            raise InputError(f"registers is {base.registers}, but TransReID has none; leave it out")
        self.b1 = nn.Sequential(base.blocks[-1], base.norm)
        self.b2 = copy.deepcopy(self.b1)
        del base.blocks[-1], base.norm
        self.base = base
        self.num_features, self.grid = base.num_features, base.grid
        self.stages, self.default_stages = base.stages, base.default_stages
        self.cameras = base.cameras
        _check_jigsaw(math.prod(self.grid), shift, groups)
        self.shift, self.groups = shift, groups

    def forward(self, x: Tensor, cameras: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return five vectors (B, D) of images (B, 3, H, W) and their cameras (B,), see ``VisionTransformer``."""
        tokens = self.base.embed(x, cameras)
        for n, block in enumerate(self.base.blocks):
            tokens = self.attend_patches(f"block{n}", block(tokens))
        token, patches = tokens[:, :1], self._shuffle(tokens[:, 1:])
        length = (tokens.shape[1] - 1) // PARTS
        parts = (patches[:, k * length : (k + 1) * length] for k in range(PARTS))
        return self.b1(tokens)[:, 0], *(self.b2(torch.cat([token, part], dim=1))[:, 0] for part in parts)

    def _shuffle(self, patches: Tensor) -> Tensor:
        """Return the patches (B, hw, D) in the jigsaw order; one more if ``groups`` does not divide hw."""
        moved = patches.roll(1 - self.shift, dims=1)
        if moved.shape[1] % self.groups:
            moved = torch.cat([moved, moved[:, -2:-1]], dim=1)
        return moved.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of TransReID, or of a ViT whose last block and norm then start both branches.

        Left out are TransReID's own last block and norm after the shared ones, which nothing reads, and the classifier
        of ImageNet.

        Raises:
            InputError: see ``VisionTransformer.adapt_weights``.
        """
        branches = {name: tensor for name, tensor in weights.items() if not name.startswith("base.")}
        if not any(name.startswith("b1.") for name in weights):
            branches = {}
        shared, last = {}, f"blocks.{len(self.base.blocks)}."
        for name, tensor in self.base.adapt_weights(strip_root(weights, "patch_embed.proj.weight")).items():
            if name.startswith((last, "norm.")):
                place = f"0.{name.removeprefix(last)}" if name.startswith(last) else f"1.{name.removeprefix('norm.')}"
                branches = {f"b1.{place}": tensor, f"b2.{place}": tensor} | branches
            elif not name.startswith("fc."):
                shared[f"base.{name}"] = tensor
        return shared | branches


class PublishedTransReID(TransReID):
    """TransReID with its published heads, under the published names.

    Each of the five vectors has a batch norm without shift and a classifier without bias. Training: an ``Embedding``
    with the vectors before the heads side by side. Evaluation: these vectors (B, 5 D), those of the parts divided by
    4, or with ``after_neck`` set the same after the batch norms.

    Args:
        identities: A.
        settings: of ``TransReID``.
    """

    after_neck = False

    def __init__(self, identities: int, **settings: Any) -> None:
        super().__init__(**settings)
        check_sizes(identities=identities)
        for ending in _ENDINGS:
            neck, classifier = nn.BatchNorm1d(self.num_features), nn.Linear(self.num_features, identities, bias=False)
            neck.bias.requires_grad_(False)
            nn.init.normal_(classifier.weight, std=0.001)
            self.add_module(f"bottleneck{ending}", neck)
            self.add_module(f"classifier{ending}", classifier)

    def forward(self, x: Tensor, cameras: Tensor | None = None) -> Tensor | Embedding:  # type: ignore[override]
        """Return an ``Embedding`` in training, features (B, 5 D) in evaluation."""
        vectors = super().forward(x, cameras)
        if not self.training and not self.after_neck:
            return _weigh(vectors)
        normed = [self.get_submodule(f"bottleneck{end}")(vector) for end, vector in zip(_ENDINGS, vectors)]
        if not self.training:
            return _weigh(normed)
        scores = [self.get_submodule(f"classifier{end}")(vector) for end, vector in zip(_ENDINGS, normed)]
        return Embedding(torch.cat(vectors, dim=1), scores)


def _weigh(vectors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """Return the global vector and the vectors of the parts, these divided by their number, side by side: (B, 5 D)."""
    return torch.cat([vectors[0], *(part / PARTS for part in vectors[1:])], dim=1)


def _check_jigsaw(patches: int, shift: int, groups: int) -> None:
    check_sizes(shift=shift, groups=groups)
    if patches < PARTS:
        raise InputError(
            f"the images have {patches} patches; expected at least {PARTS}, one for each part; take larger images"
        )
    if shift > patches:
        raise InputError(f"shift is {shift}, and the images have {patches} patches; expected at most as many")
    if patches % groups and (patches + 1) % groups:
        raise InputError(f"groups is {groups}, which divides neither {patches}, the number of patches, nor one more")


# On ViT-B/16: 92.9 M parameters at 256 x 128, five vectors of 768; without jigsaw it is ``vit_base``
register_transformer(
    "transreid_vit_base", TransReID, embedding=768, depth=12, heads=12, stride=STRIDE, shift=5, groups=2
)
# Of three narrow blocks, ours, to try a recipe on small images: 0.5 M parameters, five vectors of 96
register_transformer("transreid_small", TransReID, embedding=96, depth=3, heads=4, stride=STRIDE, shift=5, groups=2)
