"""One narrow network of every class of backbones, and networks of any width without the time of first values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from dcs_nas.models.backbones import BACKBONES, Backbone, insert_attention
from dcs_nas.models.backbones.swin import SwinTransformer
from dcs_nas.models.backbones.vit import VisionTransformer
from dcs_nas.models.backbones.vit_variants import CLIPReIDTransformer, CLIPVisionTransformer, DINOv2

HEIGHT, WIDTH = 64, 32
# All parts of a transformer that the defaults leave out, and no stochastic depth.
_TRANSFORMER = {"height": HEIGHT, "width": WIDTH, "embedding": 24, "depth": 12, "heads": 3}
_TRANSFORMER |= {"drop_path": 0.0, "cameras": 3}

FAMILIES: dict[str, Callable[[], Backbone]] = {
    **{
        name: partial(BACKBONES[name], height=HEIGHT, width=WIDTH)
        for name in ("hacnn", "mobilenet_v2", "osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x0_25", "msinet", "resnet18")
    },
    "resnet50": partial(BACKBONES["resnet50"], height=HEIGHT, width=WIDTH, ibn="a", non_local=True),
    "resnet50_b": partial(BACKBONES["resnet50"], height=HEIGHT, width=WIDTH, ibn="b"),
    "transreid": partial(BACKBONES["transreid_small"], height=HEIGHT, width=WIDTH, drop_path=0.0, cameras=3),
    "vit": partial(VisionTransformer, **_TRANSFORMER),
    "clip": partial(CLIPVisionTransformer, **_TRANSFORMER, projection=16),
    "clip_reid": partial(CLIPReIDTransformer, **_TRANSFORMER, projection=16),
    "dinov2": partial(DINOv2, **_TRANSFORMER, stride=14, registers=4),
    "swin": partial(SwinTransformer, embedding=24, depths=(2, 2, 2, 2), heads=3, drop_path=0.0),
}


def attended(name: str, attention: str = "dcs") -> Backbone:
    """Return the network of a family with attention after its default stages."""
    backbone = FAMILIES[name]()
    insert_attention(backbone, attention, None, HEIGHT, WIDTH)
    return backbone


def without_values(build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return a network of zeros: first values take longer than all else."""
    with torch.device("meta"):
        network: nn.Module = build(*arguments, **options)
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()
    return network
