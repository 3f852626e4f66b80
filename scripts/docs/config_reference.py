"""References of configurations and search spaces, from their pydantic classes: keys, types, defaults and bounds."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dcs_nas.config import Config
from dcs_nas.space import ChainSpec, MsiSpec, OSNetSpace, SpaceSpec

_INTRODUCTION = """# Configuration

A job is one YAML file. Keys stand in sections; `-o section.key=value` replaces one on the command line, its value
written as in YAML: `-o search.epochs=20`, `-o retrain.grad_clip=null`,
`-o data.also='[{name: dukemtmc, root: /data/duke}]'`.
An unknown key or a wrong value is refused, in one line that names the nearest key. What a run really used stands
in `config.yaml` of its folder. The shipped files are in [configs/](../../configs).

This page is made from the classes in `dcs_nas/config/` at build time.
"""
_SPACES = """# Search spaces

A search space is one YAML file, `search.space` in a configuration; those that ship are in
[search_spaces/](../../search_spaces). What the names mean stands under [names](names.md); how to write one, in
[your own search space](../own_space.md).
"""
Section = tuple[str, type[BaseModel]]
_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
_LENGTHS = {"min_length": "at least {} entries", "max_length": "at most {} entries"}
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "anything"}


def config_page() -> str:
    """The page of configurations as Markdown."""
    parts = [_INTRODUCTION]
    for path, kind in sections(Config):
        parts += _section(f"`{path}`" if path else "The file itself", path, kind, sections(Config))
    return "\n".join(parts)


def spaces_page() -> str:
    """The page of search spaces as Markdown."""
    parts = [_SPACES]
    roots = (
        ("Cells", "cells", SpaceSpec), ("Chain", "chain", ChainSpec), ("OSNet", "osnet", OSNetSpace),
        ("MSI", "msi", MsiSpec),
    )  # fmt: skip
    for title, top, root in roots:
        known = [(f"{top}.{path}".rstrip("."), kind) for path, kind in sections(root)]
        for path, kind in known:
            parts += _section(title if path == top else f"`{path.removeprefix(top + '.')}`", path, kind, known)
    return "\n".join(parts)


def sections(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A class of settings and those of its fields, with the keys that lead to them; each class once."""
    yield path, kind
    seen: set[type[BaseModel]] = set()
    for name, field in kind.model_fields.items():
        inner = _settings_in(field.annotation)
        if inner is not None and inner not in seen:
            seen.add(inner)
            yield from sections(inner, f"{path}.{name}".lstrip("."))


def _section(title: str, path: str, kind: type[BaseModel], known: Iterable[Section]) -> Iterator[str]:
    """Heading, docstring and table of one class; ``known`` are the classes of the page with their paths."""
    anchors = {found: f"#{_anchor(where)}" for where, found in known}
    yield f"## {title} {{: #{_anchor(path)} }}\n\n{_docstring(kind)}\n"
    yield "| key | type | default | bounds |\n|---|---|---|---|"
    for name, field in kind.model_fields.items():
        cells = [f"`{field.alias or name}`", _kind(field, anchors), _default(field), _bounds(field)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _anchor(path: str) -> str:
    return path.replace(".", "-") or "top"


def _kind(field: FieldInfo, anchors: Mapping[type[BaseModel], str]) -> str:
    inner = _settings_in(field.annotation)
    if inner is None:
        return _type(field.annotation)
    link = f"[{inner.__name__.removesuffix('Config')}]({anchors[inner]})"
    return f"list of {link}" if get_origin(field.annotation) is tuple else f"section {link}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    value = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
    return "left out" if value is None and _settings_in(field.annotation) else f"`{_plain(value)}`"


def _docstring(kind: type[BaseModel]) -> str:
    """The class's docstring as Markdown."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _settings_in(a)) is not None), None)


def _type(annotation: Any) -> str:
    """A type in words: ``float | None`` is "number or null"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Literal:
        return " or ".join(f"`{_plain(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(a) for a in inner)
    if origin is Annotated:
        return _type(inner[0])
    if origin is tuple and inner[-1] is Ellipsis:
        return f"list of {_plural(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)}: {', '.join(dict.fromkeys(map(_type, inner)))}"
    if origin is list:
        return f"list of {_plural(inner[0])}"
    if origin is dict:
        return f"mapping of {_type(inner[0])} to {_type(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "path"
    return _type(origin) if origin else getattr(annotation, "__name__", str(annotation))


def _plural(annotation: Any) -> str:
    return {str: "texts", int: "whole numbers", float: "numbers", Path: "paths", Any: "anything"}.get(
        annotation
    ) or _type(annotation)


def _bounds(field: FieldInfo) -> str:
    found = []
    for item in field.metadata:
        for name, text in _BOUNDS.items():
            if (value := getattr(item, name, None)) is not None:
                found.append(text.format(f"{value:,}" if isinstance(value, int) else f"{value:g}"))
        for name, text in _LENGTHS.items():
            if (value := getattr(item, name, None)) is not None:
                found.append(text.format(value))
        if (pattern := getattr(item, "pattern", None)) is not None:
            found.append(f"matches `{pattern}`")
    return ", ".join(found)


def _plain(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_plain, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
