"""Atomic writes (a temporary file, synced and renamed) and checks before reading."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcs_nas.errors import InputError

LEFTOVER = ".writing-"
_DAY_SECONDS = 86400.0
_FULL_BYTES = 64 * 1024
_FOLDERS_ARE_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EPERM, errno.EACCES)
_cleaned: set[Path] = set()
_WORDS = {
    errno.ENOSPC: ("no space is left on the device", "make room there or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "make room or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder or make it writable"),
    errno.EACCES: ("permission is denied", "allow it for this user or choose another place"),
    errno.EPERM: ("permission is denied", "allow it for this user or choose another place"),
    errno.EFBIG: ("the file is larger than allowed", "raise the limit (ulimit -f) or choose another file system"),
    errno.EIO: ("the device reports an input/output error", "check the disk or choose another folder"),
}
ALWAYS_FINE = 2**28
"""Bytes that any archive may unpack to."""
LARGEST_GROWTH = 50
"""How many times its own size an archive may unpack to beyond that."""


@contextmanager
def name_path_in_errors(path: Path) -> Iterator[None]:
    """Name ``path`` in errors of writing that name no file or a temporary one."""
    try:
        yield
    except OSError as error:
        number = error.errno
        if number is None and _is_full(path.parent):  # some image writers leave the reason out
            number = errno.ENOSPC
        if error.filename is not None and not Path(os.fsdecode(error.filename)).name.startswith(LEFTOVER):
            raise
        if number is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it after it was written and synced.

    Missing folders are created. The temporary file has ``path``'s suffix, which some writers need. Raises ``OSError``
    with the name of ``path`` where it cannot be written; its old content then stays. To write thousands of files, pass
    ``sync=False`` and call ``sync_below`` before the file that marks the set as complete.
    """
    with name_path_in_errors(path), _temporary(path, folder=False) as temporary:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        if sync:
            _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, as ``atomic_path`` does; it may replace an empty folder."""
    with name_path_in_errors(path), _temporary(path, folder=True) as temporary:
        yield temporary
        sync_below(temporary)
        temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, atomically; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path, *, owned: bool = False) -> None:
    """Remove temporary files of killed processes from ``folder``; if ``owned``, all of them, also in subfolders.

    Files of living processes are locked and stay. On file systems without locks, files older than a day are removed.
    """
    for path in list(folder.rglob(f"{LEFTOVER}*") if owned else folder.glob(f"{LEFTOVER}*")):
        with contextlib.suppress(OSError):
            if not path.is_symlink() and (owned or _is_abandoned(path)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync_below(folder: Path) -> None:
    """Sync ``folder`` and everything in it to the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place) / name)
        _sync(Path(place))


def require_file(path: Path, *, what: str) -> None:
    """Raise ``InputError`` unless ``path`` is a plain file, without waiting for a pipe."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist; expected a file: check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{what} {path} cannot be read: {reason}; check the path") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "is a folder" if stat.S_ISDIR(status.st_mode) else "is a pipe, socket or device"
        raise InputError(f"{what} {path} {kind}, so it cannot be read; expected a file: check the path")


def require_moderate_growth(path: Path, *, what: str) -> None:
    """Raise ``InputError`` if a zip archive (.npz, .pth) states that it unpacks to far more than its own size.

    Readers of archives never exceed the stated sizes. Other files pass.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # the parser raises exceptions of any kind on a damaged table of contents
        raise InputError(f"{what} {path} cannot be read: {error}; fetch it again") from None
    packed = path.stat().st_size
    if total > max(ALWAYS_FINE, LARGEST_GROWTH * packed):
        raise InputError(
            f"{what} {path} has {packed:,} bytes and unpacks to {total:,}, expected at most {LARGEST_GROWTH} times as "
            "many; no real arrays compress so well: get the file from a source you trust"
        )


def describe_os_error(error: OSError) -> str:
    """Return one line: the path, the fault, and how to fix it where that is known."""
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in _WORDS:
        problem, fix = _WORDS[error.errno]
        kept = "; files saved before are complete" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        return f"{place}{problem}; {fix}{kept}"
    return f"{place}{error.strerror}" if place and error.strerror else str(error)


@contextmanager
def _temporary(path: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a locked file or folder beside ``path``, removed at the end; leftovers in its folder are removed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _cleaned:
        _cleaned.add(path.parent)
        remove_leftovers(path.parent)
    handle, name = _make_locked(path, folder)
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name, ignore_errors=True) if folder else Path(name).unlink(missing_ok=True)
        os.close(handle)


def _make_locked(path: Path, folder: bool) -> tuple[int, str]:
    while True:
        if folder:
            name = tempfile.mkdtemp(dir=path.parent, prefix=LEFTOVER)
            handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        else:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=LEFTOVER, suffix=path.suffix)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process takes it for a leftover
            pass
        except OSError:  # a file system without locks
            return handle, name
        else:
            if os.path.exists(name):
                return handle, name
        os.close(handle)


def _is_abandoned(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - path.stat().st_mtime > _DAY_SECONDS
    finally:
        os.close(handle)
    return True


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False


def _sync(path: Path) -> None:
    """Sync a file, or a folder where its file system supports it."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in _FOLDERS_ARE_NOT_SYNCED:
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
