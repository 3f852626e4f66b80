"""Faults of a data folder: the first one raises while loading, all are collected while checking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from dcs_nas.errors import InputError, printable

Kind = Literal["unusable folder", "missing part", "unparsable name", "missing image", "bad list entry"]


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


@contextmanager
def collected() -> Iterator[list[Problem]]:
    """Collect what loaders report in this block into the list it gives."""
    problems: list[Problem] = []
    token = _collection.set(problems)
    try:
        yield problems
    finally:
        _collection.reset(token)
