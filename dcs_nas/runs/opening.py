"""Opening of the folder of a run or of a tuning: it is made, resumed or emptied, by one process alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcs_nas.errors import InputError
from dcs_nas.files import LEFTOVER, remove_leftovers
from dcs_nas.processes import is_requeued
from dcs_nas.runs.lock import LOCK, lock_folder, require_free
from dcs_nas.runs.log import logging_to

log = logging.getLogger(__name__)
CONFIG, ENVIRONMENT, LOG = "config.yaml", "environment.json", "log.txt"
_STARTING = ".starting"  # from the emptying of a folder until a run has begun in it: it may be emptied again


@contextmanager
def open_folder(path: Path, *, what: str, resume: bool, overwrite: bool) -> Iterator[None]:
    """Within it, hold the lock of a folder that is made, resumed or emptied; ``what`` it holds is a run or a tuning.

    The caller writes ``config.yaml`` last of what a new one begins with: a start that was killed before is
    repeated.

    Raises:
        InputError: before anything is made or locked, for a folder in use, one that holds another run where neither
            ``resume`` nor ``overwrite`` is given, one of other content, and one without anything to resume.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, expected a run folder; choose another name")
    require_free(path)
    _check_content(path, what, resume, overwrite)
    with lock_folder(path) as notes:
        _check_content(path, what, resume, overwrite)
        if resume:
            remove_leftovers(path, owned=True)
        else:
            (path / _STARTING).touch()
            _empty(path)
        if notes:
            with logging_to(path / LOG):
                for note in notes:
                    log.warning("%s", note)
        try:
            yield
        finally:
            if (path / CONFIG).exists():
                (path / _STARTING).unlink(missing_ok=True)


def resume_if_requeued(path: Path, *, resume: bool, overwrite: bool) -> tuple[bool, bool]:
    """Return ``resume`` and ``overwrite`` as the user gave them, unless SLURM has started the job again.

    Then the run that the folder holds is resumed, whatever was asked for the first time.
    """
    return (True, False) if is_requeued() and (path / CONFIG).is_file() else (resume, overwrite)


def require_same(path: Path, began: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ``InputError`` naming the first setting that differs from what the run in ``path`` began with."""
    for key in [*began, *(k for k in given if k not in began)]:
        if began.get(key) != given.get(key):
            raise InputError(
                f"{path} began with {key}={began.get(key)}, not {given.get(key)}; "
                "resume with the same settings, or use --overwrite"
            )


def _check_content(path: Path, what: str, resume: bool, overwrite: bool) -> None:
    began = (path / CONFIG).exists()
    if resume and not began:
        raise InputError(f"there is no {what} to resume in {path}; start it without --resume")
    if began and overwrite and not (path / ENVIRONMENT).exists():
        raise InputError(f"{path} holds a config.yaml that is of no {what}, so it is not replaced; give another folder")
    if began and not (resume or overwrite):
        raise InputError(f"{path} holds a {what} already; continue it with --resume or replace it with --overwrite")
    if not began and path.is_dir() and not (path / _STARTING).exists() and any(map(_is_foreign, path.iterdir())):
        raise InputError(f"{path} is not empty and holds no {what}; choose another name or folder")


def _is_foreign(path: Path) -> bool:
    return path.name not in (LOCK, LOG) and not path.name.startswith(LEFTOVER)


def _empty(path: Path) -> None:
    """Remove all but the lock and the mark of a start, ``config.yaml`` first: without it nothing else is a run."""
    (path / CONFIG).unlink(missing_ok=True)
    for part in path.iterdir():
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        elif part.name not in (LOCK, _STARTING):
            part.unlink()
