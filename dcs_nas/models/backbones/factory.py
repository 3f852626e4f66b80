"""Backbones by name: the registry, and the settings that all of its factories share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dcs_nas.errors import InputError, choices
from dcs_nas.models.backbones.stages import Backbone, insert_attention
from dcs_nas.registry import Registry

BACKBONES: Registry[Callable[..., Backbone]] = Registry("backbone")


def register_backbone(name: str) -> Callable[[Callable[..., Backbone]], Callable[..., Backbone]]:
    """Decorator that enters ``make(*, height, width, **options)``, a plain backbone's maker, into ``BACKBONES``.

    The entered factory also takes ``attention``, ``attention_stages`` and ``attention_settings`` and puts the blocks
    in (see ``insert_attention``). It raises ``InputError`` for an unknown option, a bad size, or attention settings
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
            attention_stages: Iterable[str] | None = None,
            attention_settings: Mapping[str, Any] | None = None,
            **options: Any,
        ) -> Backbone:
            _check_options(name, options, known)
            backbone = make(height=height, width=width, **options)
            _check_image_size(name, height, width, backbone.smallest)
            if attention is not None:
                insert_attention(backbone, attention, attention_stages, height, width, attention_settings)
            elif attention_stages is not None or attention_settings:
                raise InputError("attention stages or settings are given without attention; name the attention block")
            return backbone

        BACKBONES.register(name)(factory)
        return factory

    return enter


def _check_options(name: str, options: Mapping[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            hint = choices(option, known) if known else "it has none"
            raise InputError(f"backbone '{name}' has no option '{option}'; {hint}")


def _check_image_size(name: str, height: int, width: int, smallest: int) -> None:
    for side, value in (("height", height), ("width", width)):
        if value < smallest:
            raise InputError(f"backbone '{name}' got images of {side} {value}; expected at least {smallest}")
