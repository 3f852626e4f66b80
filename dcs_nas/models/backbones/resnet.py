"""ResNet without its classifier, with torchvision's parameter names.

Shapes: B images, C channels, H x W map.
Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1; the stride of a
bottleneck is on its 3x3 convolution, as in torchvision. Re-ID keeps the last stage's map large: last stride 1 (Luo et
al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPRW 2019, section 3.4, "Last Stride").
"""

from __future__ import annotations

from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.backbone import Backbone, register_backbone, start_convolutional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C, H, W) to (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut: (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(Backbone):
    """Images (B, 3, H, W) to maps (B, 512 or 2048, H / 16, W / 16), or H / 32 with ``last_stride`` 2.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks in each of the four stages.
        last_stride: of the last stage, 1 or 2.
        base: channels of the stem and width of the first stage; each stage doubles it.
        small_images: a 3x3 stem without pooling, as He et al. use on CIFAR (section 4.2), here with stride 2: the map
            is twice as high and wide.

    Raises:
        InputError: another last stride, or a base width below 1.
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
    ) -> None:
        super().__init__()
        if last_stride not in (1, 2):
            raise InputError(f"last_stride is {last_stride!r}; expected 1 or 2")
        if not isinstance(base, int) or base < 1:
            raise InputError(f"base is {base!r}; expected a number of channels of at least 1")
        self.num_features = 8 * base * block.expansion
        self.conv1 = _conv(3, base, 3 if small_images else 7, stride=2)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, base, base, depths[0], stride=1)
        self.layer2 = _stage(block, base * block.expansion, 2 * base, depths[1], stride=2)
        self.layer3 = _stage(block, 2 * base * block.expansion, 4 * base, depths[2], stride=2)
        self.layer4 = _stage(block, 4 * base * block.expansion, 8 * base, depths[3], stride=last_stride)
        start_convolutional(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to maps (B, num_features, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.attend(stage, getattr(self, stage)(x))
        return x


def _conv(channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


def _shortcut(channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """A projection where the block changes the map's shape."""
    if stride == 1 and channels == out_channels:
        return None
    return nn.Sequential(_conv(channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, width: int, depth: int, *, stride: int
) -> nn.Sequential:
    first = block(channels, width, stride=stride)
    return nn.Sequential(first, *(block(width * block.expansion, width) for _ in range(depth - 1)))


@register_backbone("resnet10_small")
def resnet10_small(*, height: int, width: int, last_stride: int = 1, base: int = 16) -> ResNet:
    """Ten layers for images of 32 to 64 pixels: 0.31 M parameters, 128 channels out."""
    return ResNet(BasicBlock, (1, 1, 1, 1), last_stride=last_stride, base=base, small_images=True)


@register_backbone("resnet18")
def resnet18(*, height: int, width: int, last_stride: int = 1) -> ResNet:
    """ResNet-18: 11.2 M parameters, 512 channels out."""
    return ResNet(BasicBlock, (2, 2, 2, 2), last_stride=last_stride)


@register_backbone("resnet34")
def resnet34(*, height: int, width: int, last_stride: int = 1) -> ResNet:
    """ResNet-34: 21.3 M parameters, 512 channels out."""
    return ResNet(BasicBlock, (3, 4, 6, 3), last_stride=last_stride)


@register_backbone("resnet50")
def resnet50(*, height: int, width: int, last_stride: int = 1) -> ResNet:
    """ResNet-50: 23.5 M parameters, 2048 channels out."""
    return ResNet(Bottleneck, (3, 4, 6, 3), last_stride=last_stride)
