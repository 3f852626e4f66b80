"""Former names of settings, which this version still reads, with a remark."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from dcs_nas.errors import InputError

log = logging.getLogger(__name__)
FORMER_KEYS = {
    "data.people_per_batch": "data.identities_per_batch",
    "data.images_per_person": "data.images_per_identity",
    "columns.person": "columns.identity",
    "synth.train_people": "synth.train_identities",
    "synth.test_people": "synth.test_identities",
    "synth.distractor_people": "synth.distractor_identities",
    "--train-people": "--train-identities",
    "--test-people": "--test-identities",
    "--distractor-people": "--distractor-identities",
}
"""Each former key, with its section, and the present one."""
T = TypeVar("T", bound=type)


def current_key(key: str, source: str | None = None) -> str:
    """Return the present name of a setting; log a remark where ``source`` names the place of a former one."""
    current = FORMER_KEYS.get(key, key)
    if current != key and source is not None:
        log.warning("%s: %s is now called %s; the former name is read in this version only", source, key, current)
    return current


def rename_former_keys(section: str, values: Mapping[str, Any], source: str | None = None) -> dict[str, Any]:
    """Return the settings of a section under their present names; log remarks as ``current_key``.

    Raises:
        InputError: a setting under both names.
    """
    renamed = {}
    for key, value in values.items():
        full = f"{section}.{key}"
        name = current_key(full, source).removeprefix(f"{section}.")
        if name != key and name in values:
            raise InputError(
                f"{source or section}: {full} is the former name of {section}.{name}, and both are set; "
                f"set {section}.{name} alone"
            )
        renamed[name] = value
    return renamed


def read_former_keys(section: str, kind: T) -> T:
    """Let a class of keyword arguments take their former names too; return the class."""
    initialize = kind.__init__  # type: ignore[misc]

    @functools.wraps(initialize)
    def renaming(self: Any, **values: Any) -> None:
        initialize(self, **rename_former_keys(section, values, kind.__name__))

    kind.__init__ = renaming  # type: ignore[misc]
    return kind
