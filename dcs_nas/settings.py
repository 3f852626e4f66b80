"""Strict settings: typed, frozen, unknown keys refused with the nearest known name; YAML in, YAML out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dcs_nas.errors import InputError, choices

LARGEST_FILE = 4 * 2**20  # bytes; a settings file of more is not one


class Settings(BaseModel):
    """Base of every group of settings: keyword-only, immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, populate_by_name=True)


S = TypeVar("S", bound=Settings)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (which can blow a small file up) and without repeated keys (which hide a value)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not accepted here", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        for k, (key_node, _) in zip(keys, node.value):
            if isinstance(k, str) and keys.count(k) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{k}' stands twice", key_node.start_mark)
        return super().construct_mapping(node, deep=deep)


_PlainLoader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_PlainLoader.add_implicit_resolver(  # 1e-3 is a number here, as everywhere but in YAML 1.1
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, *, source: str) -> Any:
    """YAML text as plain data; ``InputError`` with file, line and column where it does not parse."""
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{source} is not valid YAML{where}: {what}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping, as a dict."""
    text = read_text(path)
    data = parse_yaml(text, source=str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path} holds {_kind(data)}, expected a mapping of settings (key: value)")
    return data


def read_text(path: Path) -> str:
    """A small UTF-8 text file; ``InputError`` where there is none."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file")
    if not path.is_file():
        raise InputError(f"there is no file {path}; check the path")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes, expected at most {LARGEST_FILE:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None


def parse(kind: type[S], data: Mapping[str, Any], *, source: str) -> S:
    """``data`` as settings of one kind; the first thing wrong is raised as an ``InputError`` of one line."""
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        raise InputError(f"{source}: {_first_error(kind, error)}") from None


def to_yaml(settings: Settings) -> str:
    """The settings as YAML that reads back equal."""
    return plain_yaml(settings.model_dump(mode="json", by_alias=True))


def plain_yaml(data: Any) -> str:
    """Plain data as YAML, keys in the order given, short lists on one line."""
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def _first_error(kind: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'; {choices(str(first['loc'][-1]), _known_keys(kind, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"'{place}' is missing"
    found = "" if first["type"] == "value_error" and not place else f", found {_short(first['input'])}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{place}: {message}{found}" if place else message


def _known_keys(kind: Any, place: tuple) -> list[str]:
    for part in place:
        if isinstance(part, int) or not isinstance(kind, type) or not issubclass(kind, BaseModel):
            continue
        field = next((f for n, f in kind.model_fields.items() if part in (n, f.alias)), None)
        kind = _settings_in(field.annotation) if field else kind
    return [f.alias or n for n, f in kind.model_fields.items()] if hasattr(kind, "model_fields") else []


def _settings_in(annotation: Any) -> Any:
    """The settings class inside Optional[...], tuple[..., ...] and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_settings_in(a) for a in getattr(annotation, "__args__", ()))
    return next((a for a in inner if a is not None), None)


def _kind(data: Any) -> str:
    return "nothing" if data is None else f"a {type(data).__name__}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
