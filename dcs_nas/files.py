"""Files that are whole or absent: write beside, sync, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LEFTOVER = ".writing-"
_DAY_SECONDS = 86400.0
_FULL_BYTES = 64 * 1024
_FOLDERS_ARE_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EPERM, errno.EACCES)
_cleaned: set[Path] = set()
_WORDS = {
    errno.ENOSPC: ("no space is left on the device", "make room there or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "make room or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder or have it made writable"),
    errno.EACCES: ("permission is denied", "allow it for this user or choose another place"),
    errno.EPERM: ("permission is denied", "allow it for this user or choose another place"),
    errno.EFBIG: ("the file is larger than allowed", "raise the limit (ulimit -f) or choose another file system"),
    errno.EIO: ("the device reports an input/output error", "check the disk or choose another folder"),
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within it, an error of writing that names no file, or a temporary one, names ``path``."""
    try:
        yield
    except OSError as error:
        number = error.errno
        if number is None and _is_full(path.parent):  # some writers of pictures keep the reason to themselves
            number = errno.ENOSPC
        named = error.filename is not None and not Path(os.fsdecode(error.filename)).name.startswith(LEFTOVER)
        if named:
            raise
        if number is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place once it is written and synced, or not at all.

    Missing folders are made. The temporary file keeps ``path``'s ending, which some writers go by. It is locked while
    it is written, so that what a killed process leaves is known, and removed by the next that writes there. Raises
    ``OSError`` with the name of ``path`` where it cannot be written; what it held before is then untouched. Who writes
    thousands of files may leave ``sync`` out and call ``sync_below`` before the file that tells that all are there.
    """
    with naming(path):
        _prepare(path.parent)
        handle, temporary = _make_file(path)
        try:
            yield temporary
            if sync:
                _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            if sync:
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, as ``atomic_path``: it appears when complete. ``path`` may exist if empty."""
    with naming(path):
        _prepare(path.parent)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=LEFTOVER))
        handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temporary
            sync_below(temporary)
            temporary.chmod(0o777 & ~_umask())
            if path.is_dir():
                path.rmdir()
            temporary.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, atomically; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path, *, below: bool = False) -> list[Path]:
    """Remove what killed processes were writing in ``folder``, or also ``below`` it, and name it.

    What a living process writes is locked and stays; where there are no locks, what is older than a day goes.
    """
    found = [p for p in (folder.rglob(f"{LEFTOVER}*") if below else folder.glob(f"{LEFTOVER}*")) if not p.is_symlink()]
    return [path for path in found if _remove_abandoned(path)]


def sync_below(folder: Path) -> None:
    """Have all files and folders in ``folder``, and itself, on the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place) / name)
        _sync(Path(place))


def in_words(error: OSError) -> str:
    """One line: the path, what was wrong, and how to mend it where that is known."""
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in _WORDS:
        found, mend = _WORDS[error.errno]
        kept = "; what was saved before is whole" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        return f"{place}{found}; {mend}{kept}"
    return f"{place}{error.strerror}" if place and error.strerror else str(error)


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False


def _prepare(folder: Path) -> None:
    """Make ``folder``; the first time that this process writes there, clear it of leftovers."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_leftovers(folder)


def _make_file(path: Path) -> tuple[int, Path]:
    """An open, locked temporary file; one that another process took for abandoned in between is given up."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=LEFTOVER, suffix=path.suffix)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        except OSError:  # a file system without locks
            return handle, Path(name)
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)


def _remove_abandoned(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:
        if time.time() - os.fstat(handle).st_mtime < _DAY_SECONDS:
            os.close(handle)
            return False
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _sync(path: Path) -> None:
    """fsync a file, or a folder where its file system knows that."""
    may_fail = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not may_fail or error.errno not in _FOLDERS_ARE_NOT_SYNCED:
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
