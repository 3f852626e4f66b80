"""Fixed backbones by name, each with places for attention."""

from dcs_nas.models.backbones import hacnn, mobilenet, msinet, osnet, resnet, vit  # noqa: F401
from dcs_nas.models.backbones.backbone import BACKBONES, Backbone, insert_attention, stage_maps

__all__ = ["BACKBONES", "Backbone", "insert_attention", "stage_maps"]
