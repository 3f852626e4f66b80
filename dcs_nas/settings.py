"""Strict settings: typed, frozen, unknown keys refused with the nearest known name; YAML in, YAML out."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from datetime import date
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, create_model, field_validator
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from dcs_nas.errors import InputError, choices

LARGEST_FILE = 4 * 2**20  # bytes of a settings file
LARGEST_YAML = 2**20  # characters
MOST_VALUES = 100_000
DEEPEST = 60  # mappings and lists inside one another
FILE_OR_NAME = "a file, or the name of one that ships"
"""Marks a field of text, as ``Annotated[str, FILE_OR_NAME]``."""
_LONGEST_NUMBER = 100  # characters
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Settings(BaseModel):
    """Base of every group of settings: keyword-only, immutable, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for a number, which pydantic reads as 1 and 0."""
        if any(isinstance(each, bool) for each in (value if isinstance(value, (list, tuple)) else [value])):
            types = _list_types(cls, str(info.field_name))
            if types & {int, float} and bool not in types:
                raise ValueError("true and false are no numbers")
        return value


@lru_cache(maxsize=4096)
def _list_types(kind: type[BaseModel], field: str) -> frozenset[Any]:
    """Return the types in the annotation of a field, such as int and NoneType for ``int | None``."""

    def list_leaves(annotation: Any) -> list[Any]:
        inner = get_args(annotation)
        return [leaf for each in inner for leaf in list_leaves(each)] if inner else [annotation]

    return frozenset(leaf for leaf in list_leaves(kind.model_fields[field].annotation) if isinstance(leaf, type))


S = TypeVar("S", bound=Settings)


@cache
def options_of(function: Callable[..., Any]) -> type[Settings]:
    """Return settings that are the keyword-only parameters of a function, of the types that it declares."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # a type that only a type checker imports
        hints = {}
    taken = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default) for p in taken
    }
    return create_model(f"{function.__name__}_options", __base__=Settings, **fields)


