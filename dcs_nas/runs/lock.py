"""A lock for one process per folder: it names its owner, and the system frees it however the owner ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from dcs_nas.environment import read_arguments
from dcs_nas.errors import InputError

LOCK = ".lock"
_ATTEMPTS, _PAUSE_SECONDS = 8, 0.05  # another process holds the lock for an instant when it checks whether it is free
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Owner:
    """A process that works on a folder, as the lock file records it."""

    pid: int
    host: str
    command: str
    since: str

    @classmethod
    def of_this_process(cls) -> Owner:
        """Return the record of this process."""
        program = Path(sys.argv[0] if sys.argv else "").name
        name = "dcs-nas" if program == "__main__.py" else program or "python"
        command = shlex.join([name, *read_arguments()])[:300]
        return cls(os.getpid(), socket.gethostname(), command, f"{datetime.now():%Y-%m-%d %H:%M:%S}")

    @property
    def is_here(self) -> bool:
        """True for a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """True if the process runs on this machine."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except OSError as error:
            return error.errno == errno.EPERM
        return True

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid} on {self.host}, since {self.since})"


@contextmanager
def lock_folder(folder: Path) -> Iterator[list[str]]:
    """Lock ``folder`` within the context, create it if it is missing, and yield notes for the log.

    The lock of a dead process is taken over, with a note. A file system without locks leads to a note; an owner that
    runs on this machine is still respected.

    Raises:
        InputError: another process holds the lock.
    """
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_SECONDS * bool(attempt))
        folder.mkdir(parents=True, exist_ok=True)
        with _open_lock(folder, os.O_RDWR | os.O_CREAT) as descriptor:
            notes, owner = _try_lock(descriptor, folder, fcntl.LOCK_EX), _read(descriptor)
            if notes is None or not _is_file(descriptor, folder / LOCK):
                continue
            if owner is not None:
                notes.insert(0, f"{folder} is taken over from {owner}, which ended without releasing it")
            _write_owner(descriptor, folder)
            try:
                yield notes
            finally:
                with contextlib.suppress(OSError):  # the lock of a disk that failed is released all the same
                    os.ftruncate(descriptor, 0)
            return
    raise _make_error(folder, owner)


def require_free(folder: Path) -> None:
    """Raise ``InputError`` if a process holds the lock of ``folder``; write and lock nothing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), _open_lock(folder, os.O_RDONLY) as descriptor:
        if _try_lock(descriptor, folder, fcntl.LOCK_SH) is None:
            raise _make_error(folder, _read(descriptor))


def require_unused(folder: Path) -> None:
    """Raise ``InputError`` if a process works on a folder: it holds its lock, or is a worker of its trials."""
    for place in (folder, *_list_workers(folder)):
        require_free(place)


def count_living(folder: Path) -> int:
    """Return the number of workers of a folder's trials that are alive."""
    return sum(not is_free(place) for place in _list_workers(folder))


def is_free(folder: Path) -> bool:
    """Return whether no process holds the lock of ``folder``."""
    try:
        require_free(folder)
    except InputError:
        return False
    return True


def _list_workers(folder: Path) -> Iterator[Path]:
    return folder.glob("workers/*/")


@contextmanager
def _open_lock(folder: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(folder / LOCK, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, folder: Path, kind: int) -> list[str] | None:
    """Lock without waiting; return notes, or None if another process holds the lock."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        owner = _read(descriptor)
        if owner is not None and owner.is_alive and owner.pid != os.getpid():
            return None
        return [
            f"the file system of {folder} has no locks ({error.strerror}): make sure that no other process works on it"
        ]
    return []


def _write_owner(descriptor: int, folder: Path) -> None:
    content = json.dumps(asdict(Owner.of_this_process())).encode() + b"\n"
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder / LOCK)) from error


def _read(descriptor: int) -> Owner | None:
    try:
        record = json.loads(os.pread(descriptor, 65536, 0))
        return Owner(int(record["pid"]), str(record["host"]), str(record["command"]), str(record["since"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_file(descriptor: int, path: Path) -> bool:
    """Return whether ``path`` is still the open file, which may have been deleted with its folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _make_error(folder: Path, owner: Owner | None) -> InputError:
    if owner is not None and owner.is_here and not owner.is_alive:
        return InputError(f"{folder} is in use by child processes of {owner}, which has ended; end them first")
    return InputError(f"{folder} is in use by {owner or 'another process'}; wait for it or end it first")
