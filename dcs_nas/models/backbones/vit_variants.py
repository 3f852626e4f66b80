"""Vision transformers of CLIP and of DINOv2, loaded from their published weights.

Shapes: B images, D features.
Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.4,
and openai/CLIP, clip/model.py; Li et al., "CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification
without Concrete Text Labels", AAAI 2023, and Syliz517/CLIP-ReID at eb1898b, model/clip/model.py; Oquab et al.,
"DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024; Darcet et al., "Vision Transformers Need
Registers", ICLR 2024; facebookresearch/dinov2, dinov2/models/vision_transformer.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcs_nas.models.backbones.vit import VisionTransformer, register_transformer, strip_root
from dcs_nas.models.blocks.parts import check_sizes

DINOV2_PATCH = 14
_CLIP_NAMES = (  # CLIP's, ours; the longest first where one starts another
    ("transformer.resblocks.", "blocks."),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.", "patch_embed.proj."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
_TRANSFORMERS_LANDMARK = "vision_model.embeddings.class_embedding"
_TRANSFORMERS_NAMES = (  # names of the package transformers, ours
    ("vision_model.embeddings.class_embedding", "cls_token"),
    ("vision_model.embeddings.position_embedding.weight", "pos_embed"),
    ("vision_model.embeddings.patch_embedding.", "patch_embed.proj."),
    ("vision_model.pre_layrnorm.", "norm_pre."),  # as they write it
    ("vision_model.post_layernorm.", "norm."),
    ("vision_model.encoder.layers.", "blocks."),
    (".layer_norm", ".norm"),
    (".self_attn.out_proj.", ".attn.proj."),
    ("visual_projection.", "head."),
)


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x), CLIP's activation."""
    return x * (1.702 * x).sigmoid()


class CLIPVisionTransformer(VisionTransformer):
    """CLIP's image encoder: images (B, 3, height, width) to the normalised class token, (B, D), timm's names.

    Other than ViT: a norm before the first block, QuickGELU, norms with epsilon 1e-5, patches without bias.

    Args:
        projection: width of CLIP's joint space, to which the class token is mapped; None: no mapping.
        settings: of ``VisionTransformer``.
    """

    def __init__(self, *, projection: int | None = None, **settings: Any) -> None:
        super().__init__(**settings, pre_norm=True, patch_bias=False, activation=quick_gelu, norm_eps=1e-5)
        self.head: nn.Module = nn.Identity()
        if projection is not None:
            check_sizes(projection=projection)
            self.head = nn.Linear(self.num_features, projection, bias=False)
            nn.init.normal_(self.head.weight, std=self.num_features**-0.5)
            self.num_features = projection

    def forward(self, x: Tensor, cameras: Tensor | None = None) -> Tensor:
        """See ``VisionTransformer``; (B, projection) with a projection."""
        return self.head(super().forward(x, cameras))

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights under our names, also from those of OpenAI and transformers, of CLIP or its image encoder."""
        if any(name.endswith(_TRANSFORMERS_LANDMARK) for name in weights):
            adapted = _rename_transformers(strip_root(weights, _TRANSFORMERS_LANDMARK))
        elif any(name.endswith("class_embedding") for name in weights):
            adapted = _rename(strip_root(weights, "class_embedding"), _CLIP_NAMES)
        else:
            return super().adapt_weights(weights)
        adapted["cls_token"] = adapted["cls_token"].view(1, 1, -1)
        adapted["pos_embed"] = adapted["pos_embed"].unsqueeze(0)
        if "proj" in adapted:
            adapted["head.weight"] = adapted.pop("proj").T.contiguous()
        if isinstance(self.head, nn.Identity):
            adapted.pop("head.weight", None)
        return super().adapt_weights(adapted)


def _rename(weights: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    adapted = {}
    for name, tensor in weights.items():
        ours = name
        for theirs, replacement in names:
            ours = ours.replace(theirs, replacement)
        adapted[ours] = tensor
    return adapted


def _rename_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the image encoder's tensors under our names, queries, keys and values of a layer as one."""
    own = {n: t for n, t in weights.items() if n.startswith(("vision_model.", "visual_projection."))}
    adapted = _rename({n: t for n, t in own.items() if not n.endswith(".position_ids")}, _TRANSFORMERS_NAMES)
    for name in [name for name in adapted if ".self_attn.q_proj." in name]:
        parts = [name.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
        if all(part in adapted for part in parts):
            merged = name.replace(".self_attn.q_proj.", ".attn.qkv.")
            adapted[merged] = torch.cat([adapted.pop(part) for part in parts])
    return adapted


class CLIPReIDTransformer(CLIPVisionTransformer):
    """CLIP's image encoder as CLIP-ReID trains it: images (B, 3, height, width) to three vectors.

    The normalised class token (B, D), its projection (B, projection), and the class token that enters the last block
    (B, D), which CLIP-ReID compares by a triplet loss alone.
    """

    kind = "vectors"  # type: ignore[assignment]

    def __init__(self, *, projection: int = 512, **settings: Any) -> None:
        super().__init__(projection=projection, **settings)
        self.num_features = self.pos_embed.shape[2]

    def forward(self, x: Tensor, cameras: Tensor | None = None) -> tuple[Tensor, ...]:  # type: ignore[override]
        """See ``VisionTransformer``."""
        tokens = before = self.embed(x, cameras)
        for n, block in enumerate(self.blocks):
            before, tokens = tokens, self.attend_patches(f"block{n}", block(tokens))
        token = self.norm(tokens[:, 0])
        return token, self.head(token), before[:, 0]


class DINOv2(VisionTransformer):
    """DINOv2's image encoder: images (B, 3, height, width) to the normalised class token, (B, D), the published names.

    Other than ViT: patches of 14, and a ``LayerScale`` after each attention and MLP, 1e-5 at first.
    """

    smallest = DINOV2_PATCH

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, layer_scale=1e-5)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights without the token that replaces masked patches in DINOv2's own training."""
        return super().adapt_weights({name: tensor for name, tensor in weights.items() if name != "mask_token"})


# CLIP ViT-B/16's image encoder: 85.8 M parameters at 224 x 224, 768 features, or 512 with ``projection`` 512
register_transformer(
    "clip_vit_base", CLIPVisionTransformer, embedding=768, depth=12, heads=12, drop_path=0.0, projection=None
)
# The same as CLIP-ReID trains it: 86.2 M parameters, vectors of 768, 512 and 768
register_transformer(
    "clip_reid_vit_base", CLIPReIDTransformer, embedding=768, depth=12, heads=12, drop_path=0.0, projection=512
)
# DINOv2 ViT-S/14 and ViT-B/14: 21.6 and 85.7 M parameters at 224 x 224; 4 ``registers`` in its second release
for _name, _size in {"small": {"embedding": 384, "heads": 6}, "base": {"embedding": 768, "heads": 12}}.items():
    register_transformer(
        f"dinov2_vit_{_name}", DINOv2, **_size, depth=12, stride=DINOV2_PATCH, drop_path=0.0, registers=0
    )