def read_options(function: Callable[..., Any], options: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Return all keyword arguments of a function, as the types that it declares; ``InputError`` for what is none."""
    settings = parse(options_of(function), options, source=source)
    return {key: getattr(settings, key) for key in type(settings).model_fields}


if yaml.__with_libyaml__:  # scans in C, ten times faster
    from yaml.cyaml import CParser  # type: ignore[attr-defined]

    class _Parser(Composer, CParser, SafeConstructor, Resolver):
        def __init__(self, stream: Any) -> None:
            CParser.__init__(self, stream)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

else:

    class _Parser(yaml.SafeLoader):  # type: ignore[no-redef]
        pass


class _PlainLoader(_Parser):
    """Safe YAML of bounded depth, without aliases (which expand a small file) and without repeated keys.

    Strings hold no control characters and no halves of surrogate pairs, which file names should not have.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.depth = self.values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise _refusal("aliases (*name) are not accepted here", self.peek_event())
        if self.depth >= DEEPEST:
            raise _refusal(f"more than {DEEPEST} lists and mappings inside one another", self.peek_event())
        if self.values >= MOST_VALUES:
            raise _refusal(f"more than {MOST_VALUES:,} values", self.peek_event())
        self.depth, self.values = self.depth + 1, self.values + 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        if isinstance(node.value, str) and _CONTROL.search(node.value):
            raise _refusal("a string holds a control character", node)
        if node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
            raise _refusal(f"a number of {len(node.value):,} characters, expected at most {_LONGEST_NUMBER}", node)
        return super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            try:
                if key in seen:
                    raise _refusal(f"key '{_cut(str(key))}' is given twice", key_node)
                seen.add(key)
            except TypeError:  # an unhashable key, which the parser refuses
                break
        return super().construct_mapping(node, deep=deep)


def _refusal(what: str, place: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, place.start_mark)


class _PlainDumper(yaml.SafeDumper):
    """Writes strings that ``_PlainLoader`` would read as numbers, such as the hash 974e57180983, in quotes."""


for _kind_of_yaml in (_PlainLoader, _PlainDumper):
    _resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    _kind_of_yaml.yaml_implicit_resolvers = _resolvers
    _kind_of_yaml.add_implicit_resolver(  # 1e-3 is a number here, unlike in YAML 1.1
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def parse_yaml(text: str, *, source: str) -> Any:
    """Return YAML text as plain data; ``InputError`` with file, line and column if it does not parse."""
    if len(text) > LARGEST_YAML:
        raise InputError(f"{source} has {len(text):,} characters of YAML, expected at most {LARGEST_YAML:,}")
    try:
        return yaml.load(text, Loader=_PlainLoader)  # type: ignore[arg-type]
    except (
        Exception
    ) as error:  # the parser raises exceptions of any kind on values that do not fit their tags (!!bool x)
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{source} is not valid YAML{where}: {_cut(str(what), 200)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file that holds one mapping, as a dict."""
    text = read_text(path)
    data = parse_yaml(text, source=str(path))
    if not isinstance(data, dict):
        kind = "nothing" if data is None else f"a {type(data).__name__}"
        raise InputError(f"{path} holds {kind}, expected a mapping of settings (key: value)")
    return data


def read_text(path: Path, *, largest: int = LARGEST_FILE) -> str:
    """Return a UTF-8 text file of at most ``largest`` bytes; ``InputError`` if there is none."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file")
    if not path.is_file():
        raise InputError(f"there is no file {path}; check the path")
    if (size := path.stat().st_size) > largest:
        raise InputError(f"{path} has {size:,} bytes, expected at most {largest:,}; is it the right file?")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def parse(kind: type[S], data: Mapping[str, Any], *, source: str, sources: Mapping[str, str] | None = None) -> S:
    """Return ``data`` as settings of one kind; raise an ``InputError`` of one line for the first fault.

    The line names ``source``, or the source of the key in ``sources``.
    """
    try:
        settings = kind.model_validate(dict(data))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        keys = [key for key in sources or {} if f"{place}.".startswith(f"{key}.")]
        named = (sources or {})[max(keys, key=len)] if keys else source
        raise InputError(f"{named}: {_first_error(kind, error)}") from None
    _require_plain(data, "", source)
    return settings


def _require_plain(value: Any, place: str, source: str) -> None:
    """Refuse values that YAML would not read back equal, where a field takes values of any type."""
    if isinstance(value, (bytes, date, set)) or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(
            f"{source}: {_cut(place)}: expected text, true, false or a finite number, found {_shorten(value)}"
        )
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InputError(
                    f"{source}: {_cut(place)}: expected keys that are text, found {_shorten(key)}: quote it"
                )
            _require_plain(inner, f"{place}.{key}" if place else key, source)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _require_plain(inner, f"{place}.{i}", source)


def to_yaml(settings: Settings) -> str:
    """Return the settings as YAML that reads back equal."""
    return dump_yaml(settings.model_dump(mode="json", by_alias=True))


def make_absolute(path: Path) -> Path:
    """Return the absolute path, ``~`` expanded; links are not resolved."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def make_paths_absolute(settings: S) -> S:
    """Return the settings with absolute paths, also of each ``FILE_OR_NAME`` that is a file."""
    changes = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if FILE_OR_NAME in field.metadata and make_absolute(Path(value)).is_file():
            value = str(make_absolute(Path(value)))
        changes[name] = _make_paths_absolute(value)
    return settings.model_copy(update=changes)


def _make_paths_absolute(value: Any) -> Any:
    if isinstance(value, Settings):
        return make_paths_absolute(value)
    if isinstance(value, tuple):
        return tuple(map(_make_paths_absolute, value))
    return make_absolute(value) if isinstance(value, Path) else value


def dump_yaml(data: Any) -> str:
    """Return plain data as YAML, keys in their order, short lists on one line."""
    return yaml.dump(data, Dumper=_PlainDumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def dump_flow_yaml(data: Any) -> str:
    """Return plain data as YAML on one line, to stand after a key."""
    text = yaml.dump(
        data, Dumper=_PlainDumper, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False
    )
    return text.removesuffix("...\n").rstrip()


def _first_error(kind: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    place = _cut(".".join(str(p) for p in first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'; {choices(_cut(str(first['loc'][-1])), _list_keys(kind, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"'{place}' is missing"
    whole = first["type"] == "value_error" and isinstance(first["input"], dict)  # it names the settings that disagree
    value = "" if whole else f", found {_shorten(first['input'])}"
    message = _cut(first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, "), 1000)
    return f"{place}: {message}{value}{_suggest(first)}" if place else message


def _suggest(error: Any) -> str:
    """Return the choice most like the value, if there is one."""
    listed = (
        re.findall(r"'([^']*)'", error.get("ctx", {}).get("expected", "")) if error["type"] == "literal_error" else []
    )
    if error["type"] == "string_type" and isinstance(error["input"], (int, float)):
        return f", a {'truth value' if isinstance(error['input'], bool) else 'number'}; quote it for text: \"'...'\""
    near = difflib.get_close_matches(str(error["input"]).lower(), listed, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _list_keys(kind: Any, place: tuple) -> list[str]:
    for part in place:
        if isinstance(part, int) or not isinstance(kind, type) or not issubclass(kind, BaseModel):
            continue
        field = next((f for n, f in kind.model_fields.items() if part in (n, f.alias)), None)
        kind = find_settings_class(field.annotation) if field else kind
    return [f.alias or n for n, f in kind.model_fields.items()] if hasattr(kind, "model_fields") else []


def find_settings_class(annotation: Any) -> type[BaseModel] | None:
    """Return the class of settings in an annotation such as ``SearchConfig | None`` or ``tuple[DataSource, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((kind for a in get_args(annotation) if (kind := find_settings_class(a)) is not None), None)


def _shorten(value: Any) -> str:
    try:
        return _cut(repr(value))
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__}"


def _cut(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
