"""Fixed backbones by name, all with optional attention."""

from dcs_nas.models.backbones import (  # noqa: F401
    hacnn,
    mobilenet,
    msinet,
    osnet,
    resnet,
    swin,
    transreid,
    vit,
    vit_variants,
)
from dcs_nas.models.backbones.backbone import BACKBONES, Backbone, insert_attention, stage_maps

__all__ = ["BACKBONES", "Backbone", "insert_attention", "stage_maps"]
