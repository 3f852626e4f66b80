"""OSNet: omni-scale features for Re-ID, with torchreid's parameter names.

Shapes: B images, C channels, H x W map, D features.
Source: Zhou, Yang, Cavallaro, Xiang, "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019, table 1 and
section 3; KaiyangZhou/deep-person-reid, torchreid/models/osnet.py.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.backbones.backbone import Backbone, register_backbone, start_convolutional


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm and, if ``relu``, ReLU."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        return self.relu(self.bn(self.conv(x)))


class LightConv(nn.Module):
    """1x1 then depthwise 3x3 convolution, BatchNorm, ReLU: C to C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return F.relu(self.bn(self.conv2(self.conv1(x))))


class ChannelGate(nn.Module):
    """Weighs channels by their own means, x o sigmoid(MLP(mean(x))): the gate that all scales share."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class OmniScaleBlock(nn.Module):
    """Four streams of 1 to 4 light convolutions, gated and added, in a residual bottleneck."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.conv1 = ConvNorm(channels, width)
        self.conv2a = LightConv(width)
        self.conv2b = nn.Sequential(*(LightConv(width) for _ in range(2)))
        self.conv2c = nn.Sequential(*(LightConv(width) for _ in range(3)))
        self.conv2d = nn.Sequential(*(LightConv(width) for _ in range(4)))
        self.gate = ChannelGate(width)
        self.conv3 = ConvNorm(width, out_channels, relu=False)
        self.downsample = ConvNorm(channels, out_channels, relu=False) if channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H, W)."""
        y = self.conv1(x)
        streams = self.gate(self.conv2a(y)) + self.gate(self.conv2b(y))
        streams = streams + self.gate(self.conv2c(y)) + self.gate(self.conv2d(y))
        return F.relu(self.conv3(streams) + (x if self.downsample is None else self.downsample(x)))


class OSNet(Backbone):
    """Images (B, 3, H, W) to vectors (B, features), the published 512-D layer after the pooled map.

    Args:
        channels: out of the stem and of the three stages, those of the stages multiples of 4 and at least 64.
        features: D.
    """

    kind = "vector"
    smallest = 16
    stem_path = "maxpool"
    stages = ("conv2", "conv3", "conv4")
    default_stages = stages

    def __init__(self, *, channels: tuple[int, int, int, int] = (64, 256, 384, 512), features: int = 512) -> None:
        super().__init__()
        self.num_features = features
        self.conv1 = ConvNorm(3, channels[0], 7, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _stage(channels[0], channels[1], shrink=True)
        self.conv3 = _stage(channels[1], channels[2], shrink=True)
        self.conv4 = _stage(channels[2], channels[3], shrink=False)
        self.conv5 = ConvNorm(channels[3], channels[3])
        self.fc = nn.Sequential(nn.Linear(channels[3], features), nn.BatchNorm1d(features), nn.ReLU(inplace=True))
        start_convolutional(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to vectors (B, D)."""
        x = self.maxpool(self.conv1(x))
        for stage in self.stages:
            x = self.attend(stage, getattr(self, stage)(x))
        return self.fc(self.conv5(x).mean((2, 3)))


def _stage(channels: int, out_channels: int, *, shrink: bool) -> nn.Sequential:
    """Return two blocks and, if ``shrink``, a transition that halves the map."""
    blocks = [OmniScaleBlock(channels, out_channels), OmniScaleBlock(out_channels, out_channels)]
    transition = [nn.Sequential(ConvNorm(out_channels, out_channels), nn.AvgPool2d(2))] if shrink else []
    return nn.Sequential(*blocks, *transition)


@register_backbone("osnet_x1_0")
def osnet_x1_0(*, height: int, width: int) -> OSNet:
    """OSNet of width 1: 2.2 M parameters, 512 features."""
    return OSNet()


@register_backbone("osnet_x0_75")
def osnet_x0_75(*, height: int, width: int) -> OSNet:
    """OSNet of width 0.75: 1.3 M parameters, 512 features."""
    return OSNet(channels=(48, 192, 288, 384))


@register_backbone("osnet_x0_5")
def osnet_x0_5(*, height: int, width: int) -> OSNet:
    """OSNet of width 0.5: 0.6 M parameters, 512 features."""
    return OSNet(channels=(32, 128, 192, 256))


@register_backbone("osnet_x0_25")
def osnet_x0_25(*, height: int, width: int) -> OSNet:
    """OSNet of width 0.25: 0.2 M parameters, 512 features."""
    return OSNet(channels=(16, 64, 96, 128))
