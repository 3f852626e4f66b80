"""Trials as processes: ``dcs-nas search|retrain`` with values of their own, watched through metrics.csv."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcs_nas.cli.tune_space import overrides
from dcs_nas.cli.tune_study import Study, Trial
from dcs_nas.config import TuneConfig
from dcs_nas.errors import InputError, choices
from dcs_nas.runs import read_metrics

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "dcs_nas")
POLL_SECONDS = 0.2
STOP_SECONDS = 10.0


class TrialProcess:
    """One trial as a process group: run folder ``folder``, output in ``log``; goes on where a run folder has a run."""

    def __init__(
        self,
        job: Path,
        folder: Path,
        log: Path,
        values: Mapping[str, Any],
        *,
        tune: TuneConfig,
        genotype: Path | None = None,
        device: int | None = None,
        lock: int | None = None,
    ) -> None:
        self.folder, self.log, self._tune = folder, log, tune
        settings = [part for override in overrides(values) for part in ("-o", override)]
        chosen = ["--genotype", str(genotype)] if genotype else []
        resume = ["--resume"] if (folder / "config.yaml").is_file() else []
        environment = dict(os.environ) | ({} if device is None else {"CUDA_VISIBLE_DEVICES": str(device)})
        log.parent.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*PROGRAM, tune.command, str(job), *settings, *chosen, "--out", str(folder), *resume],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        self._seen = -1
        self._stamp: tuple[int, int] | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def running(self) -> bool:
        return self._process.poll() is None

    def news(self) -> list[tuple[int, float]]:
        """(epoch from 0, metric) of the epochs that metrics.csv has gained since the last call."""
        path = self.folder / "metrics.csv"
        try:
            found = path.stat()
        except FileNotFoundError:
            return []
        if (found.st_mtime_ns, found.st_ino) == self._stamp:
            return []
        self._stamp = found.st_mtime_ns, found.st_ino
        metric, _ = self._tune.objective
        rows = [r for r in read_metrics(path) if metric in r and r["epoch"] > self._seen]
        if rows:
            self._seen = rows[-1]["epoch"]
        return [(row["epoch"], row[metric]) for row in rows]

    def failure(self) -> str:
        """Why the ended process failed, in one line; empty where it did not."""
        code = self._process.returncode
        if code == 0:
            return ""
        how = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        return f"{how}: {last_line(self.log)}"

    def value(self) -> float:
        """The metric of the ended trial; ``InputError`` where its metrics.csv has none, which no trial will have."""
        metric, goal = self._tune.objective
        path = self.folder / "metrics.csv"
        rows = read_metrics(path) if path.is_file() else []
        values = [row[metric] for row in rows if metric in row]
        if not values:
            known = dict.fromkeys(key for row in rows for key in row if key != "epoch")
            raise InputError(f"tune.metric: {path} has no column '{metric}'; {choices(metric, known)}")
        if self._tune.take == "last":
            return values[-1]
        return max(values) if goal == "maximize" else min(values)

    def stop(self) -> None:
        """End the process and all that it started: at first gently, after ``STOP_SECONDS`` by force."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def run_trials(
    study: Study,
    tune: TuneConfig,
    begin: Callable[[Trial, int | None], TrialProcess],
    *,
    epoch: Callable[[Trial, int, float], None],
    ended: Callable[[Trial], None],
) -> None:
    """Run trials, ``tune.concurrency`` at a time, until there are enough or the hours are spent.

    ``epoch`` is told of every intermediate result, ``ended`` of every trial's end. Raises ``KeyboardInterrupt`` where a
    signal asks to stop, and ``InputError`` where a finished trial has no metric; either way no process is left.
    """
    deadline = time.monotonic() + 3600 * tune.hours if tune.hours else float("inf")
    devices: list[int | None] = list(tune.gpus) or [None] * tune.concurrency
    running: dict[int, tuple[Trial, TrialProcess, int | None]] = {}
    with interruptions() as stopped:
        try:
            while True:
                while len(running) < tune.concurrency and time.monotonic() < deadline and not stopped():
                    trial = study.next()
                    if trial is None:
                        break
                    device = devices.pop(0)
                    running[trial.number] = trial, begin(trial, device), device
                if stopped():
                    raise KeyboardInterrupt
                if not running:
                    return
                for trial, process, device in list(running.values()):
                    over = not process.running()
                    for number, value in process.news():
                        epoch(trial, number, value)
                    if over:
                        del running[trial.number]
                        devices.append(device)
                        ended(_finish(study, trial, process))
                time.sleep(POLL_SECONDS)
        finally:
            stop_all([process for _, process, _ in running.values()])


def _finish(study: Study, trial: Trial, process: TrialProcess) -> Trial:
    failure = process.failure()
    value = None if failure else process.value()
    return study.finish(trial.number, value, seconds=process.seconds, message=failure)


def stop_all(processes: Sequence[TrialProcess]) -> None:
    """Stop them together, not one after the other."""
    for process in processes:
        process._signal(signal.SIGTERM)
    for process in processes:
        process.stop()


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Within it, Ctrl-C, SIGTERM and SIGHUP raise nothing; the function that it gives tells whether one has come."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(path: Path) -> str:
    """The last line of a log that says anything, at most 300 characters of it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "it wrote no log"
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else "it wrote nothing"
