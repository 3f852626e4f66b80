"""HA-CNN: a global branch with harmonious attention, and local streams on its regions; torchreid's names.

Shapes: B images, C channels, H x W map, T regions, D features.
Source: Li, Zhu, Gong, "Harmonious Attention Network for Person Re-Identification", CVPR 2018, figure 2 and section 3;
KaiyangZhou/deep-person-reid, torchreid/models/hacnn.py, which fixes what the paper leaves open: the sizes of the local
maps, local weights shared by the T regions, and normalisation of each region's batch by itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.backbone import Backbone, register_backbone
from dcs_nas.models.blocks.harmonious import ConvBlock, CropRegion, HardAttention, SoftAttention
from dcs_nas.models.blocks.parts import check_sizes

REGIONS = 4
# Height and width of a region's map at each of the three levels, whatever the image's size.
_LOCAL_SIZES = ((24, 28), (12, 14), (6, 7))


class InceptionA(nn.Module):
    """Three 3x3 streams and a pooled one, side by side: (B, C, H, W) to (B, out_channels, H, W)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.stream1 = _build_convs(channels, width)
        self.stream2 = _build_convs(channels, width)
        self.stream3 = _build_convs(channels, width)
        self.stream4 = nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), ConvBlock(channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.stream1(x), self.stream2(x), self.stream3(x), self.stream4(x)], dim=1)


class InceptionB(nn.Module):
    """Two 3x3 streams and a pooled one, side by side: (B, C, H, W) to (B, out_channels, H / 2, W / 2)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.stream1 = _build_convs(channels, width, stride=2)
        self.stream2 = nn.Sequential(*_build_convs(channels, width), ConvBlock(width, width, 3, stride=2, padding=1))
        self.stream3 = nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), ConvBlock(channels, 2 * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.stream1(x), self.stream2(x), self.stream3(x)], dim=1)


class HarmoniousPair(nn.Module):
    """Soft attention map (B, C, H, W) and region offsets (B, T, 2) of one map."""

    def __init__(self, channels: int, *, gate_start: str) -> None:
        super().__init__()
        self.soft_attn = SoftAttention(channels, gate_start=gate_start)
        self.hard_attn = HardAttention(channels, regions=REGIONS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.soft_attn(x), self.hard_attn(x)


class HACNN(Backbone):
    """Images (B, 3, H, W) to a global and a local vector, each (B, features); only the first without local branch.

    Published for 160 x 64 images; other sizes run too. A level l of the global branch computes
    x_l = inception_l(x_{l-1}) o soft_l, and its local streams take region t of the map one level up plus their own map
    (cross-attention): z_{l,t} = local_l(region_t(x_{l-1}) + z_{l-1,t}), the first without z.

    Args:
        channels: of the three levels, multiples of 4.
        features: D of each vector.
        learn_region: whether there is a local branch.
        gate_start: of the soft attention, "constant" (ours, for training from scratch) or "published".

    Raises:
        InputError: widths that are no multiples of 4, an unknown start.
    """

    kind = "vectors"
    stem_path = "conv"
    stages = ("inception1", "inception2", "inception3")
    default_stages = stages

    def __init__(
        self,
        *,
        channels: tuple[int, int, int] = (128, 256, 384),
        features: int = 512,
        learn_region: bool = True,
        gate_start: str = "constant",
    ) -> None:
        super().__init__()
        check_sizes(features=features)
        if any(width < 4 or width % 4 for width in channels):
            raise InputError(f"HA-CNN's channels are {tuple(channels)}; expected multiples of 4")
        self.num_features = features
        self.learn_region = learn_region
        self.crop = CropRegion(REGIONS)
        self.conv = ConvBlock(3, 32, 3, stride=2, padding=1)
        for level, (inward, outward) in enumerate(zip((32, *channels), channels), 1):
            inception = nn.Sequential(InceptionA(inward, outward), InceptionB(outward, outward))
            self.add_module(f"inception{level}", inception)
            self.add_module(f"ha{level}", HarmoniousPair(outward, gate_start=gate_start))
            if learn_region:
                self.add_module(f"local_conv{level}", InceptionB(inward, outward))
        self.fc_global = _build_features(channels[-1], features)
        if learn_region:
            self.fc_local = _build_features(REGIONS * channels[-1], features)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return (global (B, D), local (B, D)) of images (B, 3, H, W), neither of unit length."""
        x, local = self.conv(x), [torch.zeros((), device=x.device, dtype=x.dtype)] * REGIONS
        for level, size in enumerate(_LOCAL_SIZES, 1):
            above = x
            x, theta = self._run_global_level(level, above)
            if self.learn_region:
                local_conv = self.get_submodule(f"local_conv{level}")
                local = [local_conv(self.crop(above, theta[:, t], size) + local[t]) for t in range(REGIONS)]
        whole = self.fc_global(x.mean((2, 3)))
        if not self.learn_region:
            return (whole,)
        return whole, self.fc_local(torch.cat([z.mean((2, 3)) for z in local], dim=1))

    def _run_global_level(self, level: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighed map one level down and the offsets of its regions."""
        stage = f"inception{level}"
        x = self.get_submodule(stage)(x)
        soft, theta = self.get_submodule(f"ha{level}")(x)
        return self.attend(stage, x * soft), theta


class UnitHACNN(nn.Module):
    """HA-CNN as published for retrieval: images (B, 3, H, W) to (B, 2 D), both vectors at unit length, side by side.

    Attributes:
        backbone: the network whose vectors these are.
    """

    def __init__(self, backbone: HACNN) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.normalize(vector, dim=1) for vector in self.backbone(x)], dim=1)


def _build_convs(channels: int, width: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(ConvBlock(channels, width, 1), ConvBlock(width, width, 3, stride=stride, padding=1))


def _build_features(channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, features), nn.BatchNorm1d(features), nn.ReLU())


@register_backbone("hacnn")
def hacnn(*, height: int, width: int, learn_region: bool = True, gate_start: str = "constant") -> HACNN:
    """Return HA-CNN: 2.9 M parameters, 512 global and 512 local features; published for 160 x 64."""
    return HACNN(learn_region=learn_region, gate_start=gate_start)
