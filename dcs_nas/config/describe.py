"""Descriptions of settings (purpose, type, bounds, default), and configurations as YAML with comments."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dcs_nas.config import Config
from dcs_nas.errors import InputError, choices
from dcs_nas.former_keys import current_key
from dcs_nas.settings import Settings, dump_flow_yaml, find_settings_class

_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
_LENGTHS = {"min_length": "at least {} entries", "max_length": "at most {} entries"}
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "anything"}
_PLURALS = {str: "texts", int: "whole numbers", float: "numbers", Path: "paths", Any: "anything"}
_COLUMNS = 100  # of a comment


class Key(NamedTuple):
    """A setting by its full name, e.g. ``search.guard.ratio``, and its field."""

    name: str
    field: FieldInfo

    @property
    def settings(self) -> type[BaseModel] | None:
        """The class of a section, or of the entries of a list; None for a single value."""
        return find_settings_class(self.field.annotation)


def keys(kind: type[BaseModel] = Config, prefix: str = "") -> Iterator[Key]:
    """Yield every setting, a section before its settings."""
    for name, field in kind.model_fields.items():
        key = Key(f"{prefix}{field.alias or name}", field)
        yield key
        if key.settings is not None:
            yield from keys(key.settings, f"{key.name}.")


def find_key(name: str) -> Key:
    """Return a setting; ``InputError`` for an unknown one."""
    known, name = {key.name: key for key in keys()}, current_key(name, source="dcs-nas config")
    if name not in known:
        raise InputError(f"unknown setting '{name}'; {choices(name, _nearby(name, list(known)))}")
    return known[name]


def describe(key: Key) -> str:
    """Return the description, type, bounds and default of a setting; for a section also its settings."""
    lines = [key.name, *textwrap.wrap(key.field.description or "", _COLUMNS)]
    facts = {"type": describe_type(key.field), "bounds": bounds(key.field), "default": default(key.field)}
    lines += [f"{name}: {value}" for name, value in facts.items() if value]
    if key.settings is not None:
        inner = [one.removeprefix(f"{key.name}.") for one, _ in keys(key.settings, f"{key.name}.")]
        lines += textwrap.wrap(f"settings: {', '.join(one for one in inner if '.' not in one)}", _COLUMNS)
    return "\n".join(lines)


def comment_yaml(settings: Settings, *, section: str | None = None) -> str:
    """Return settings as YAML that loads back equal, with comments of description, type and default.

    Args:
        settings: a configuration.
        section: only this one, such as ``search`` or ``search.guard``.

    Raises:
        InputError: an unknown section, or one that the configuration leaves out.
    """
    if section is None:
        return "\n".join(_lines(settings, "")) + "\n"
    key, place = find_key(section), settings
    if key.settings is None:
        raise InputError(f"{section} is a setting, not a section; see it by dcs-nas config {section}")
    parts = section.split(".")
    for part in parts:
        place = getattr(place, part)
        if not isinstance(place, Settings):
            raise InputError(f"the configuration has no section {section}; name another, or another configuration")
    heads = [f"{'  ' * i}{part}:" for i, part in enumerate(parts)]
    return "\n".join([*heads, *_lines(place, "  " * len(heads))]) + "\n"


def _lines(settings: Settings, indent: str) -> Iterator[str]:
    values = settings.model_dump(mode="json", by_alias=True)
    for name, field in type(settings).model_fields.items():
        key, value = field.alias or name, getattr(settings, name)
        comment = " ".join(filter(None, (field.description, f"({_facts(field)})")))
        yield from (f"{indent}# {line}" for line in textwrap.wrap(comment, _COLUMNS - len(indent)))
        if isinstance(value, Settings) and type(value).model_fields:
            yield f"{indent}{key}:"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {dump_flow_yaml(values[key])}"


def _facts(field: FieldInfo) -> str:
    """Return type, bounds and default in one phrase."""
    facts = [describe_type(field), bounds(field), f"default {default(field)}"]
    return ", ".join(filter(None, facts))


def _nearby(name: str, known: list[str]) -> list[str]:
    """Return the settings of the deepest section that ``name`` begins with."""
    while "." in name:
        name = name.rpartition(".")[0]
        inside = [key for key in known if key.startswith(f"{name}.")]
        if inside:
            return inside
    return [key for key in known if "." not in key]


def describe_type(field: FieldInfo) -> str:
    """Return the type of a setting: ``float | None`` is "number or null"."""
    if find_settings_class(field.annotation) is not None:
        return "list of sections" if get_origin(field.annotation) is tuple else "section"
    return describe_annotation(field.annotation)


def describe_annotation(annotation: Any, quote: str = "") -> str:
    """Return a type in words, its choices between quotes."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Literal:
        return " or ".join(f"{quote}{plain(value)}{quote}" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_annotation(a, quote) for a in inner)
    if origin is Annotated:
        return describe_annotation(inner[0], quote)
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"list of {len(inner)}: {', '.join(dict.fromkeys(map(describe_annotation, inner)))}"
    if origin in (list, tuple):
        return f"list of {_PLURALS.get(inner[0]) or describe_annotation(inner[0], quote)}"
    if origin is dict:
        return f"mapping of {describe_annotation(inner[0], quote)} to {describe_annotation(inner[1], quote)}"
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "path"
    return describe_annotation(origin) if origin else getattr(annotation, "__name__", str(annotation))


def bounds(field: FieldInfo) -> str:
    """Return the bounds of a setting's value, or nothing."""
    texts = []
    for item in field.metadata:
        for name, text in _BOUNDS.items():
            if (value := getattr(item, name, None)) is not None:
                texts.append(text.format(f"{value:,}" if isinstance(value, int) else f"{value:g}"))
        for name, text in _LENGTHS.items():
            if (value := getattr(item, name, None)) is not None:
                texts.append(text.format(value))
        if (pattern := getattr(item, "pattern", None)) is not None:
            texts.append(f"matches {pattern}")
    return ", ".join(texts)


def default(field: FieldInfo) -> str:
    """Return the default of a setting as YAML writes it; words for a section's."""
    if field.is_required():
        return "none: it must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its own defaults"
    return "left out" if value is None and find_settings_class(field.annotation) else plain(value)


def plain(value: Any) -> str:
    """Return a value as YAML writes it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(plain, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
