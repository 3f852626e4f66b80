"""A chain space as an NNI ModelSpace; freezing it returns the fixed network of a genotype.

Images (B, 3, H, W) to the feature map (B, D, h, w), D = ``features``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.blocks import WindowAttention, build_attention
from dcs_nas.models.nni_imports import (
    LayerChoice,
    ModelSpace,
    Mutable,
    MutableExpression,
    MutableModule,
    choice,
    ensure_frozen,
    freeze_in_place,
)
from dcs_nas.space import ChainGenotype, ChainNetwork, ChainStructure, Choice, StageSpec, squeeze_channels
from dcs_nas.space.chain import attention_choice, block_choices

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish}


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
    """Channels weighed by their means: C -> C / 4 -> C, ReLU between, hard sigmoid at the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeeze_channels(channels))
        self.expand = nn.Linear(squeeze_channels(channels), channels)

    def gate(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights (B, C, 1, 1) of x (B, C, H, W); ``mask`` (C / 4,) weighs the channels inside."""
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
        return y + fit_channels(x, self.out_channels) if self.shortcut else y


class PooledHead(nn.Module):
    """1x1 convolution to the expanded width, mean over the map, 1x1 convolution: (B, C, H, W) to (B, D, 1, 1).

    The end of FBNetV2's networks (arXiv 2004.05565) and of MobileNetV3's (arXiv 1905.02244, section 5.1).
    """

    def __init__(self, channels: int, features: int, *, expansion: int, activation: str) -> None:
        super().__init__()
        self.expand = ConvNorm(channels, channels * expansion, 1, activation=activation)
        self.features = nn.Conv2d(channels * expansion, features, 1)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return features (B, D, 1, 1) of x; ``mask`` (E,) weighs the expanded channels."""
        y = self.expand(x).mean((2, 3), keepdim=True)
        y = y if mask is None else y * mask.to(y.dtype)[:, None, None]
        return self.activation(self.features(y))


def fit_channels(x: Tensor, channels: int) -> Tensor:
    """Return x (B, C, H, W) with its first ``channels`` channels, or with zeros appended (ResNet's option A)."""
    missing = channels - x.shape[1]
    return x[:, :channels] if missing <= 0 else F.pad(x, (0, 0, 0, 0, 0, missing))


class ChainSpace(ModelSpace):
    """Stem, stages of inverted-residual blocks with attention after each, and a last 1x1 convolution.

    Every choice of ``structure.choices()`` is a mutable of its label: numbers by ``nni.choice``, the depth of a block
    and the attention of a stage by ``LayerChoice``. The layer after a choice of width takes its size from it.

    ``num_features``: D, channels of the output map.
    """

    def __init__(self, structure: ChainStructure, network: ChainNetwork) -> None:
        super().__init__()
        self.num_features = structure.features
        height, width = half(network.height, structure.stem_stride), half(network.width, structure.stem_stride)
        self.stem = ConvNorm(3, structure.stem, 3, stride=structure.stem_stride, activation=structure.activation)
        channels: Any = structure.stem
        self.stages, self.attention = nn.ModuleList(), nn.ModuleList()
        for number, stage in enumerate(structure.stages, start=1):
            height, width = half(height, stage.stride), half(width, stage.stride)
            blocks = nn.ModuleList()
            for k in range(1, stage.blocks + 1):
                block, channels = _block(stage, number, k, channels)
                blocks.append(block)
            self.stages.append(blocks)
            self.attention.append(_attention(stage, number, channels, height, width))
        self.head = Sized(build_head, channels, structure=structure)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for blocks, attention in zip(self.stages, self.attention):
            for block in cast(nn.ModuleList, blocks):
                x = block(x)
            x = attention(x)
        return self.head(x)


class Sized(MutableModule):
    """A module whose settings depend on choices: ``factory(*arguments, **settings)`` with the chosen values."""

    def __init__(self, factory: Callable[..., nn.Module], *arguments: Any, **settings: Any) -> None:
        super().__init__()
        self.factory, self.arguments, self.settings = factory, arguments, settings
        for value in (*arguments, *settings.values()):
            if isinstance(value, Mutable):
                self.add_mutable(value)
        self.module = self._make(None)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        """Return the module with the sample's choices: NNI's interface."""
        return self._make(sample)

    def _make(self, sample: dict[str, Any] | None) -> nn.Module:
        arguments = [ensure_frozen(value, sample=sample) for value in self.arguments]
        return self.factory(*arguments, **{k: ensure_frozen(v, sample=sample) for k, v in self.settings.items()})


def build_fixed_chain(genotype: ChainGenotype) -> nn.Module:
    """Return the network of a genotype: its space with the choices made, trainable from scratch."""
    network = ChainSpace(genotype.space, genotype.network)
    freeze_in_place(network, genotype.to_sample())
    for attention, stage in zip(network.attention, genotype.stages):
        if stage.window is not None:
            cast(WindowAttention, attention).fix(*stage.window)
    return network


def half(size: int, stride: int) -> int:
    """Return the height or width of a map after a stride.

    >>> half(5, 2)
    3
    """
    return -(-size // stride)


def _block(stage: StageSpec, number: int, block: int, channels: Any) -> tuple[nn.Module, Any]:
    """Return block ``block`` of stage ``number`` after ``channels`` channels, and its width; both may be mutable."""
    options = block_choices(stage, number, block)
    width = _mutable(options["width"])
    settings = {name: _mutable(options[name]) for name in ("kernel", "expansion", "squeeze_excite")}
    stride = stage.stride if block == 1 else 1
    layer = Sized(
        InvertedResidual,
        channels,
        width,
        **settings,
        stride=stride,
        activation=stage.activation,
        shortcut=block > 1 or stage.shortcut,
    )
    depth = options["depth"]
    if len(depth.options) == 1:
        return layer, width
    kept = LayerChoice({"keep": layer, "skip": nn.Identity()}, label=depth.label)
    return kept, MutableExpression.condition(kept.choice == "skip", channels, width)


def _attention(stage: StageSpec, number: int, channels: Any, height: int, width: int) -> nn.Module:
    blocks = {
        name: Sized(partial(build_attention, name), channels, height=height, width=width) for name in stage.attention
    }
    return LayerChoice(blocks, label=attention_choice(stage, number).label) if len(blocks) > 1 else blocks.popitem()[1]


def _mutable(options: Choice) -> Any:
    return choice(options.label, list(options.options)) if len(options.options) > 1 else options.options[0]


def build_head(channels: int, *, structure: ChainStructure) -> ConvNorm | PooledHead:
    """Return the end of a chain after ``channels`` channels."""
    features, activation = structure.features, structure.activation
    if structure.head_expansion is None:
        return ConvNorm(channels, features, 1, activation=activation)
    return PooledHead(channels, features, expansion=structure.head_expansion, activation=activation)
