"""SLURM's preemption: at SIGUSR1 a job is put back into the queue, and goes on when it starts again.

``#SBATCH --signal=SIGUSR1@90`` sends the signal 90 seconds before the end. What is kept is the checkpoint of the last
whole epoch: a run that went on from the middle of one would see other batches than the uninterrupted run.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dcs_nas.processes import is_first

log = logging.getLogger(__name__)


def job_id() -> str | None:
    """The job's identity as ``scontrol`` takes it, or None outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def goes_on(folder: Path, *, resume: bool, overwrite: bool) -> tuple[bool, bool]:
    """``resume`` and ``overwrite`` as the command line gave them, unless SLURM started the job again.

    Then the run that the folder holds goes on, whatever was asked for the first time.
    """
    again = job_id() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
    if again and (folder / "config.yaml").is_file():
        return True, False
    return resume, overwrite


@contextmanager
def requeued_on_signal() -> Iterator[None]:
    """Within it, SIGUSR1 to a SLURM job puts the job back into the queue and raises ``KeyboardInterrupt``.

    Of several tasks the first does so; the others go on until SLURM ends them, so that the first is not lost with them.
    """
    if job_id() is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, _requeue)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def _requeue(number: int, frame: FrameType | None) -> None:
    job = job_id()
    if not is_first():
        return
    if job is not None:
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
            problem = done.stderr.strip() if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem:
            log.warning("SLURM ends job %s and did not take it back: %s; submit it again", job, problem)
        else:
            log.warning("SLURM ends job %s; it is queued again and goes on after its last whole epoch", job)
    raise KeyboardInterrupt
