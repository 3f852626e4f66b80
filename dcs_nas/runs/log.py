"""The log of a run: messages of dcs_nas are written to a file while a job runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from dcs_nas.processes import is_first

_PACKAGE = logging.getLogger("dcs_nas")
_MOST_RECORDS = 1_000_000
_early: list[MemoryHandler] = []


@contextmanager
def collect_early_log() -> Iterator[None]:
    """Collect log records until ``log_to`` opens the log of the run, which then begins with them."""
    handler = MemoryHandler(_MOST_RECORDS, flushLevel=logging.CRITICAL + 1)
    _PACKAGE.addHandler(handler)
    _PACKAGE.setLevel(logging.INFO)
    _early.append(handler)
    try:
        yield
    finally:
        _early.pop()
        _PACKAGE.removeHandler(handler)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append the log records of dcs_nas to a file, with times, in the first process only."""
    if not is_first():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    early = _early[-1] if _early else None
    if early is not None:
        _PACKAGE.removeHandler(early)
        early.setTarget(handler)
        early.flush()
        early.setTarget(None)
    _PACKAGE.addHandler(handler)
    _PACKAGE.setLevel(logging.INFO)
    try:
        yield
    finally:
        _PACKAGE.removeHandler(handler)
        handler.close()
        if early in _early:
            _PACKAGE.addHandler(early)


class _LogFile(logging.FileHandler):
    """A log that drops lines when the disk is full: the write of a checkpoint then reports the error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Do nothing: the line is lost."""

    def close(self) -> None:
        """Close the file, also on a full disk."""
        try:
            super().close()
        except OSError:
            self.stream = None
