"""Processes of a job: workers that share the trials of a folder through Optuna's storage, and child processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from dcs_nas.processes import count_cores
from dcs_nas.runs.lock import is_free, lock_folder

JOURNAL = "journal.log"
_STOP_SECONDS = 10.0

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Worker:
    """One of the processes that work on the trials of a folder.

    A trial records the name of the worker that began it. A worker is alive while its lock in ``workers/`` is held.
    """

    def __init__(self, folder: Path, study: optuna.Study, name: str) -> None:
        self.folder, self.study, self._name = folder, study, name
        self._own: set[int] = set()

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, of all workers."""
        return self.study.get_trials(deepcopy=False)

    def list_in_state(self, state: TrialState) -> list[FrozenTrial]:
        """Return the trials in a state."""
        return self.study.get_trials(deepcopy=False, states=(state,))

    def is_alive(self, trial: FrozenTrial) -> bool:
        """Return whether the worker that began a trial is alive and still runs it."""
        worker = trial.user_attrs.get("worker")
        if worker == self._name:
            return trial.number in self._own
        return worker is not None and not is_free(self.folder / "workers" / worker)

    def claim(self, trial: Trial) -> None:
        """Record this worker as the owner of a trial."""
        trial.set_user_attr("worker", self._name)
        self._own.add(trial.number)

    @contextlib.contextmanager
    def lock_trials(self) -> Iterator[None]:
        """Keep other workers from handing out trials within the context."""
        lock = JournalFileOpenLock(str(self.folder / "workers" / "next"))
        lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextlib.contextmanager
def register_worker(folder: Path) -> Iterator[str]:
    """Register a worker that is alive within the context, and yield its name."""
    place = folder / "workers" / f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    try:
        with lock_folder(place):
            yield place.name
    finally:
        shutil.rmtree(place, ignore_errors=True)


def open_journal(folder: Path) -> JournalStorage:
    """Open the record of the trials in a folder that all workers share."""
    path = str(folder / JOURNAL)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


class ChildProcess:
    """A command in its own process group that writes to the file ``log``, on GPU ``device`` if one is set.

    It has the cores in equal shares with the other ``processes``, unless ``OMP_NUM_THREADS`` is set.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        device: int | None = None,
        processes: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.device, self._log = device, log
        environment = {**os.environ, **(environment or {})}
        if device is not None:
            allotted = list(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))
            environment["CUDA_VISIBLE_DEVICES"] = allotted[device] if device < len(allotted) else str(device)
        if processes > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // processes)))
        log.parent.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.monotonic() - self._began

    def is_running(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def describe_failure(self) -> str:
        """Return in one line why the process failed; empty if it succeeded."""
        code = self._process.returncode
        if code == 0:
            return ""
        how = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        return f"{how}: {_last_line(self._log)}"

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process group."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop the process group: by SIGTERM, after ten seconds by SIGKILL."""
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _last_line(path: Path) -> str:
    """Return the last nonempty line of a log, at most 300 characters."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    written = [line.strip() for line in lines if line.strip()]
    return written[-1][:300] if written else "it wrote nothing"
