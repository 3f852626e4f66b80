"""MSINet: two branches of different depth in each cell and a searched interaction between them, published names.

Shapes: B images, C channels, H x W map, N = HW positions, D features, A identities.
Source: Gu et al., "MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID", CVPR 2023, section 3.2
and figure 3; vimar-gu/MSINet at 2a8845b, reid/models/msinet.py and operations.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError, choices
from dcs_nas.models.backbones.backbone import Backbone, initialize_convolutional, register_backbone
from dcs_nas.models.backbones.osnet import ChannelGate, ConvNorm, LightConv
from dcs_nas.models.blocks.parts import check_sizes
from dcs_nas.models.heads import Embedding
from dcs_nas.space.msi import CELLS, find_channel_fault

MSMT_GENOTYPE = ("ag", "ag", "exc", "ag", "cross_att", "ag", "ag", "none", "ag", "cross_att", "exc", "cross_att")
"""The published genotype, searched on MSMT17: two interactions for each of the six cells."""
CHANNELS = (64, 256, 384, 512)
HALF_FEATURES = 128  # of the second head, for each half of the body

Branches = tuple[Tensor, Tensor]


class NoInteraction(nn.Module):
    """Two maps (B, C, H, W), unchanged."""

    def forward(self, a: Tensor, b: Tensor) -> Branches:
        return a, b


class Exchange(nn.Module):
    """The two branches (B, C, H, W) swapped."""

    def forward(self, a: Tensor, b: Tensor) -> Branches:
        return b, a


class SharedGate(ChannelGate):
    """One channel gate, x o sigmoid(MLP(mean(x))), for both of two maps (B, C, H, W)."""

    def forward(self, a: Tensor, b: Tensor) -> Branches:  # type: ignore[override]
        gate = super().forward
        return gate(a), gate(b)


class CrossAttention(nn.Module):
    """Attention among the channels of each map (B, C, H, W), by their dissimilarity to the channels of the other map.

    With E = A B^T for maps A, B (C, N): A' = A + gamma softmax(max(E) - E) A, the maximum over each row; B' likewise
    with E^T. gamma is learned, starts at 0 and is shared.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, a: Tensor, b: Tensor) -> Branches:
        energy = a.flatten(2) @ b.flatten(2).transpose(1, 2)
        return self._refine(a, energy), self._refine(b, energy.transpose(1, 2))

    def _refine(self, x: Tensor, energy: Tensor) -> Tensor:
        weights = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
        return x + self.gamma * (weights @ x.flatten(2)).unflatten(2, x.shape[2:])


Interaction = Callable[[int], nn.Module]
INTERACTIONS: Mapping[str, Interaction] = {
    "none": lambda channels: NoInteraction(),
    "exc": lambda channels: Exchange(),
    "ag": SharedGate,
    "cross_att": lambda channels: CrossAttention(),
}
"""Published name to the factory of an interaction of two maps, by their channels."""


class InteractionCell(nn.Module):
    """Branches of 2 and of 6 light convolutions with an interaction midway and one at the end, added, residual.

    (B, C, H, W) to (B, out_channels, H, W); the branches have out_channels / 4 channels.
    """

    def __init__(self, channels: int, out_channels: int, interactions: Sequence[Interaction]) -> None:
        super().__init__()
        width = out_channels // 4
        first, second = interactions
        self.conv1a, self.conv1b = ConvNorm(channels, width), ConvNorm(channels, width)
        self.conv2a, self.conv2b = LightConv(width), _build_three(width)
        self._op2 = first(width)
        self.conv3a, self.conv3b = LightConv(width), _build_three(width)
        self._op3 = second(width)
        self.conv4a = ConvNorm(width, out_channels, relu=False)
        self.conv4b = ConvNorm(width, out_channels, relu=False)
        self.downsample = ConvNorm(channels, out_channels, relu=False) if channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        a, b = self._op2(self.conv2a(self.conv1a(x)), self.conv2b(self.conv1b(x)))
        a, b = self._op3(self.conv3a(a), self.conv3b(b))
        return F.relu(self.conv4a(a) + self.conv4b(b) + (x if self.downsample is None else self.downsample(x)))


def _build_three(width: int) -> nn.Sequential:
    return nn.Sequential(*(LightConv(width) for _ in range(3)))


