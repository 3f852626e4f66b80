"""Errors that a user can fix: bad settings, bad files, bad folders."""

from __future__ import annotations

import csv
import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
T = TypeVar("T")
_FAULTS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError, csv.Error,
)  # fmt: skip
_LONGEST = 3000  # characters of a message


class InputError(ValueError):
    """A fault of the input, in one line: what was found, what was expected, and how to fix it.

    The command line prints it and exits with 1; every other exception is a defect of this package. Control characters,
    which may come from untrusted files and control a terminal, are shown as ``?``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(to_one_line(message))


def to_one_line(text: str) -> str:
    """Return the text as one line, cut to 3000 characters, ``?`` for control characters and what is not UTF-8."""
    line = " ".join(part.strip() for part in _CONTROL.sub("?", text).splitlines())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 500]} ... {line[-400:]}"


def choices(name: str, known: Iterable[str]) -> str:
    """Return the end of an error line: the known name most like ``name``, if any, and all known names.

    >>> choices("dsc", ["dcs", "rga"])
    'did you mean dcs? known: dcs, rga'
    """
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    listing = f"known: {', '.join(names)}"
    return f"did you mean {near[0]}? {listing}" if near else listing


def command(*words: object) -> str:
    """Return a ``dcs-nas`` command as it can be pasted into a shell.

    >>> command("evaluate", "my runs/one")
    "dcs-nas evaluate 'my runs/one'"
    """
    return shlex.join(["dcs-nas", *map(str, words)])


class Attempts:
    """Calls that may fail on damaged or missing files; a fault becomes one line of ``notes``."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def __call__(self, what: str, make: Callable[[], T], otherwise: T) -> T:
        """Return the result of ``make``, or ``otherwise`` after a note that begins with ``what``."""
        try:
            return make()
        except _FAULTS as error:
            self.notes.append(f"{what}: left out. {' '.join(str(error).split()) or type(error).__name__}")
            return otherwise


class TrainingError(RuntimeError):
    """Training cannot continue, in one line: the step, the term, the files. Printed like an ``InputError``."""


def require_one_each(weights: Sequence[float] | None, vectors: int, *, setting: str) -> None:
    """Raise ``InputError`` unless ``weights`` are None or one for each of a network's vectors."""
    if weights is not None and len(weights) != vectors:
        number = f"{len(weights)} weight{'s' * (len(weights) != 1)}"
        outputs = "one vector" if vectors == 1 else f"{vectors} vectors"
        raise InputError(
            f"{setting} has {number}, but the network returns {outputs}; give one weight for each, or leave it out"
        )
