"""The W processes that train together: their launcher and ranks, signals between them, and SLURM.

torchrun and srun start all processes at once, on one machine or several. Lightning (``trainer.devices``) starts the
further processes of one machine when training begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from dcs_nas.errors import InputError

log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Launch:
    """Rank of a process (from 0) and number of processes, ``local_*`` on its machine, as its launcher sets them."""

    launcher: str
    world: int
    rank: int
    local_world: int
    local_rank: int

    @property
    def machines(self) -> int:
        return self.world // self.local_world


class PeerError(RuntimeError):
    """Another process of the job failed first and prints the reason."""


def find_launch() -> Launch | None:
    """Return the launch of this process by torchrun or srun; None where neither has started it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        names = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
        return Launch("torchrun", *(_number(name, 1 - i % 2) for i, name in enumerate(names)))
    if "SLURM_STEP_NUM_TASKS" in os.environ and "SLURM_PROCID" in os.environ:
        tasks = _number("SLURM_STEP_NUM_TASKS", 1)
        nodes = _number("SLURM_STEP_NUM_NODES", _number("SLURM_NNODES", 1))
        return Launch("srun", tasks, _number("SLURM_PROCID", 0), max(1, tasks // nodes), _number("SLURM_LOCALID", 0))
    return None


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, whatever it waits for."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def follow_parent() -> None:
    """Ignore interruptions and end with the parent process: for workers of a pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_world_size() -> int:
    """Return W, the number of processes: 1 unless torch.distributed runs."""
    return _ask_torch("get_world_size", 1)


def get_rank() -> int:
    """Return the rank of this process in torch.distributed, from 0."""
    return _ask_torch("get_rank", 0)


def is_first() -> bool:
    """Return whether this is the first of the processes that a launcher (torchrun, srun, Lightning) has started."""
    launch = find_launch()
    if launch is not None:
        return launch.rank == 0
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def count_launched() -> int:
    """Return how many processes torchrun or srun have started; 1 where neither has."""
    launch = find_launch()
    return launch.world if launch is not None else 1


def require_alone(what: str) -> None:
    """Raise ``InputError`` if torchrun or srun has started several processes."""
    launch = find_launch()
    if launch is not None and launch.world > 1:
        raise InputError(
            f"{what} runs as one process, but {launch.launcher} has started {launch.world}; start it without "
            f"{launch.launcher}"
        )


@contextmanager
def in_turn(file: Path) -> Iterator[None]:
    """Run the block in one process of this machine at a time, by a lock on ``file``.

    The system frees the lock of a process that dies. On file systems without locks no process waits.
    """
    if count_launched() == 1 and "LOCAL_RANK" not in os.environ:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


class _Job:
    """The job of this process, and the store for its signals, kept by the launcher or the first process."""

    def __init__(self) -> None:
        self.store: Any = None
        self.failed_first: bool | None = None
        self.timeout = math.inf
        self._number = 0

    def begin(self, timeout: float) -> None:
        """Begin a job of the same processes, whose ``wait_for`` waits ``timeout`` seconds; every process calls it.

        It ignores the signals of the last job.
        """
        self.timeout, self.failed_first = timeout, None
        self.store = self.store or _connect()
        self._number += 1

    def key(self, event: str) -> str:
        """Return the name of an event of this job in the store."""
        return f"dcs_nas/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{self._number}/{event}"


_job = _Job()


def begin_job(timeout: float) -> None:
    """Begin a job whose processes use ``signal_done`` and ``wait_for``, see ``_Job.begin``."""
    _job.begin(timeout)


def signal_done(event: str) -> None:
    """Signal to the other processes that ``event`` is done; the first process calls it."""
    if _job.store is not None:
        _job.store.set(_job.key(event), "1")


def wait_for(event: str) -> None:
    """Wait until the first process has signalled ``event``.

    Raises:
        PeerError: another process has failed instead.
        TimeoutError: no signal came within the job's timeout.
    """
    if _job.store is None:
        return
    end = time.monotonic() + _job.timeout
    while True:
        try:
            _job.store.wait([_job.key(event)], timedelta(seconds=_LOOK_SECONDS))
            return
        except RuntimeError:  # not yet, or the store is gone
            if another_failed():
                raise PeerError(f"another process failed before {event}") from None
            if time.monotonic() > end:
                raise TimeoutError(f"timed out before {event}") from None


def another_failed() -> bool:
    """Return whether a process of this job has signalled that it failed."""
    try:
        return _job.store is not None and int(_job.store.add(_job.key("failed"), 0)) > 0
    except RuntimeError:
        return False


def is_first_to_fail() -> bool:
    """Return whether this process is the first of its job to fail, which prints the reason; the answer never changes.

    Where all processes have the same fault it is the first process, for which the others wait a second. Without a
    store, it is the first process on each machine, since its fault may be that machine's.
    """
    if _job.failed_first is None:
        _job.failed_first = _claim_first_failure()
    return _job.failed_first


def _claim_first_failure() -> bool:
    if count_launched() == 1 and "LOCAL_RANK" not in os.environ:
        return True
    store = _job.store or _connect()
    if not is_first():
        time.sleep(_LOOK_SECONDS)
    try:
        return int(store.add(_job.key("failed"), 1)) == 1
    except (AttributeError, RuntimeError):  # no store
        launch = find_launch()
        return _job.store is not None or is_first() or (launch is not None and launch.local_rank == 0)


def _connect() -> Any:
    """Return the store at MASTER_ADDR and MASTER_PORT, or None."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdigit():
        return None
    from torch.distributed import TCPStore

    try:
        return TCPStore(address, int(port), None, False, timedelta(seconds=_CONNECT_SECONDS), wait_for_workers=False)
    except RuntimeError:
        return None


def get_job_id() -> str | None:
    """Return the id of the SLURM job as ``scontrol`` takes it, or None outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def is_requeued() -> bool:
    """Return whether SLURM has started this job again."""
    return get_job_id() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


@contextmanager
def requeue_on_signal() -> Iterator[None]:
    """Requeue the SLURM job and raise ``KeyboardInterrupt`` on SIGUSR1 within the block.

    ``#SBATCH --signal=SIGUSR1@90`` sends the signal 90 seconds before the end. The job resumes from the checkpoint of
    the last whole epoch: resumed within an epoch, it would draw other batches than an uninterrupted run.

    The first of several tasks requeues the job; the others continue until SLURM ends them.
    """
    if get_job_id() is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, _requeue)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def _requeue(number: int, frame: FrameType | None) -> None:
    job = get_job_id()
    if not is_first():
        return
    if job is not None:
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
            problem = done.stderr.strip() if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem:
            log.warning("SLURM ends job %s and did not requeue it: %s; submit it again", job, problem)
        else:
            log.warning("SLURM ends job %s; it is queued again and resumes after its last whole epoch", job)
    raise KeyboardInterrupt


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def _ask_torch(ask: str, alone: int) -> int:
    import torch.distributed as dist

    return int(getattr(dist, ask)()) if dist.is_available() and dist.is_initialized() else alone
