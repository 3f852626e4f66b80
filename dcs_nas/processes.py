"""The processes that train together, W of them: who started them, which is the first, and which of them failed first.

Those that torchrun or srun starts run side by side from their beginning, on one machine or several. Lightning
(``trainer.devices``) starts the others of one machine when training begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

_LOOK_SECONDS = 1.0
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Launch:
    """What a launcher has told this process: its ``rank`` among ``world``, ``local_*`` on its machine; from 0."""

    launcher: str
    world: int
    rank: int
    local_world: int
    local_rank: int

    @property
    def machines(self) -> int:
        return self.world // self.local_world


class PeerError(RuntimeError):
    """Another process of the job failed first, and says why."""


def launch() -> Launch | None:
    """What torchrun or srun says; None where neither has started this process."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        names = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
        return Launch("torchrun", *(_number(name, 1 - i % 2) for i, name in enumerate(names)))
    if "SLURM_STEP_NUM_TASKS" in os.environ and "SLURM_PROCID" in os.environ:
        tasks = _number("SLURM_STEP_NUM_TASKS", 1)
        nodes = _number("SLURM_STEP_NUM_NODES", _number("SLURM_NNODES", 1))
        return Launch("srun", tasks, _number("SLURM_PROCID", 0), max(1, tasks // nodes), _number("SLURM_LOCALID", 0))
    return None


def follow_parent() -> None:
    """Leave interruptions to the parent process, and end with it, however it ends: for workers of a pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def world() -> int:
    """W: 1 unless torch.distributed runs."""
    return _distributed("get_world_size", 1)


def rank() -> int:
    """This process among those of torch.distributed, from 0."""
    return _distributed("get_rank", 0)


def is_first() -> bool:
    """Whether this is the first of the processes that a launcher (torchrun, srun, Lightning) has started."""
    found = launch()
    if found is not None:
        return found.rank == 0
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def launched_world() -> int:
    """How many processes torchrun or srun have started; 1 where neither has."""
    found = launch()
    return found.world if found is not None else 1


@contextmanager
def in_turn(file: Path) -> Iterator[None]:
    """Within it, one process alone of those on this machine, by a lock on ``file``; alone, it does nothing.

    The system frees the lock of a process that dies. Where locks cannot be, nobody waits.
    """
    if launched_world() == 1 and "LOCAL_RANK" not in os.environ:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


class _Meeting:
    """The store by which the processes of one job speak: short texts under names, kept by the launcher or the first."""

    def __init__(self) -> None:
        self.store: Any = None
        self.failed_first: bool | None = None
        self.patience = float("inf")
        self._jobs = 0

    def begin(self, patience: float) -> None:
        """A new job of the same processes: what was told in the last one counts no more."""
        self.patience = patience
        if self.store is None:
            self.store = _connect(_CONNECT_SECONDS)
        self._jobs += 1
        self.failed_first = None

    def name(self, what: str) -> str:
        return f"dcs_nas/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{self._jobs}/{what}"


_meeting = _Meeting()


def begin_job(patience: float) -> None:
    """Called by every process once torch.distributed runs: from here on ``tell`` and ``hear`` reach the others.

    ``patience``: seconds to wait for what another has to do first.
    """
    _meeting.begin(patience)


def tell(what: str) -> None:
    """The first process says that ``what`` is done; nothing where processes have not met."""
    if _meeting.store is not None:
        _meeting.store.set(_meeting.name(what), "1")


def hear(what: str) -> None:
    """Wait until the first process has told ``what``.

    Raises:
        PeerError: another process has failed instead.
        TimeoutError: the first did not tell within the job's patience.
    """
    if _meeting.store is None:
        return
    end = time.monotonic() + _meeting.patience
    while True:
        try:
            _meeting.store.wait([_meeting.name(what)], timedelta(seconds=_LOOK_SECONDS))
            return
        except RuntimeError:  # not yet, or the store is gone
            if another_failed():
                raise PeerError(f"another process failed before {what}") from None
            if time.monotonic() > end:
                raise TimeoutError(f"timed out before {what}") from None


def another_failed() -> bool:
    """Whether a process of this job has said that it failed."""
    if _meeting.store is None:
        return False
    try:
        return int(_meeting.store.add(_meeting.name("failed"), 0)) > 0
    except RuntimeError:
        return False


def first_to_fail() -> bool:
    """Whether this process is the first of its job to fail, and so the one to say why; asked again, the same answer.

    Where all meet the same fault, it is the first of the processes, which the others give a second. Where processes
    cannot ask each other, the first on each machine says so: what it lacks the others may have.
    """
    if _meeting.failed_first is None:
        _meeting.failed_first = _ask()
    return _meeting.failed_first


def _ask() -> bool:
    if launched_world() == 1 and "LOCAL_RANK" not in os.environ:
        return True
    store = _meeting.store or _connect(_CONNECT_SECONDS)
    if not is_first():
        time.sleep(_LOOK_SECONDS)
    try:
        return int(store.add(_meeting.name("failed"), 1)) == 1
    except (AttributeError, RuntimeError):  # no store, or none any more
        found = launch()
        return _meeting.store is not None or is_first() or (found is not None and found.local_rank == 0)


def _connect(seconds: float) -> Any:
    """The store at MASTER_ADDR and MASTER_PORT, or None."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdigit():
        return None
    from torch.distributed import TCPStore

    try:
        return TCPStore(address, int(port), None, False, timedelta(seconds=seconds), wait_for_workers=False)
    except RuntimeError:
        return None


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def _distributed(ask: str, alone: int) -> int:
    import torch.distributed as dist

    return int(getattr(dist, ask)()) if dist.is_available() and dist.is_initialized() else alone
