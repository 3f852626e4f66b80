"""One process at a time on a folder: a lock that names its owner and that the system frees however the owner ends."""

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
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from dcs_nas.errors import InputError

LOCK = ".lock"
BEGAN = "config.yaml"
_ATTEMPTS, _PAUSE_SECONDS = 8, 0.05  # others hold the lock for an instant when they ask whether it is free
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Owner:
    """Who works on a folder. ``emptying``: they began anew, and without a config.yaml what is left there is theirs."""

    pid: int
    host: str
    command: str
    since: str
    emptying: bool = False

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the process runs; False for one of another machine."""
        if not self.here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid} on {self.host}, since {self.since})"


class FolderLock:
    """The right to work on a folder, until ``release`` or the end of the process and of those that inherit it.

    ``left`` is the owner before, where it ended without letting go; ``notes`` are words for the log.
    """

    def __init__(self, descriptor: int, folder: Path, left: Owner | None, notes: list[str]) -> None:
        self._descriptor, self._file, self.left, self.notes = descriptor, folder / LOCK, left, notes
        self._emptying = False

    def fileno(self) -> int:
        return self._descriptor

    def sign(self, *, emptying: bool = False) -> None:
        """Write down who holds the lock."""
        self._emptying = emptying
        record = Owner(os.getpid(), socket.gethostname(), _command(), f"{datetime.now():%Y-%m-%d %H:%M:%S}", emptying)
        content = json.dumps(asdict(record)).encode() + b"\n"
        try:
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._file)) from error

    def release(self) -> None:
        """Let go; a folder that was emptied and begun no more keeps the record, by which it may be emptied again."""
        with contextlib.suppress(OSError):  # a lock that is no longer on a disk that works is released all the same
            if not self._emptying or (self._file.parent / BEGAN).exists():
                os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_folder(folder: Path, *, otherwise: str = "another process") -> FolderLock:
    """Lock ``folder``, which is made where it is missing.

    A lock whose owner died is taken over, with a note. Where the file system has no locks, a note says so; an owner
    that is seen to run on this machine is heeded all the same.

    Raises:
        InputError: another process holds it; ``otherwise`` is what it is called where it has not signed.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            notes = _locked(descriptor, folder, fcntl.LOCK_EX, otherwise)
            if notes is not None and _is_file(descriptor, folder / LOCK):
                left = _read(descriptor)
                lock = FolderLock(descriptor, folder, left, [*_taken_over(folder, left), *notes])
                lock.sign()
                return lock
        except BaseException:
            os.close(descriptor)
            raise
        owner = _read(descriptor)
        os.close(descriptor)
    raise InputError(_in_use(folder, owner, otherwise))


def require_free(folder: Path, *, otherwise: str = "another process") -> None:
    """Raise ``InputError`` where a process holds the lock of ``folder``; makes nothing and locks nothing."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if _locked(descriptor, folder, fcntl.LOCK_SH, otherwise) is None:
            raise InputError(_in_use(folder, _read(descriptor), otherwise))
    finally:
        os.close(descriptor)


def last_owner(folder: Path) -> Owner | None:
    """Who has signed for ``folder`` and not let go, running or not."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, folder: Path, kind: int, otherwise: str) -> list[str] | None:
    """Notes where the file is locked now or cannot be; None where another process holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        owner = _read(descriptor)
        if owner is not None and owner.alive and owner.pid != os.getpid():
            raise InputError(_in_use(folder, owner, otherwise)) from None
        return [f"the file system of {folder} has no locks ({error.strerror}): see that no other process works on it"]
    return []


def _taken_over(folder: Path, left: Owner | None) -> list[str]:
    if left is None:
        return []
    return [f"{folder} is taken over from {left}, which ended without letting go of it"]


def _in_use(folder: Path, owner: Owner | None, otherwise: str) -> str:
    if owner is None:
        return f"{folder} is in use by {otherwise}; wait for it or end it first"
    if owner.here and not owner.alive:
        return f"{folder} is in use by what {owner} has left running; end that first"
    return f"{folder} is in use by {owner}; wait for it or end it first"


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is still the open file: it may have been deleted since with its folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Owner | None:
    try:
        found: Any = json.loads(os.pread(descriptor, 65536, 0))
        return Owner(
            int(found["pid"]), str(found["host"]), str(found["command"]), str(found["since"]), bool(found["emptying"])
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _command() -> str:
    program, *arguments = sys.argv or [""]
    name = "dcs-nas" if Path(program).name == "__main__.py" else Path(program).name or "python"
    return shlex.join([name, *arguments])[:300]
