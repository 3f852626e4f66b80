"""Backbones: the base class, the registry, and the insertion of attention after stages.

Shapes: B images, C channels, H x W map, D features.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from dcs_nas.errors import InputError, choices
from dcs_nas.models.blocks import build_attention
from dcs_nas.models.flops import dry_run
from dcs_nas.registry import Registry
from dcs_nas.settings import Settings, parse, read_options


class Backbone(nn.Module):
    """A network from images (B, 3, H, W) to features, with named stages after which attention may be inserted.

    A subclass sets the attributes below and passes the map that leaves each stage through ``attend``.

    Attributes:
        kind: the output: "map" is (B, C, h, w), "vector" is (B, D), "vectors" is a tuple of (B, D).
        num_features: C of the map, or D of the first vector.
        stages: the names of the stages, from input to output.
        default_stages: the stages that get attention by default.
        cameras: number of cameras that it has learned; above 0 ``forward`` also takes those of the images, (B,) from 0.
        smallest: least height and width of an image.
        stem_path: name of the submodule that ends the stem and returns the first map (B, C, h, w).
        attention: stage to the block after it; empty for a plain backbone.
        interpolated: names that the last ``adapt_weights`` resized, to the sizes, such as ``14 x 14 to 16 x 8``.
    """

    kind: ClassVar[Literal["map", "vector", "vectors"]]
    smallest: ClassVar[int] = 1
    stem_path: ClassVar[str]
    num_features: int
    stages: tuple[str, ...]
    default_stages: tuple[str, ...]
    cameras: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict()
        self.interpolated: dict[str, str] = {}

    def attend(self, stage: str, x: Tensor) -> Tensor:
        """Return the map x (B, C, H, W) that leaves ``stage``, after the attention inserted there, if any."""
        return self.attention[stage](x) if stage in self.attention else x

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a weights file under the names and shapes of this network.

        A subclass that reads other layouts of its network overrides it. Unknown names stay as they are.

        Raises:
            InputError: a tensor that belongs to another kind of network, or cannot be adapted.
        """
        return dict(weights)


def measure_stages(backbone: Backbone, height: int, width: int) -> dict[str, tuple[int, int, int]]:
    """Return stage to the (C, H, W) of the map that leaves it, for images of this size."""
    attention, recorders = backbone.attention, {stage: _Recorder() for stage in backbone.stages}
    backbone.attention = nn.ModuleDict(recorders)
    try:
        dry_run(backbone, height, width)
    finally:
        backbone.attention = attention
    return {stage: recorder.shape for stage, recorder in recorders.items()}


def insert_attention(
    backbone: Backbone,
    name: str,
    stages: str | Sequence[str] | None,
    height: int,
    width: int,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Put the attention block ``name`` after the given stages of a backbone for height x width images.

    Args:
        backbone: changed in place; its parameters keep their names.
        name: of a block, see ``dcs_nas.models.blocks.build_attention``.
        stages: some of ``backbone.stages``; None: ``backbone.default_stages``.
        height: of the images.
        width: of the images.
        settings: of the block.

    Raises:
        InputError: an unknown block, setting or stage, or a stage that has attention already.
    """
    wanted = backbone.default_stages if stages is None else _check_stages(backbone, stages)
    maps = measure_stages(backbone, height, width)
    blocks = {stage: build_attention(name, *maps[stage], **dict(settings or {})) for stage in wanted}
    for stage, block in blocks.items():
        backbone.attention[stage] = block.to(next(backbone.parameters())).train(backbone.training)


def _check_stages(backbone: Backbone, stages: str | Sequence[str]) -> tuple[str, ...]:
    wanted = (stages,) if isinstance(stages, str) else tuple(stages)
    for position, stage in enumerate(wanted):
        if stage not in backbone.stages:
            raise InputError(f"no stage '{stage}' for attention; {choices(stage, backbone.stages)}")
        if stage in backbone.attention or stage in wanted[:position]:
            raise InputError(f"stage '{stage}' would get attention twice; name it once")
    if not wanted:
        raise InputError(f"no stage is named for attention; name some of {', '.join(backbone.stages)}")
    return wanted


class _Recorder(nn.Module):
    """The identity, which records the size of its last map."""

    shape: tuple[int, int, int]

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        self.shape = (channels, height, width)
        return x


def initialize_convolutional(network: nn.Module) -> None:
    """Initialize as torchvision and torchreid do: convolutions by He et al. (ICCV 2015), with the fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


BACKBONES: Registry[Callable[..., Backbone]] = Registry("backbone")


class _Attention(Settings):
    """The options that every registered backbone has beside its own."""

    attention: str | None = None
    attention_stages: str | Sequence[str] | None = None
    attention_settings: Mapping[str, Any] | None = None


def register_backbone(name: str) -> Callable[[Callable[..., Backbone]], Callable[..., Backbone]]:
    """Register the decorated ``make(*, height, width, **options)``, which returns a plain backbone, in ``BACKBONES``.

    The registered factory also takes ``attention``, ``attention_stages`` and ``attention_settings`` and inserts the
    blocks (see ``insert_attention``). It raises ``InputError`` for an unknown option, a bad size, or attention settings
    without attention.
    """

    def enter(make: Callable[..., Backbone]) -> Callable[..., Backbone]:
        known = [p for p in inspect.signature(make).parameters if p not in ("height", "width")]

        @functools.wraps(make)
        def factory(
            *,
            height: int,
            width: int,
            attention: str | None = None,
            attention_stages: str | Sequence[str] | None = None,
            attention_settings: Mapping[str, Any] | None = None,
            **options: Any,
        ) -> Backbone:
            for option in options:
                if option not in known:
                    hint = choices(option, known) if known else "it has none"
                    raise InputError(f"backbone '{name}' has no option '{option}'; {hint}")
            source = f"options of backbone '{name}'"
            own = {"attention": attention, "attention_stages": attention_stages}
            parse(_Attention, {**own, "attention_settings": attention_settings}, source=source)
            backbone = make(**read_options(make, {"height": height, "width": width, **options}, source=source))
            for side, value in (("height", height), ("width", width)):
                if value < backbone.smallest:
                    raise InputError(
                        f"backbone '{name}' got images of {side} {value}; expected at least {backbone.smallest}"
                    )
            if attention is not None:
                insert_attention(backbone, attention, attention_stages, height, width, attention_settings)
            elif attention_stages is not None or attention_settings:
                raise InputError("attention stages or settings are given without attention; name the attention block")
            return backbone

        BACKBONES.register(name)(factory)
        return factory

    return enter
