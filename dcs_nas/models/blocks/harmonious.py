"""Harmonious Attention: soft spatial and channel attention, and hard attention to body regions.

Shapes: B batch, C channels, H x W map, T regions.
Source: Li, Zhu, Gong, "Harmonious Attention Network for Person Re-Identification", CVPR 2018, section 3.2. Layer order
and initial values follow deep-person-reid's torchreid/models/hacnn.py, so that its weights fit ``SoftAttention`` and
``HardAttention`` key by key.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.blocks.parts import check_sizes, start_gate, widen, zero_started_norm
from dcs_nas.models.depthwise import DepthwiseConv, is_faulty_in_half
from dcs_nas.models.resampling import Resample, interpolation


class ConvBlock(nn.Module):
    """Convolution with bias, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H', W')."""
        return F.relu(self.bn(self.conv(x)))


class SpatialAttention(nn.Module):
    """Weights of positions: channel mean, 3x3 convolution of stride 2, bilinear back to size, 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(1, 1, 3, stride=2, padding=1)
        self.conv2 = ConvBlock(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 1, H, W).

        Under autocast on a CPU the first convolution is computed in float32: torch 2.13 computes wrong kernel gradients
        of convolutions of stride 2 in bfloat16, for maps of width 1.
        """
        means = x.mean(1, keepdim=True)
        if is_faulty_in_half(x):
            with torch.autocast("cpu", enabled=False):
                coarse = self.conv1(means.float())
        else:
            coarse = self.conv1(means)
        return self.conv2(F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=True))


class ChannelAttention(nn.Module):
    """Weights of channels: global average, then two 1x1 convolutions C -> C / reduction -> C."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.conv1 = ConvBlock(channels, hidden, 1)
        self.conv2 = ConvBlock(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 1, 1)."""
        return self.conv2(self.conv1(x.mean((2, 3), keepdim=True)))


class SoftAttention(nn.Module):
    """Soft attention map sigmoid(conv1x1(spatial(x) * channel(x))), of x's shape.

    ``gate_start`` "constant" starts every weight at sigmoid(1), on the open side of the last ReLU, so that it can learn
    (ours, for training from scratch); "published" starts with random weights.
    """

    def __init__(self, channels: int, *, reduction: int = 16, gate_start: str = "constant") -> None:
        super().__init__()
        self.spatial_attn = SpatialAttention()
        self.channel_attn = ChannelAttention(channels, reduction=reduction)
        self.conv = ConvBlock(channels, channels, 1)
        start_gate(self.conv.bn, gate_start, shift=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to weights (B, C, H, W) in [1/2, 1)."""
        return torch.sigmoid(self.conv(self.spatial_attn(x) * self.channel_attn(x)))


class HardAttention(nn.Module):
    """Centres of T regions, theta = tanh(FC(global average)), as offsets (tx, ty) in [-1, 1].

    The FC starts with weight 0 and biases 0 and (2t + 1) / T - 1: T stripes from top to bottom.
    """

    def __init__(self, channels: int, *, regions: int = 4) -> None:
        super().__init__()
        self.regions = regions
        self.fc = nn.Linear(channels, 2 * regions)
        nn.init.zeros_(self.fc.weight)
        centres = (2 * torch.arange(regions) + 1) / regions - 1
        self.fc.bias.data.copy_(torch.stack([torch.zeros(regions), centres], 1).flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to theta (B, T, 2)."""
        return torch.tanh(self.fc(x.mean((2, 3)))).unflatten(1, (self.regions, 2))


class StackRegions(nn.Module):
    """The T regions of a map, from top to bottom in one map of the same shape.

    A region has the full width and 1 / T of the height. Where H is a multiple of T this is ``affine_grid`` with
    [[1, 0, tx], [0, 1/T, ty]] and ``grid_sample`` for each region, with zeros beyond the border; other heights divide
    the stack between the regions at fractions of rows. Half precision is sampled in float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resample = Resample()

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        """Map x (B, C, H, W) and the regions' centres theta (B, T, 2) to (B, C, H, W)."""
        centres = widen(theta)
        height, width = x.shape[2:]
        regions = theta.shape[1]
        depth = (torch.arange(height, device=x.device, dtype=centres.dtype) + 0.5) * (regions / height)
        region = depth.floor().long()
        rows = _interpolate_rows(centres[:, region, 1] + (2 * (depth - region) - 1) / regions, height)
        return self.resample(x, rows, _shift_columns(centres[..., 0], width)[:, region]).to(x.dtype)


class CropRegion(nn.Module):
    """One of T regions of a map, resized, as HA-CNN has it.

    That is ``grid_sample`` at H x W points of ``affine_grid`` with [[1, 0, tx], [0, 1/T, ty]], with zeros beyond the
    border, then ``interpolate`` with aligned corners. Half precision is sampled and resized in float32.
    """

    def __init__(self, regions: int) -> None:
        super().__init__()
        self.regions = regions
        self.resample = Resample()

    def forward(self, x: Tensor, theta: Tensor, size: tuple[int, int]) -> Tensor:
        """Map x (B, C, H, W) and the region's centre theta (B, 2) to (B, C, *size)."""
        centres = widen(theta)
        height, width = x.shape[2:]
        depth = (2 * torch.arange(height, device=x.device, dtype=centres.dtype) + 1) / height - 1
        rows = _interpolate_rows(centres[:, 1:] + depth / self.regions, height)
        region = self.resample(x, rows, _shift_columns(centres[:, :1], width))
        return F.interpolate(region, size=size, mode="bilinear", align_corners=True).to(x.dtype)


def _interpolate_rows(down: Tensor, height: int) -> Tensor:
    """Return the interpolation (..., H) of the rows of a map at positions (...) in [-1, 1]."""
    return interpolation(((down + 1) * height - 1) / 2, height)


def _shift_columns(tx: Tensor, width: int) -> Tensor:
    """Return the interpolation (..., W, W) of the columns of a map, moved by tx (...) halves of its width."""
    return interpolation(tx.unsqueeze(-1) * (width / 2) + torch.arange(width, device=tx.device), width)


class HarmoniousAttention(nn.Module):
    """Harmonious Attention as a cell block: (B, C, H, W) to (B, C, H, W).

    out = X o soft(X) + BN(depthwise3x3(stack(X, hard(X))))

    The second term is a part-aligned view of X; its BN's weight starts at 0.

    Args:
        channels: C.
        height: H of the maps, which bounds the number of regions.
        reduction: C / reduction channels (at least 1) inside the channel attention.
        regions: T, at most H of them are used.
        gate_start: of the soft attention, "constant" or "published".

    Raises:
        InputError: a size below 1, an unknown start.
    """

    def __init__(
        self, channels: int, height: int, *, reduction: int = 16, regions: int = 4, gate_start: str = "constant"
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, height=height, reduction=reduction, regions=regions)
        self.soft_attn = SoftAttention(channels, reduction=reduction, gate_start=gate_start)
        self.hard_attn = HardAttention(channels, regions=min(regions, height))
        self.stack = StackRegions()
        self.local = DepthwiseConv(channels, 3)
        self.norm = zero_started_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh x (B, C, H, W) and add its regions."""
        parts = self.norm(self.local(self.stack(x, self.hard_attn(x))))
        return x * self.soft_attn(x) + parts