class MSITrunk(Backbone):
    """Images (B, 3, H, W) to the last map (B, channels[3], h, w): MSINet without heads, convolutions not initialized.

    Args:
        interactions: factories of the 12 interactions, midway and at the end of each of the six cells.
        channels: of the stem and of the three stages.
    """

    kind: ClassVar[Literal["map", "vector", "vectors"]] = "map"
    smallest = 32
    stem_path = "maxpool"
    stages = ("stage1", "stage2", "stage3")
    default_stages = stages

    def __init__(self, interactions: Sequence[Interaction], channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        self.num_features = channels[3]
        self.conv1 = ConvNorm(3, channels[0], 7, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.cells = nn.ModuleList()
        for stage in range(3):
            first, second = interactions[4 * stage : 4 * stage + 2], interactions[4 * stage + 2 : 4 * stage + 4]
            out_channels = channels[stage + 1]
            self.cells.append(InteractionCell(channels[stage], out_channels, first))
            self.cells.append(InteractionCell(out_channels, out_channels, second))
            if stage < 2:
                self.cells.append(nn.Sequential(ConvNorm(out_channels, out_channels), nn.AvgPool2d(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[0]

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last map (B, channels[3], h, w) and the one that enters the last stage (B, channels[2], h, w)."""
        x = halved = self.maxpool(self.conv1(x))
        for n, cell in enumerate(self.cells):
            x = cell(x)
            if n % 3 == 1:  # the second cell of a stage; the third module halves the map
                x = self.attend(self.stages[n // 3], x)
            halved = x if n == 5 else halved
        return x, halved


class MSINet(MSITrunk):
    """Images (B, 3, H, W) to the vector of the whole body (B, channels[3]) and the vector of its halves (B, 256).

    The second vector holds the mean of the upper and of the lower half of the map that enters the last stage, reduced
    to 128 channels by a 1x1 convolution.

    Args:
        genotype: 12 names of ``INTERACTIONS``: midway and at the end of each of the six cells.
        channels: of the stem and of the three stages; the latter are multiples of 4, and at least 64 where a cell has
            a channel gate.

    Raises:
        InputError: a genotype or channels of another length, an unknown interaction, channels out of range.
    """

    kind = "vectors"

    def __init__(self, *, genotype: Sequence[str] = MSMT_GENOTYPE, channels: Sequence[int] = CHANNELS) -> None:
        _check_genotype(genotype, channels)
        super().__init__([INTERACTIONS[name] for name in genotype], channels)
        self.f_conv = nn.Conv2d(channels[2], HALF_FEATURES, 1)
        initialize_convolutional(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return (whole (B, channels[3]), halves (B, 256)) of images (B, 3, H, W)."""
        whole, halved = self.maps(x)
        halved = self.f_conv(halved)
        middle = halved.shape[2] // 2
        upper, lower = halved[:, :, :middle], halved[:, :, middle:]
        return whole.mean((2, 3)), torch.cat([upper.mean((2, 3)), lower.mean((2, 3))], dim=1)


class PublishedMSINet(MSINet):
    """MSINet with the published heads, under the published names.

    A head: a square matrix, batch norm without shift, a classifier with bias. Training: an ``Embedding`` with the
    vectors before the heads side by side. Evaluation: these vectors (B, D), or with ``after_neck`` set those after the
    batch norm, which the published code takes for another data set than that of training.

    Args:
        identities: A.
        genotype: see ``MSINet``.
        channels: see ``MSINet``.
    """

    after_neck = False

    def __init__(
        self, identities: int, *, genotype: Sequence[str] = MSMT_GENOTYPE, channels: Sequence[int] = CHANNELS
    ) -> None:
        super().__init__(genotype=genotype, channels=channels)
        check_sizes(identities=identities)
        self.fc, self.head, self.classifier = _build_head(channels[3], identities)
        self.f_fc, self.f_head, self.f_classifier = _build_head(2 * HALF_FEATURES, identities)

    def forward(self, x: Tensor) -> Tensor | Embedding:  # type: ignore[override]
        """Return an ``Embedding`` in training, features (B, channels[3] + 256) in evaluation."""
        whole, halves = super().forward(x)
        before = torch.cat([whole, halves], dim=1)
        if not self.training and not self.after_neck:
            return before
        normed = [self.head(self.fc(whole)), self.f_head(self.f_fc(halves))]
        if not self.training:
            return torch.cat(normed, dim=1)
        return Embedding(before, [self.classifier(normed[0]), self.f_classifier(normed[1])])


def _build_head(features: int, identities: int) -> tuple[nn.Linear, nn.BatchNorm1d, nn.Linear]:
    square, norm = nn.Linear(features, features, bias=False), nn.BatchNorm1d(features)
    classifier = nn.Linear(features, identities)
    norm.bias.requires_grad_(False)
    nn.init.normal_(square.weight, std=0.01)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return square, norm, classifier


def _check_genotype(genotype: Sequence[str], channels: Sequence[int]) -> None:
    if isinstance(genotype, str) or len(genotype) != 2 * CELLS:
        raise InputError(f"MSINet's genotype is {genotype!r}; expected {2 * CELLS} names of {', '.join(INTERACTIONS)}")
    for name in genotype:
        if name not in INTERACTIONS:
            raise InputError(f"MSINet's genotype has an unknown interaction '{name}'; {choices(name, INTERACTIONS)}")
    if len(channels) != 4:
        raise InputError(f"MSINet's channels are {list(channels)}; expected 4 numbers: of the stem and three stages")
    check_sizes(**{f"MSINet's channels[{n}]": width for n, width in enumerate(channels)})
    if problem := find_channel_fault(channels, ["ag" in genotype[4 * stage : 4 * stage + 4] for stage in range(3)]):
        raise InputError(f"MSINet's {problem}")


@register_backbone("msinet")
def msinet(
    *, height: int, width: int, genotype: tuple[str, ...] = MSMT_GENOTYPE, channels: tuple[int, ...] = CHANNELS
) -> MSINet:
    """Return MSINet: 2.0 M parameters without heads, 512 features and 256 of the halves; published for 256 x 128."""
    return MSINet(genotype=genotype, channels=channels)
