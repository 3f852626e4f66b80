"""Errors that a user can fix, each in one line that names options, or arguments for callers from Python."""

from __future__ import annotations

import csv
import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
T = TypeVar("T")
_FAULTS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError, csv.Error,
)  # fmt: skip
_LONGEST = 3000  # characters of a message
_FLAGS = ("resume", "overwrite", "rerank", "flip", "approximate")
_ARGUMENTS = {"data": "data_name", "data-option": "data_options", "extension": "load_extensions"}
_OPTION = re.compile(
    r"(?P<command>dcs-nas [^;]*)|(?<![\w-])--(?P<name>[a-z][a-z0-9-]*)(?P<value>[ =](?:[A-Z]{1,9}|\d+|last)\b)?"
)
_SETTING = re.compile(r"(?<![\w-])-o (?P<item>[a-z_.]+=\S*[^\s;,.)])")


class InputError(ValueError):
    """An error in the input, in one line: what was found, what was expected, how to fix it.

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


class ApiError(InputError):
    """An error line that names arguments; ``shell`` is the line that names the command's options."""

    def __init__(self, message: str, *, shell: str) -> None:
        super().__init__(message)
        self.shell = shell


@contextmanager
def translate_errors() -> Iterator[None]:
    """Name Python arguments instead of options in errors of the context or the decorated function."""
    try:
        yield
    except ApiError:
        raise
    except InputError as error:
        raise ApiError(name_arguments(str(error)), shell=str(error)) from error


def name_arguments(line: str) -> str:
    """Return an error line with ``--option VALUE`` as ``option=VALUE``; whole ``dcs-nas`` commands stay.

    >>> name_arguments("it holds a run already; continue it with --resume or replace it with --overwrite")
    'it holds a run already; continue it with resume=True or replace it with overwrite=True'
    >>> name_arguments("--data duke needs --root, its folder; -o data.root=/d")
    "data_name duke needs root, its folder; overrides=['data.root=/d']"
    """

    def argument(match: re.Match[str]) -> str:
        if match["command"]:
            return f"{match['command']} (in a shell)"
        name = _ARGUMENTS.get(match["name"], match["name"].replace("-", "_"))
        if match["name"] in _FLAGS:
            return f"{name}=True{match['value'] or ''}"
        value = (match["value"] or "")[1:]
        return name if not value else f'{name}="{value}"' if value == "last" else f"{name}={value}"

    return _SETTING.sub(r"overrides=['\g<item>']", _OPTION.sub(argument, line))
