"""Parts of a page that may not come about: what is damaged or missing is noted, and the page goes on without it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import TypeVar

from dcs_nas.errors import InputError

T = TypeVar("T")
_FAULTS = (
    InputError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError,
    csv.Error,
)  # fmt: skip


class Attempts:
    """Calls what may fail; a fault becomes one line of ``notes``, that of a call for ``what`` begins with it."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def __call__(self, what: str, make: Callable[[], T], otherwise: T) -> T:
        """What ``make`` gives, or ``otherwise`` and a note."""
        try:
            return make()
        except _FAULTS as error:
            self.notes.append(f"{what}: left out. {' '.join(str(error).split()) or type(error).__name__}")
            return otherwise
