"""OSNet: omni-scale features for Re-ID, with torchreid's parameter names.

Shapes: B images, C channels, H x W map, D features.
Source: Zhou, Yang, Cavallaro, Xiang, "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019, table 1 and
section 3; KaiyangZhou/deep-person-reid, torchreid/models/osnet.py. With instance norms: Zhou et al., "Learning
Generalisable Omni-Scale Representations for Person Re-Identification", TPAMI 2021; osnet.py (osnet_ibn_x1_0) and
osnet_ain.py there, at f8cd150.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.backbones.backbone import Backbone, initialize_convolutional, register_backbone
from dcs_nas.space import Placement

Norm = Callable[[int], nn.Module]
InstanceNorm: Norm = functools.partial(nn.InstanceNorm2d, affine=True)
# The names of the norms before and after the shortcut is added; "both": projects/OSNet_AIN/osnet_child.py of torchreid.
_NORMS: Mapping[Placement, tuple[str, str]] = {
    "none": ("", ""),
    "inside": ("IN", ""),
    "after": ("", "IN"),
    "both": ("IN_in", "IN_out"),
}
# Of the six blocks, two in each stage.
_PLACEMENTS: Mapping[str, tuple[Placement, ...]] = {
    "none": ("none",) * 6,
    "ibn": ("after", "after", "none", "none", "none", "none"),
    "ain": ("inside", "inside", "none", "inside", "inside", "none"),
}


class ConvNorm(nn.Module):
    """Convolution without bias, a norm and, if ``relu``, ReLU."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        relu: bool = True,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = norm(out_channels)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        return self.relu(self.bn(self.conv(x)))


class LightConv(nn.Module):
    """1x1 then depthwise 3x3 convolution, BatchNorm, ReLU: C to C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return F.relu(self.bn(self.conv2(self.conv1(x))))


class ChannelGate(nn.Module):
    """Weighs channels by their own means, x o sigmoid(MLP(mean(x))): the gate that all scales share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class OmniScaleBlock(nn.Module):
    """Four streams of 1 to 4 light convolutions, gated and added, in a residual bottleneck.

    An instance norm "inside" replaces the last batch norm; "after" follows the sum; "both" has both.
    """

    def __init__(self, channels: int, out_channels: int, *, instance_norm: Placement = "none") -> None:
        super().__init__()
        width = out_channels // 4
        self.conv1 = ConvNorm(channels, width)
        self.conv2a = LightConv(width)
        self.conv2b = nn.Sequential(*(LightConv(width) for _ in range(2)))
        self.conv2c = nn.Sequential(*(LightConv(width) for _ in range(3)))
        self.conv2d = nn.Sequential(*(LightConv(width) for _ in range(4)))
        self.gate = ChannelGate(width)
        self.inside, self.after = _NORMS[instance_norm]
        norm: Norm = (lambda channels: nn.Identity()) if self.inside else nn.BatchNorm2d
        self.conv3 = ConvNorm(width, out_channels, relu=False, norm=norm)
        for name in filter(None, _NORMS[instance_norm]):
            setattr(self, name, InstanceNorm(out_channels))
        self.downsample = ConvNorm(channels, out_channels, relu=False) if channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H, W)."""
        y = self.conv1(x)
        streams = self.gate(self.conv2a(y)) + self.gate(self.conv2b(y))
        streams = streams + self.gate(self.conv2c(y)) + self.gate(self.conv2d(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.conv3(streams)
        out = (getattr(self, self.inside)(out) if self.inside else out) + shortcut
        return F.relu(getattr(self, self.after)(out) if self.after else out)


class OSNet(Backbone):
    """Images (B, 3, H, W) to vectors (B, features), by the published layer after the pooled map.

    Args:
        channels: out of the stem and of the three stages; the latter are multiples of 4 and at least 64.
        features: D.
        instance_norm: "none"; "ibn": in the stem and after both blocks of the first stage; "ain": in the stem and
            inside four blocks, the searched placement; or the placements of the six blocks, with one in the stem.
    """

    kind = "vector"
    smallest = 16
    stem_path = "maxpool"
    stages = ("conv2", "conv3", "conv4")
    default_stages = stages

    def __init__(
        self,
        *,
        channels: tuple[int, int, int, int] = (64, 256, 384, 512),
        features: int = 512,
        instance_norm: Literal["none", "ibn", "ain"] | tuple[Placement, ...] = "none",
    ) -> None:
        super().__init__()
        places = _PLACEMENTS[instance_norm] if isinstance(instance_norm, str) else instance_norm
        self.num_features = features
        stem_norm = nn.BatchNorm2d if instance_norm == "none" else InstanceNorm
        self.conv1 = ConvNorm(3, channels[0], 7, stride=2, norm=stem_norm)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _build_stage(channels[0], channels[1], places[:2], shrink=True)
        self.conv3 = _build_stage(channels[1], channels[2], places[2:4], shrink=True)
        self.conv4 = _build_stage(channels[2], channels[3], places[4:], shrink=False)
        self.conv5 = ConvNorm(channels[3], channels[3])
        self.fc = nn.Sequential(nn.Linear(channels[3], features), nn.BatchNorm1d(features), nn.ReLU(inplace=True))
        initialize_convolutional(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors (B, D) of images (B, 3, H, W)."""
        x = self.maxpool(self.conv1(x))
        for stage in self.stages:
            x = self.attend(stage, getattr(self, stage)(x))
        return self.fc(self.conv5(x).mean((2, 3)))


class OSNetAIN(OSNet):
    """OSNet with placements of instance norms; the maps of its last stage need two positions or more."""

    smallest = 32

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights under our names, which are those of torchreid's osnet.py, also from those of osnet_ain.py."""
        return {_rename(name): tensor for name, tensor in weights.items()}


def _rename(name: str) -> str:
    """Rename conv2.0.conv2.1.layers.0.* to conv2.0.conv2b.0.* and pool2.0.* to conv2.2.0.*."""
    name = re.sub(r"^pool([23])\.0\.", r"conv\1.2.0.", name)
    name = re.sub(r"\.conv2\.0\.layers\.0\.", ".conv2a.", name)
    return re.sub(r"\.conv2\.([123])\.layers\.", lambda match: f".conv2{'abcd'[int(match[1])]}.", name)


def _build_stage(channels: int, out_channels: int, places: tuple[Placement, ...], *, shrink: bool) -> nn.Sequential:
    """Return two blocks and, if ``shrink``, a transition that halves the map."""
    inputs = (channels, out_channels)
    blocks = [OmniScaleBlock(c, out_channels, instance_norm=place) for c, place in zip(inputs, places, strict=True)]
    transition = [nn.Sequential(ConvNorm(out_channels, out_channels), nn.AvgPool2d(2))] if shrink else []
    return nn.Sequential(*blocks, *transition)


def _register(name: str, network: type[OSNet], **settings: Any) -> None:
    def make(*, height: int, width: int) -> OSNet:
        return network(**settings)

    register_backbone(name)(make)


# Widths 1, 0.75, 0.5 and 0.25: 2.2, 1.3, 0.6 and 0.2 M parameters, 512 features
_WIDTHS = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}
for _width, _channels in _WIDTHS.items():
    _register(f"osnet_{_width}", OSNet, channels=_channels)
_register("osnet_ibn_x1_0", OSNet, instance_norm="ibn")
for _width, _channels in _WIDTHS.items():
    _register(f"osnet_ain_{_width}", OSNetAIN, channels=_channels, instance_norm="ain")
