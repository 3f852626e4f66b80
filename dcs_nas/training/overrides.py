"""Settings that may be replaced when a trained run is used: those that an evaluation or an extraction reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dcs_nas.config import Config, EvaluateConfig, make_config
from dcs_nas.errors import InputError, choices
from dcs_nas.settings import parse_yaml

_IMAGES = ("data.height", "data.width", "data.mean", "data.std", "data.test_batch")
_MACHINE = ("trainer.accelerator", "trainer.threads")
EXTRACTION = (*_IMAGES, *_MACHINE, "evaluate.flip", "evaluate.metric", "evaluate.neck")
"""Settings that the extraction of features reads."""
EVALUATION = (
    *("data.name", "data.root", "data.options", "data.test", "data.cache", *_IMAGES),
    *(*_MACHINE, "trainer.timeout_minutes"),
    *(f"evaluate.{name}" for name in EvaluateConfig.model_fields),
)
"""Settings that an evaluation reads."""


def with_overrides(config: Config, overrides: Sequence[str], allowed: Sequence[str]) -> Config:
    """Return a run's settings with ``overrides`` such as ``data.test_batch=64``, all of them among ``allowed``.

    Raises:
        InputError: a setting that is not read here, or a wrong value.
    """
    for item in overrides:
        key = item.partition("=")[0].strip()
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise InputError(
                f"-o {item} has no effect on a trained run, which keeps the settings it began with; "
                f"{choices(key, allowed)}"
            )
    if not overrides:
        return config
    values = config.model_dump(mode="json", by_alias=True)
    return make_config(values, overrides, source="settings of the run with -o")


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the overrides that are not of the section ``evaluate``, and the values of those that are, by name.

    >>> split_overrides(["data.test_batch=64", "evaluate.flip=true"])
    (['data.test_batch=64'], {'flip': True})
    """
    remaining, own = [], {}
    for item in overrides:
        key, equals, value = item.partition("=")
        section, _, name = key.strip().partition(".")
        if equals and section == "evaluate" and name in EvaluateConfig.model_fields:
            own[name] = parse_yaml(value, source=f"the value of override '{item}'")
        else:
            remaining.append(item)
    return remaining, own
