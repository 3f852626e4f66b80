"""Processes that share the trials of a folder through Optuna's storage, and the trials of dead processes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from dcs_nas.runs.lock import is_free, lock_folder

JOURNAL = "journal.log"

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


def count_living(folder: Path) -> int:
    """Return the number of workers alive."""
    return sum(not is_free(place) for place in (folder / "workers").glob("*/"))


def open_journal(folder: Path) -> JournalStorage:
    """Open the record of the trials in a folder that all workers share."""
    path = str(folder / JOURNAL)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
