"""Fixed backbones by name, all with optional attention."""

from dcs_nas.models.backbones import hacnn, mobilenet, msinet, osnet, resnet, swin, transreid, vit, vit_variants  # noqa: F401
from dcs_nas.models.backbones.backbone import BACKBONES, Backbone, insert_attention, measure_stages

__all__ = ["BACKBONES", "Backbone", "insert_attention", "measure_stages"]
