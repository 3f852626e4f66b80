"""The block of a chain: 1x1 expand, depthwise k x k, squeeze-excite where wanted, 1x1 project.

Shapes: B images, C channels, H x W map.
Source: MobileNetV2 (CVPR 2018, figure 3), MobileNetV3 (arXiv 1905.02244, section 5) for squeeze-excite and h-swish.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.space import squeezed

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "hswish": nn.Hardswish}


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation (``linear``: none): (B, C_in, H, W) to (B, C_out, H', W')."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: str = "linear",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.Identity() if activation == "linear" else ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class SqueezeExcite(nn.Module):
    """Weights of channels from their means: C -> C / 4 -> C, ReLU between, hard sigmoid at the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeezed(channels))
        self.expand = nn.Linear(squeezed(channels), channels)

    def gate(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights (B, C, 1, 1) of x (B, C, H, W); ``mask`` (C / 4,) weighs the channels inside."""
        inner = torch.relu(self.reduce(x.mean((2, 3))))
        inner = inner if mask is None else inner * mask
        return F.hardsigmoid(self.expand(inner))[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """(B, C, H, W) to (B, out_channels, H / stride, W / stride).

    Expansion 1 leaves the first convolution out. With ``shortcut`` the input is added: of different widths, the
    channels that both have, so that a chain may change its width from block to block.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        kernel: int,
        expansion: int,
        squeeze_excite: bool = False,
        stride: int = 1,
        activation: str = "relu6",
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        self.out_channels, self.stride, self.shortcut = out_channels, stride, shortcut
        self.expand = ConvNorm(channels, hidden, 1, activation=activation) if expansion > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride=stride, groups=hidden, activation=activation)
        self.excite = SqueezeExcite(hidden) if squeeze_excite else None
        self.project = ConvNorm(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x if self.expand is None else self.expand(x))
        y = self.project(y if self.excite is None else self.excite(y))
        return y + fitted(x, self.out_channels) if self.shortcut else y


def fitted(x: Tensor, channels: int) -> Tensor:
    """x (B, C, H, W) with its first ``channels`` channels, or with zeros behind its own (ResNet's option A)."""
    missing = channels - x.shape[1]
    return x[:, :channels] if missing <= 0 else F.pad(x, (0, 0, 0, 0, 0, missing))
