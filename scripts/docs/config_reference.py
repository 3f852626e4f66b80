"""References of configurations and search spaces, from their pydantic classes: key, meaning, type, default, bounds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dcs_nas.config import Config
from dcs_nas.config.describe import bounds, default, describe_annotation, find_settings_class
from dcs_nas.space import ChainSpec, MsiSpec, OSNetSpace, SpaceSpec

_INTRODUCTION = """# Configuration

A job is one YAML file. Keys are grouped in sections; `-o section.key=value` replaces one on the command line, its value
written as in YAML: `-o search.epochs=20`, `-o retrain.grad_clip=null`,
`-o data.also='[{name: dukemtmc, root: /data/duke}]'`.
An unknown key or a wrong value is refused, in one line that names the nearest key. What a run really used stands
in `config.yaml` of its folder. The shipped files are in [configs/](../../configs).

`dcs-nas config demo` prints a configuration with these comments, `dcs-nas config KEY` one setting, and
`dcs-nas config --schema` the JSON schema by which editors complete and check.

This page is made from the classes in `dcs_nas/config/` by `scripts/docs/references.py`.
"""
_SPACES = """# Search spaces

A search space is one YAML file, `search.space` in a configuration; those that ship are in
[search_spaces/](../../search_spaces). The names are explained in [names](names.md); how to write one, in
[your own search space](../own_space.md).
"""
Section = tuple[str, type[BaseModel]]


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
        known = [(path or top, kind) for path, kind in sections(root)]
        for path, kind in known:
            parts += _section(title if path == top else f"`{path}`", path, kind, known)
    return "\n".join(parts)


def sections(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A class of settings and those of its fields, with the keys that lead to them; each class once."""
    yield path, kind
    seen: set[type[BaseModel]] = set()
    for name, field in kind.model_fields.items():
        inner = find_settings_class(field.annotation)
        if inner is not None and inner not in seen:
            seen.add(inner)
            yield from sections(inner, f"{path}.{name}".lstrip("."))


def _section(title: str, path: str, kind: type[BaseModel], known: Iterable[Section]) -> Iterator[str]:
    """Heading, docstring and table of one class; ``known`` are the classes of the page with their titles' anchors."""
    anchors = {found: f"#{_anchor(where)}" for where, found in known}
    described = any(field.description for field in kind.model_fields.values())
    yield f"## {title}\n\n{_docstring(kind)}\n"
    yield (
        "| key | meaning | type | default | bounds |\n|---|---|---|---|---|"
        if described
        else ("| key | type | default | bounds |\n|---|---|---|---|")
    )
    for name, field in kind.model_fields.items():
        meaning = [re.sub(r"``([^`]+)``", r"`\1`", field.description or "")] if described else []
        cells = [f"`{field.alias or name}`", *meaning, _kind(field, anchors), _default(field), _bounds(field)]
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _anchor(path: str) -> str:
    """Return the anchor of a section's heading, as code hosts and MkDocs make it."""
    return path.replace(".", "") or "the-file-itself"


def _kind(field: FieldInfo, anchors: Mapping[type[BaseModel], str]) -> str:
    inner = find_settings_class(field.annotation)
    if inner is None:
        return describe_annotation(field.annotation, "`")
    link = f"[{inner.__name__.removesuffix('Config')}]({anchors[inner]})"
    return f"list of {link}" if get_origin(field.annotation) is tuple else f"section {link}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = default(field)
    return value if value in ("its own defaults", "left out") else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    return re.sub(r"matches (\S+)", r"matches `\1`", bounds(field))


def _docstring(kind: type[BaseModel]) -> str:
    """The class's docstring as Markdown."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return re.sub(r"``([^`]+)``", r"`\1`", text)
