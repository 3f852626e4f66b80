"""Faults of a data folder: the first one raises while loading, all are collected while checking.

Files that are passed over are no faults: they are counted, and the data set names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from dcs_nas.errors import InputError, printable

Kind = Literal["unusable folder", "missing part", "unparsable name", "missing image", "bad list entry", "no match"]


@dataclass(frozen=True)
class Problem:
    """One fault, in one line."""

    kind: Kind
    message: str


_collection: ContextVar[list[Problem] | None] = ContextVar("problems", default=None)


def report(kind: Kind, message: str) -> None:
    """Raise ``InputError(message)``; inside `collected` note it instead, and the loader goes on without the part."""
    message = printable(message)
    problems = _collection.get()
    if problems is None:
        raise InputError(message)
    problems.append(Problem(kind, message))


_passed_over: ContextVar[dict[str, list[str]] | None] = ContextVar("passed_over", default=None)
_NAMED = 3


def pass_over(what: str, names: Iterable[str]) -> None:
    """Count ``names`` as passed over, ``what`` saying what they are, for the data set that is being loaded."""
    counted = _passed_over.get()
    if counted is not None and (names := list(names)):
        counted.setdefault(what, []).extend(names)


@contextmanager
def passed_over() -> Iterator[list[str]]:
    """Collect what loaders pass over in this block; the list is filled at its end, a line for each kind."""
    lines: list[str] = []
    counted: dict[str, list[str]] = {}
    token = _passed_over.set(counted)
    try:
        yield lines
    finally:
        _passed_over.reset(token)
    for what, names in counted.items():
        more = ", ..." if len(names) > _NAMED else ""
        lines.append(printable(f"passed over {len(names):,} {what}: {', '.join(names[:_NAMED])}{more}"))


@contextmanager
def collected() -> Iterator[list[Problem]]:
    """Collect what loaders report in this block into the list it gives."""
    problems: list[Problem] = []
    token = _collection.set(problems)
    try:
        yield problems
    finally:
        _collection.reset(token)
