"""The space of a tuning: settings and their distributions, checked against a configuration, in NNI's format."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from dcs_nas.config import Config, TuneConfig
from dcs_nas.errors import InputError, choices
from dcs_nas.settings import parse

# NNI's distributions and what each takes; randint leaves ``high`` out, q rounds to its multiples.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "choice": (),
    "randint": ("low", "high"),
    "uniform": ("low", "high"),
    "quniform": ("low", "high", "q"),
    "loguniform": ("low", "high"),
    "qloguniform": ("low", "high", "q"),
    "normal": ("mu", "sigma"),
    "qnormal": ("mu", "sigma", "q"),
    "lognormal": ("mu", "sigma"),
    "qlognormal": ("mu", "sigma", "q"),
}
_NOT_TUNED = ("name", "results", "tune")
_COMBINATIONS = 64


def check_space(config: Config, tune: TuneConfig) -> None:
    """Raises ``InputError`` for a key, a distribution or a value that the configuration does not take."""
    examples = {}
    for key, given in tune.space.items():
        _check_key(key, tune.command)
        name, values = _distribution(key, given)
        examples[key] = _examples(name, values)
    for key, values in examples.items():
        others = {k: v for k, v in examples.items() if k != key}
        for value in values:
            refusal = _refusal(config, key, value, others)
            if refusal:
                raise InputError(f"tune.space.{key}: the configuration refuses {value!r}: {refusal}")


def nni_space(tune: TuneConfig) -> dict[str, dict[str, Any]]:
    """The space as NNI has it: ``{key: {"_type": distribution, "_value": [...]}}``.

    NNI's choices are numbers and strings; all others go as JSON text, which ``from_nni`` turns back.
    """
    space = {}
    for key, given in tune.space.items():
        name, values = _distribution(key, given)
        space[key] = {"_type": name, "_value": [_encode(v) for v in values] if name == "choice" else values}
    return space


def from_nni(tune: TuneConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A tuner's proposal as values of settings."""
    found = {}
    for key, given in tune.space.items():
        name, values = _distribution(key, given)
        value = parameters[key]
        found[key] = next(v for v in values if _encode(v) == value) if name == "choice" else value
    return found


def overrides(values: Mapping[str, Any]) -> list[str]:
    """The values as what follows ``-o`` on the command line; JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these values; ``InputError`` where it refuses one."""
    data = config.model_dump(mode="json", by_alias=True)
    for key, value in values.items():
        *path, last = key.split(".")
        place = data
        for part in path:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        place[last] = value
    return parse(Config, data, source=config.name)


def _check_key(key: str, command: str) -> None:
    parts = key.split(".")
    kind: Any = Config
    for depth, part in enumerate(parts):
        if kind is dict:
            return
        if kind is None:
            raise InputError(f"tune.space: unknown key '{key}'; {'.'.join(parts[:depth])} is a value, not a section")
        if part not in kind.model_fields:
            raise InputError(f"tune.space: unknown key '{key}'; {choices(part, kind.model_fields)}")
        kind = _inside(kind.model_fields[part].annotation)
    if parts[0] in _NOT_TUNED:
        raise InputError(f"tune.space: '{key}' is not for tuning; tune what a trial trains by, e.g. {command}.lr")
    if parts[0] in ("search", "retrain") and parts[0] != command:
        raise InputError(f"tune.space: '{key}' has no effect, since tune.command is '{command}'")
    if kind is not None and kind is not dict:
        raise InputError(f"tune.space: '{key}' is a section; name one of its settings: {', '.join(kind.model_fields)}")


def _inside(annotation: Any) -> Any:
    """The settings class that a field holds, ``dict`` for free options, None for a plain value."""
    kinds = [annotation, *get_args(annotation)] if getattr(annotation, "__origin__", None) is not tuple else []
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return dict if getattr(annotation, "__origin__", None) is dict else None


def _distribution(key: str, given: Mapping[str, list[Any]]) -> tuple[str, list[Any]]:
    place = f"tune.space.{key}"
    if len(given) != 1:
        found = ", ".join(given) or "nothing"
        raise InputError(f"{place}: found {found}, expected one distribution, e.g. {{loguniform: [1e-5, 1e-2]}}")
    name, values = next(iter(given.items()))
    if name not in DISTRIBUTIONS:
        raise InputError(f"{place}: unknown distribution '{name}'; {choices(name, DISTRIBUTIONS)}")
    if name == "choice":
        _check_choice(place, values)
    else:
        _check_numbers(place, name, values)
    return name, values


def _check_choice(place: str, values: Sequence[Any]) -> None:
    if not values:
        raise InputError(f"{place}: choice has no values; list at least one")
    try:
        encoded = [_encode(value) for value in values]
    except TypeError:
        raise InputError(f"{place}: choice takes numbers, strings, lists, true, false and null") from None
    twice = [value for i, value in enumerate(encoded) if value in encoded[:i]]
    if twice:
        raise InputError(f"{place}: choice lists {twice[0]!r} twice")


def _check_numbers(place: str, name: str, values: Sequence[Any]) -> None:
    takes = DISTRIBUTIONS[name]
    number = int if name == "randint" else (int, float)
    fits = len(values) == len(takes) and all(
        isinstance(v, number) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not fits:
        kind = "whole numbers" if name == "randint" else "numbers"
        raise InputError(f"{place}: {name} takes the {kind} [{', '.join(takes)}], found {list(values)}")
    arguments = dict(zip(takes, values))
    if "low" in arguments and arguments["low"] >= arguments["high"]:
        raise InputError(f"{place}: {name} needs low < high, found {list(values)}")
    if "low" in arguments and "log" in name and arguments["low"] <= 0:
        raise InputError(f"{place}: {name} needs low > 0, found {list(values)}")
    for positive in ("sigma", "q"):
        if positive in arguments and arguments[positive] <= 0:
            raise InputError(f"{place}: {name} needs {positive} > 0, found {list(values)}")


def _examples(name: str, values: Sequence[Any]) -> list[Any]:
    """All choices; of a range both ends and a value between them; of a normal distribution its middle."""
    if name == "choice":
        return list(values)
    arguments = dict(zip(DISTRIBUTIONS[name], values))
    if name == "randint":
        return sorted({arguments["low"], arguments["high"] - 1})
    if "mu" in arguments:
        found = [math.exp(arguments["mu"]) if "log" in name else arguments["mu"]]
    else:
        low, high = arguments["low"], arguments["high"]
        between = low * (high / low) ** 0.381966 if "log" in name else low + 0.381966 * (high - low)
        found = [low, between, high]
    if "q" in arguments:
        found = [round(value / arguments["q"]) * arguments["q"] for value in found]
        if "low" in arguments:
            found = [min(max(value, arguments["low"]), arguments["high"]) for value in found]
    return found


def _refusal(config: Config, key: str, value: Any, others: Mapping[str, Sequence[Any]]) -> str | None:
    """Why the configuration takes ``value`` with none of the values that other keys may have; None where it does."""
    generator = random.Random(0)
    first = None
    drawn = ({k: generator.choice(v) for k, v in others.items()} for _ in range(_COMBINATIONS if others else 0))
    for beside in itertools.chain([{}], drawn):
        try:
            with_values(config, {**beside, key: value})
        except InputError as error:
            first = first or str(error).removeprefix(f"{config.name}: ")
        else:
            return None
    return first


def _encode(value: Any) -> Any:
    return value if type(value) in (int, float, str) else json.dumps(value)
