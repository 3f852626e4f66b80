"""Attention blocks, all from (B, C, H, W) to (B, C, H, W), by name.

Settings per name: dcs: scale, tau; dcs_window: window; harmonious: reduction, regions, gate_start; rga, rga_spatial,
rga_channel: reduction, max_nodes, gate_start; nonlocal: reduction, scale; part_aware: parts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from dcs_nas.errors import InputError, choices
from dcs_nas.models.blocks.dcs import DCSAttention, read_kept_shares, select_channels, set_scale, set_temperature
from dcs_nas.models.blocks.harmonious import HardAttention, HarmoniousAttention, SoftAttention, StackRegions
from dcs_nas.models.blocks.nonlocal_block import NonLocalBlock
from dcs_nas.models.blocks.part_aware import PartAware
from dcs_nas.models.blocks.rga import RGA
from dcs_nas.models.blocks.window import WindowAttention
from dcs_nas.models.custom import build_custom
from dcs_nas.registry import Registry
from dcs_nas.settings import read_options

__all__ = [
    "ATTENTION",
    "RGA",
    "DCSAttention",
    "HardAttention",
    "HarmoniousAttention",
    "NonLocalBlock",
    "PartAware",
    "SoftAttention",
    "StackRegions",
    "WindowAttention",
    "attention_settings",
    "build_attention",
    "read_kept_shares",
    "select_channels",
    "set_scale",
    "set_temperature",
]

ATTENTION: Registry[Callable[..., nn.Module]] = Registry("attention block")


@ATTENTION.register("dcs")
def _dcs(channels: int, height: int, width: int, *, scale: str | None = None, tau: float = 5.0) -> nn.Module:
    return DCSAttention(channels, scale=scale, tau=tau)


@ATTENTION.register("dcs_window")
def _dcs_window(channels: int, height: int, width: int, *, window: tuple[float, float] | None = None) -> nn.Module:
    return WindowAttention(channels, window=window)


@ATTENTION.register("harmonious")
def _harmonious(
    channels: int, height: int, width: int, *, reduction: int = 16, regions: int = 4, gate_start: str = "constant"
) -> nn.Module:
    return HarmoniousAttention(channels, height, reduction=reduction, regions=regions, gate_start=gate_start)


def _register_rga(name: str, **gates: Any) -> None:
    @ATTENTION.register(name)
    def make(
        channels: int,
        height: int,
        width: int,
        *,
        reduction: int = 8,
        max_nodes: int | None = None,
        gate_start: str = "constant",
    ) -> nn.Module:
        settings: Any = {"reduction": reduction, "max_nodes": max_nodes, "gate_start": gate_start}
        return RGA(channels, height, width, **gates, **settings)


_register_rga("rga_spatial", use_channel=False)
_register_rga("rga_channel", use_spatial=False)
_register_rga("rga")


@ATTENTION.register("nonlocal")
def _nonlocal(channels: int, height: int, width: int, *, reduction: int = 2, scale: str = "literal") -> nn.Module:
    return NonLocalBlock(channels, reduction=reduction, scale=scale)


@ATTENTION.register("part_aware")
def _part_aware(channels: int, height: int, width: int, *, parts: int = 4) -> nn.Module:
    return PartAware(channels, height, parts=parts)


def _none(channels: int, height: int, width: int) -> nn.Module:
    return nn.Identity()


def attention_settings(name: str) -> list[str]:
    """Return the names of the settings that the attention block ``name`` has."""
    factory = _none if name == "none" else ATTENTION[name]
    return [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]


def build_attention(name: str, channels: int, height: int, width: int, **settings: Any) -> nn.Module:
    """Return the attention block ``name`` for maps (B, channels, height, width); "none" returns the identity.

    Raises:
        InputError: an unknown name, a setting that the block does not have, a bad value, or a user's own block that
            does not keep a map's shape.
    """
    factory = _none if name == "none" else ATTENTION[name]
    known = attention_settings(name)
    for key in settings:
        if key not in known:
            raise InputError(f"attention block '{name}' has no setting '{key}'; {choices(key, known)}")
    settings = read_options(factory, settings, source=f"settings of attention block '{name}'")
    if not ATTENTION.is_extension(name):
        return factory(channels, height, width, **settings)
    what, shape = f"attention block '{name}' of {ATTENTION.owner(name)}", (channels, height, width)
    make = functools.partial(factory, channels, height, width, **settings)
    return build_custom(what, make, shape, shape, call="factory(channels, height, width, **settings)")
