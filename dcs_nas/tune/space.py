"""The space of a tuning: settings, their distributions in NNI's search space format, and their values from Optuna."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from dcs_nas.config import Config, TuneConfig, set_value
from dcs_nas.errors import InputError, choices
from dcs_nas.former_keys import current_key
from dcs_nas.settings import parse

if TYPE_CHECKING:
    from optuna.trial import Trial

DISTRIBUTIONS: dict[str, tuple[str, ...]] = {  # and the numbers that each of them takes
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
_TAIL = 1e-6  # of a normal distribution, left out on either side


@dataclass(frozen=True)
class Parameter:
    """A setting to try: one of ``DISTRIBUTIONS`` and its numbers, or its choices.

    Optuna draws on its own scale: choices as numbers and text, normal distributions by their quantile, quantized ones
    unrounded. ``value`` converts such a draw to the setting's value.
    """

    key: str
    kind: str
    values: Sequence[Any]

    @property
    def _bounds(self) -> tuple[float, float]:
        """The bounds of a draw."""
        return (_TAIL, 1 - _TAIL) if "normal" in self.kind else (self.values[0], self.values[1])

    @property
    def _log(self) -> bool:
        return self.kind.endswith("loguniform")

    def draw(self, trial: Trial) -> Any:
        """Draw the setting's value for a trial, or return the value drawn before."""
        if self.kind == "choice":
            return self.value(trial.suggest_categorical(self.key, [_encode(value) for value in self.values]))
        if self.kind == "randint":
            return trial.suggest_int(self.key, self.values[0], self.values[1] - 1)
        return self.value(trial.suggest_float(self.key, *self._bounds, log=self._log))

    def value(self, drawn: Any) -> Any:
        """Return the setting's value for a draw of Optuna."""
        if self.kind == "choice":
            return next(value for value in self.values if _encode(value) == drawn)
        if "normal" in self.kind:
            drawn = NormalDist(*self.values[:2]).inv_cdf(drawn)
            drawn = math.exp(drawn) if "log" in self.kind else drawn
        if self.kind.startswith("q"):
            drawn = round(drawn / self.values[2]) * self.values[2]
            drawn = drawn if "normal" in self.kind else min(max(drawn, self.values[0]), self.values[1])
        return drawn

    def grid(self, points: int) -> list[Any]:
        """Return draws that cover the setting: all of a finite set, else ``points`` evenly spaced on their scale."""
        if self.kind == "choice":
            return [_encode(value) for value in self.values]
        if self.kind == "randint":
            return list(range(*self.values))
        low, high = self._bounds
        if self.kind in ("quniform", "qloguniform"):
            q = self.values[2]
            return [min(max(i * q, low), high) for i in range(round(low / q), round(high / q) + 1)]
        if "normal" in self.kind:
            return [(i + 0.5) / points for i in range(points)]
        return [self._interpolate(i / max(points - 1, 1)) for i in range(points)]

    def examples(self) -> list[Any]:
        """Return all choices; both ends of a range and a value between; the middle of a normal distribution."""
        if self.kind == "choice":
            return list(self.values)
        if self.kind == "randint":
            return sorted({self.values[0], self.values[1] - 1})
        shares = (0.5,) if "normal" in self.kind else (0, 0.381966, 1)
        return [self.value(self._interpolate(share)) for share in shares]

    def _interpolate(self, share: float) -> float:
        low, high = self._bounds
        return min(low * (high / low) ** share if self._log else low + share * (high - low), high)


def read_space(config: Config) -> list[Parameter]:
    """Return the settings to try.

    Raises:
        InputError: a key, a distribution or a value that the configuration does not accept.
    """
    tune: TuneConfig = config.section("tune")
    parameters = [_parse_parameter(key, distribution, tune.command) for key, distribution in tune.space.items()]
    examples = {parameter.key: parameter.examples() for parameter in parameters}
    for key, values in examples.items():
        beside = {k: v for k, v in examples.items() if k != key}
        for value in values:
            refusal = _find_refusal(config, key, value, beside)
            if refusal:
                raise InputError(f"tune.space.{key}: the configuration refuses {value!r}: {refusal}")
    return parameters


def format_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return the values as arguments of ``-o``; JSON is YAML."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def apply_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the configuration with these values; raise ``InputError`` if it refuses one."""
    data = config.model_dump(mode="json", by_alias=True)
    for key, value in values.items():
        set_value(data, key, value)
    return parse(Config, data, source=config.name)


def _parse_parameter(key: str, distribution: Mapping[str, list[Any]], command: str) -> Parameter:
    section, place = current_key(key, source="tune.space").split(".")[0], f"tune.space.{key}"
    if section in _NOT_TUNED:
        raise InputError(f"tune.space: '{key}' is not for tuning; tune what a trial trains by, e.g. {command}.lr")
    if section in ("search", "pretrain", "retrain") and section != command:
        raise InputError(f"tune.space: '{key}' has no effect, since tune.command is '{command}'")
    if len(distribution) != 1:
        names = ", ".join(distribution) or "nothing"
        raise InputError(f"{place}: found {names}, expected one distribution, e.g. {{loguniform: [1e-5, 1e-2]}}")
    kind, values = next(iter(distribution.items()))
    if kind not in DISTRIBUTIONS:
        raise InputError(f"{place}: unknown distribution '{kind}'; {choices(kind, DISTRIBUTIONS)}")
    if kind == "choice":
        _check_choice(place, values)
    else:
        _check_numbers(place, kind, values)
    return Parameter(key, kind, values)


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


def _check_numbers(place: str, kind: str, values: Sequence[Any]) -> None:
    takes = DISTRIBUTIONS[kind]
    number = int if kind == "randint" else (int, float)
    if len(values) != len(takes) or not all(
        isinstance(v, number) and not isinstance(v, bool) and math.isfinite(v) for v in values
    ):
        what = "whole numbers" if kind == "randint" else "numbers"
        raise InputError(f"{place}: {kind} takes the {what} [{', '.join(takes)}], found {list(values)}")
    arguments = dict(zip(takes, values))
    if "low" in arguments and arguments["low"] >= arguments["high"]:
        raise InputError(f"{place}: {kind} needs low < high, found {list(values)}")
    positive = ("low", "sigma", "q") if kind.endswith("loguniform") else ("sigma", "q")
    for name in positive:
        if arguments.get(name, 1) <= 0:
            raise InputError(f"{place}: {kind} needs {name} > 0, found {list(values)}")


def _find_refusal(config: Config, key: str, value: Any, beside: Mapping[str, Sequence[Any]]) -> str | None:
    """Return why the configuration refuses ``value`` with all draws of the other settings; None if it accepts one."""
    generator = random.Random(0)
    first = None
    drawn = ({k: generator.choice(v) for k, v in beside.items()} for _ in range(_COMBINATIONS if beside else 0))
    for settings in itertools.chain([{}], drawn):
        try:
            apply_values(config, {**settings, key: value})
        except InputError as error:
            first = first or str(error).removeprefix(f"{config.name}: ")
        else:
            return None
    return first


def _encode(value: Any) -> Any:
    """Encode a choice for Optuna: numbers and text unchanged, other values as JSON."""
    return value if type(value) in (int, float, str) else json.dumps(value)
