"""The start of a run or tuning in its folder: one process creates, resumes or empties it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcs_nas.config import Config
from dcs_nas.errors import InputError
from dcs_nas.files import LEFTOVER, remove, remove_leftovers
from dcs_nas.processes import is_requeued
from dcs_nas.runs.contents import flatten
from dcs_nas.runs.lock import LOCK, count_living, lock_folder, require_free, require_unused
from dcs_nas.runs.log import log_to
from dcs_nas.settings import make_paths_absolute

if TYPE_CHECKING:
    from dcs_nas.runs.folder import RunFolder

log = logging.getLogger(__name__)
CONFIG, ENVIRONMENT, LOG = "config.yaml", "environment.json", "log.txt"
_STARTING = ".starting"  # marks a folder whose run was removed and that holds no other yet: a start may be repeated


@contextmanager
def open_folder(run: RunFolder, *, what: str, resume: bool, overwrite: bool) -> Iterator[None]:
    """Create or resume a folder, or remove its run, and hold its lock within the context.

    ``what`` names its content, run or tuning; what else lies there stays. The caller writes ``config.yaml`` as the last
    of the initial files: a start that was killed before is repeated.

    Raises:
        InputError: before any change, for a folder in use, a folder with another run if neither ``resume`` nor
            ``overwrite`` is set, a folder of other content, and a folder with nothing to resume.
    """
    path = run.path
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, expected a run folder; choose another name")
    check_free = require_free if resume else require_unused
    check_free(path)
    _check_content(path, what, resume, overwrite)
    with lock_folder(path) as notes:
        _check_content(path, what, resume, overwrite)
        if resume:
            remove_leftovers(path, owned=not count_living(path))
        else:
            (path / _STARTING).touch()
            for part in run.parts():
                remove(part)
        if notes:
            with log_to(path / LOG):
                for note in notes:
                    log.warning("%s", note)
        try:
            yield
        finally:
            if (path / CONFIG).exists():
                (path / _STARTING).unlink(missing_ok=True)


def resume_if_requeued(path: Path, *, resume: bool, overwrite: bool) -> tuple[bool, bool]:
    """Return ``resume`` and ``overwrite``, or (True, False) if SLURM has restarted a job that began its run."""
    return (True, False) if is_requeued() and (path / CONFIG).is_file() else (resume, overwrite)


def require_same(path: Path, began: Config, now: Config, *, may_change: Any) -> None:
    """Raise ``InputError`` naming the first setting outside ``may_change`` that has changed since the start."""
    then, settings = (flatten(make_paths_absolute(c).model_dump(mode="json", exclude=may_change)) for c in (began, now))
    for key in dict.fromkeys([*then, *settings]):
        if then.get(key) != settings.get(key):
            raise InputError(
                f"{path} began with {key}={then.get(key)}, not {settings.get(key)}; "
                "resume with the same settings, or use --overwrite"
            )


def _check_content(path: Path, what: str, resume: bool, overwrite: bool) -> None:
    began = (path / CONFIG).exists()
    if resume and not began:
        raise InputError(f"there is no {what} to resume in {path}; start it without --resume")
    if began and overwrite and not (path / ENVIRONMENT).exists():
        raise InputError(f"{path} holds a config.yaml that is of no {what}, so it is not replaced; choose another")
    if began and not (resume or overwrite):
        raise InputError(f"{path} holds a {what} already; continue it with --resume or replace it with --overwrite")
    if not began and path.is_dir() and not (path / _STARTING).exists() and any(map(_is_foreign, path.iterdir())):
        raise InputError(f"{path} is not empty and holds no {what}; choose another name or folder")


def _is_foreign(path: Path) -> bool:
    return path.name not in (LOCK, LOG) and not path.name.startswith(LEFTOVER)
