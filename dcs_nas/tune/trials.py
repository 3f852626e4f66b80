"""Trials as processes: ``dcs-nas search|retrain`` with values of their own, watched through metrics.csv."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcs_nas.config import TuneConfig
from dcs_nas.errors import InputError, choices
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.tune.space import overrides

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "dcs_nas")
_STOP_SECONDS = 10.0


class TrialProcess:
    """One trial as a process group in the tuning's folder; goes on where its run folder has a run.

    Its job is ``job.yaml`` with ``values``, its genotype ``genotype.yaml`` where there is one, its output
    ``logs/LABEL.txt``. Epochs up to ``seen`` are no news.
    """

    def __init__(
        self,
        folder: Path,
        label: str,
        values: Mapping[str, Any],
        tune: TuneConfig,
        *,
        device: int | None = None,
        seen: int = -1,
    ) -> None:
        tuning, self._run = RunFolder(folder), RunFolder(folder / label)
        self._log, self._tune = folder / "logs" / f"{label}.txt", tune
        self.device, self._seen = device, seen
        arguments = [str(tuning.job_file), "--out", str(self._run.path)]
        arguments += [part for override in overrides(values) for part in ("-o", override)]
        if tuning.genotype_file.is_file():
            arguments += ["--genotype", str(tuning.genotype_file)]
        if self._run.config_file.is_file():
            arguments.append("--resume")
        environment = dict(os.environ) | ({} if device is None else {"CUDA_VISIBLE_DEVICES": str(device)})
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        self._stamp: tuple[int, int] | None = None
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*PROGRAM, tune.command, *arguments],
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

    def running(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def news(self) -> list[tuple[int, float]]:
        """Return (epoch from 0, metric) of the epochs that metrics.csv has gained since the last call."""
        path = self._run.metrics_file
        try:
            found = path.stat()
        except FileNotFoundError:
            return []
        if (found.st_mtime_ns, found.st_ino) == self._stamp:
            return []
        self._stamp = found.st_mtime_ns, found.st_ino
        metric, _ = self._tune.objective
        rows = [(int(r["epoch"]), r[metric]) for r in read_metrics(path) if metric in r and r["epoch"] > self._seen]
        self._seen = rows[-1][0] if rows else self._seen
        return rows

    def failure(self) -> str:
        """Return why the ended process failed, in one line; empty where it did not."""
        code = self._process.returncode
        if code == 0:
            return ""
        how = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        return f"{how}: {_last_line(self._log)}"

    def value(self) -> float:
        """Return the metric of the ended trial; ``InputError`` where metrics.csv has none: no trial will have."""
        metric, goal = self._tune.objective
        path = self._run.metrics_file
        rows = read_metrics(path) if path.is_file() else []
        values = [row[metric] for row in rows if metric in row]
        if not values:
            known = dict.fromkeys(key for row in rows for key in row if key != "epoch")
            raise InputError(f"tune.metric: {path} has no column '{metric}'; {choices(metric, known)}")
        if self._tune.take == "last":
            return values[-1]
        return max(values) if goal == "maximize" else min(values)

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process and all that it started."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the process and all that it started: at first gently, after ten seconds by force."""
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Give a function that returns whether Ctrl-C, SIGTERM or SIGHUP has come; within it they raise nothing."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(path: Path) -> str:
    """Return the last line of a log that is not empty, at most 300 characters of it."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    written = [line.strip() for line in lines if line.strip()]
    return written[-1][:300] if written else "it wrote nothing"
