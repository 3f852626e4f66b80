"""ResNet without its classifier, with torchvision's parameter names, and with instance norms or non-local blocks.

Shapes: B images, C channels, H x W map.
Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1; the stride of a
bottleneck is on its 3x3 convolution, as in torchvision. Re-ID keeps the last stage's map large: last stride 1 (Luo et
al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPRW 2019, section 3.4, "Last Stride").
Instance norms: Pan et al., "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net", ECCV 2018, and
XingangPan/IBN-Net at d167338. Non-local blocks: Ye et al., "Deep Learning for Person Re-identification: A Survey and
Outlook" (AGW), TPAMI 2021, and mangye16/ReID-Survey at 38f5912, modeling/layer/non_local.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.backbone import Backbone, initialize_convolutional, register_backbone
from dcs_nas.models.blocks.parts import zero_started_norm
from dcs_nas.models.depthwise import PointwiseConv

# The kind of IBN in each of the four stages.
_IBN: dict[str, tuple[str | None, ...]] = {"a": ("a", "a", "a", None), "b": ("b", "b", None, None)}
_NON_LOCAL = {"layer2": 2, "layer3": 3}  # AGW's number of non-local blocks after the last blocks of a stage


class InstanceBatchNorm(nn.Module):
    """IBN: instance norm for the first half of the channels, batch norm for the second: (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = (channels // 2, channels - channels // 2)
        self.IN = nn.InstanceNorm2d(self.sizes[0], affine=True)
        self.BN = nn.BatchNorm2d(self.sizes[1])

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.split(self.sizes, dim=1)
        return torch.cat([self.IN(first.contiguous()), self.BN(second.contiguous())], dim=1)


class DotProductNonLocal(nn.Module):
    """AGW's non-local block: X + BN(W y) with y = theta(X) (phi(X) g(X)) / N, of one channel, N = HW positions.

    (B, C, H, W) to the same; the batch norm starts at 0, so that a new block is the identity. One channel is what the
    published code has, in ReID-Survey as in fast-reid: it divides the reduction by itself.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, 1, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), zero_started_norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        relation = (self.phi(x) * self.g(x)).mean((2, 3), keepdim=True)
        return x + self.W(self.theta(x) * relation)


def _build_first_norm(channels: int, ibn: str | None) -> nn.Module:
    """Return the first norm of a block: that of IBN-a, or a batch norm."""
    return InstanceBatchNorm(channels) if ibn == "a" else nn.BatchNorm2d(channels)


def _build_last_norm(channels: int, ibn: str | None) -> nn.Module:
    """Return the norm after a block's sum: the instance norm of IBN-b, or none."""
    return nn.InstanceNorm2d(channels, affine=True) if ibn == "b" else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C, H, W) to (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, channels: int, width: int, *, stride: int = 1, ibn: str | None = None) -> None:
        super().__init__()
        self.conv1 = _build_conv(channels, width, 3, stride=stride)
        self.bn1 = _build_first_norm(width, ibn)
        self.conv2 = _build_conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.IN = _build_last_norm(width, ibn)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _build_shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(self.IN(out + (x if self.downsample is None else self.downsample(x))))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut: (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, channels: int, width: int, *, stride: int = 1, ibn: str | None = None) -> None:
        super().__init__()
        self.conv1 = _build_conv(channels, width, 1)
        self.bn1 = _build_first_norm(width, ibn)
        self.conv2 = _build_conv(width, width, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _build_conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.IN = _build_last_norm(width * self.expansion, ibn)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _build_shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(self.IN(out + (x if self.downsample is None else self.downsample(x))))


class ResNet(Backbone):
    """Images (B, 3, H, W) to maps (B, 512 or 2048, H / 16, W / 16), or H / 32 with ``last_stride`` 2.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks in each of the four stages.
        last_stride: of the last stage, 1 or 2.
        base: channels of the stem and width of the first stage; each stage doubles it.
        small_images: a 3x3 stem without pooling, as He et al. use on CIFAR (section 4.2), here with stride 2: the map
            is twice as high and wide.
        ibn: "a": the first norm of every block is an ``InstanceBatchNorm``, except in the last stage;
            "b": an instance norm replaces the norm of the stem and ends each of the first two stages.
        non_local: whether AGW's five non-local blocks follow the last two blocks of the second stage and the last three
            of the third.

    Raises:
        InputError: another last stride or kind of IBN, or a base width below 1.
    """

    kind = "map"
    stem_path = "maxpool"
    stages = ("layer1", "layer2", "layer3", "layer4")
    # After every residual stage: the network settings of Zhang et al. (RGA), CVPR 2020.
    default_stages = stages

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        last_stride: int = 1,
        base: int = 64,
        small_images: bool = False,
        ibn: str | None = None,
        non_local: bool = False,
    ) -> None:
        super().__init__()
        if last_stride not in (1, 2):
            raise InputError(f"last_stride is {last_stride!r}; expected 1 or 2")
        if not isinstance(base, int) or base < 1:
            raise InputError(f"base is {base!r}; expected a number of channels of at least 1")
        if ibn not in (None, *_IBN):
            raise InputError(f"ibn is {ibn!r}; expected a, b, or null for none")
        kinds = _IBN[ibn] if ibn else (None,) * 4
        self.num_features = 8 * base * block.expansion
        self.conv1 = _build_conv(3, base, 3 if small_images else 7, stride=2)
        self.bn1 = nn.InstanceNorm2d(base, affine=True) if ibn == "b" else nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stack(block, base, base, depths[0], stride=1, ibn=kinds[0])
        self.layer2 = _stack(block, base * block.expansion, 2 * base, depths[1], stride=2, ibn=kinds[1])
        self.layer3 = _stack(block, 2 * base * block.expansion, 4 * base, depths[2], stride=2, ibn=kinds[2])
        self.layer4 = _stack(block, 4 * base * block.expansion, 8 * base, depths[3], stride=last_stride, ibn=kinds[3])
        counts = _NON_LOCAL if non_local else {}
        self.NL_2, self.NL_3 = (
            nn.ModuleList(DotProductNonLocal(width * base * block.expansion) for _ in range(counts.get(stage, 0)))
            for stage, width in (("layer2", 2), ("layer3", 4))
        )
        initialize_convolutional(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, num_features, h, w) of images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        non_local = {"layer2": self.NL_2, "layer3": self.NL_3}
        for stage in self.stages:
            blocks, refiners = getattr(self, stage), non_local.get(stage, ())
            for n, block in enumerate(blocks):
                x, place = block(x), n - len(blocks) + len(refiners)
                if place >= 0 and refiners:
                    x = refiners[place](x)
            x = self.attend(stage, x)
        return x


def _build_conv(channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    if kernel == 1 and stride > 1:
        return PointwiseConv(channels, out_channels, stride)
    return nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


def _build_shortcut(channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return a projection where the block changes the map's shape."""
    if stride == 1 and channels == out_channels:
        return None
    return nn.Sequential(_build_conv(channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels))


def _stack(
    block: type[BasicBlock] | type[Bottleneck], channels: int, width: int, depth: int, *, stride: int, ibn: str | None
) -> nn.Sequential:
    """Return a stage of blocks; IBN "a" is in each of them, "b" in the last."""
    kinds = [ibn if ibn == "a" or n == depth - 1 else None for n in range(depth)]
    first = block(channels, width, stride=stride, ibn=kinds[0])
    return nn.Sequential(first, *(block(width * block.expansion, width, ibn=kind) for kind in kinds[1:]))


def _check_ibn(ibn: str | None, height: int, width: int) -> str | None:
    """Return ``ibn`` if its deepest instance norm, on a map 16 times smaller, has two positions or more to norm."""
    if ibn is not None and max(height, width) <= 16:
        raise InputError(f"images of {height} x {width} are too small for ibn; expected one side of at least 17")
    return ibn


@register_backbone("resnet10_small")
def resnet10_small(*, height: int, width: int, last_stride: int = 1, base: int = 16) -> ResNet:
    """Return a ResNet of ten layers for images of 32 to 64 pixels: 0.31 M parameters, 128 channels out."""
    return ResNet(BasicBlock, (1, 1, 1, 1), last_stride=last_stride, base=base, small_images=True)


def _register(name: str, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int]) -> None:
    def make(*, height: int, width: int, last_stride: int = 1, ibn: str | None = None) -> ResNet:
        return ResNet(block, depths, last_stride=last_stride, ibn=_check_ibn(ibn, height, width))

    def make_deep(
        *, height: int, width: int, last_stride: int = 1, ibn: str | None = None, non_local: bool = False
    ) -> ResNet:
        ibn = _check_ibn(ibn, height, width)
        return ResNet(block, depths, last_stride=last_stride, ibn=ibn, non_local=non_local)

    register_backbone(name)(make if block is BasicBlock else make_deep)


# 11.2, 21.3, 23.5 and 42.5 M parameters; 512 channels out, of bottlenecks 2048
_register("resnet18", BasicBlock, (2, 2, 2, 2))
_register("resnet34", BasicBlock, (3, 4, 6, 3))
_register("resnet50", Bottleneck, (3, 4, 6, 3))
_register("resnet101", Bottleneck, (3, 4, 23, 3))
