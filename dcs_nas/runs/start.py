"""How the folder of a run or of a tuning is opened: made, continued or emptied, by one process alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcs_nas.errors import InputError
from dcs_nas.files import LEFTOVER, remove_leftovers
from dcs_nas.processes import is_first
from dcs_nas.runs.lock import BEGAN, LOCK, FolderLock, Owner, last_owner, lock_folder, require_free

log = logging.getLogger(__name__)
LOG = "log.txt"
_early: list[_EarlyLog] = []


@contextmanager
def opened(
    path: Path, *, what: str, resume: bool, overwrite: bool, otherwise: str = "another process"
) -> Iterator[FolderLock]:
    """The lock of a folder that is made, continued or emptied; ``what`` it holds is a run or a tuning.

    The caller writes ``config.yaml`` last of what a new one begins with: a start that was killed before is repeated.

    Raises ``InputError``, before anything is made or locked, for a folder in use, one that holds another run where
    neither ``resume`` nor ``overwrite`` is given, one of other content, and one without anything to resume.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, expected a run folder; choose another name")
    require_free(path, otherwise=otherwise)
    _refuse_content(path, what, resume, overwrite, last_owner(path))
    with lock_folder(path, otherwise=otherwise) as lock:
        _refuse_content(path, what, resume, overwrite, lock.left)
        if resume:
            remove_leftovers(path, below=True)
        else:
            lock.sign(emptying=True)
            _empty(path)
        if lock.notes:
            with logging_to(path / LOG):
                for note in lock.notes:
                    log.warning("%s", note)
        yield lock


def require_same(path: Path, began: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ``InputError`` naming the first setting of the run in ``path`` that differs from what it began with."""
    for key in [*began, *(k for k in given if k not in began)]:
        if began.get(key) != given.get(key):
            raise InputError(
                f"{path} began with {key}={began.get(key)}, not {given.get(key)}; "
                "resume with the same settings, or use --overwrite"
            )


@contextmanager
def early_log() -> Iterator[None]:
    """Keep what dcs_nas logs before ``logging_to`` opens the log of the run, which then begins with it."""
    handler, logger = _EarlyLog(), logging.getLogger("dcs_nas")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    _early.append(handler)
    try:
        yield
    finally:
        _early.pop()
        logger.removeHandler(handler)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what dcs_nas logs to a file, with times; of several processes the first alone."""
    if not is_first():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("dcs_nas")
    early = _early[-1] if _early else _EarlyLog()
    early.move_to(handler)
    logger.removeHandler(early)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        if early in _early:
            logger.addHandler(early)


class _EarlyLog(logging.Handler):
    """The records of a log that has no file yet."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._records.append(record)

    def move_to(self, handler: logging.Handler) -> None:
        """Hand the records over."""
        while self._records:
            handler.handle(self._records.pop(0))


class _LogFile(logging.FileHandler):
    """A log that gives up its lines where the disk is full: what has to be saved is what fails then, with its name."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nothing: the line is lost."""

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            self.stream = None


def _refuse_content(path: Path, what: str, resume: bool, overwrite: bool, left: Owner | None) -> None:
    began = (path / BEGAN).exists()
    if resume and not began:
        raise InputError(f"there is no {what} to resume in {path}; start it without --resume")
    if began and overwrite and not (path / "environment.json").exists():
        raise InputError(f"{path} holds a config.yaml that is of no {what}, so it is not replaced; give another folder")
    if began and not (resume or overwrite):
        raise InputError(f"{path} holds a {what} already; continue it with --resume or replace it with --overwrite")
    if (
        not began
        and not (left is not None and left.emptying)
        and path.is_dir()
        and any(map(_is_foreign, path.iterdir()))
    ):
        raise InputError(f"{path} is not empty and holds no {what}; choose another name or folder")


def _is_foreign(path: Path) -> bool:
    return path.name not in (LOCK, LOG) and not path.name.startswith(LEFTOVER)


def _empty(path: Path) -> None:
    """Remove all but the lock, ``config.yaml`` first: without it nothing else counts as a run."""
    (path / BEGAN).unlink(missing_ok=True)
    for part in path.iterdir():
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        elif part.name != LOCK:
            part.unlink()
