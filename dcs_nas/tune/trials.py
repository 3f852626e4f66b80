"""Trials as processes: ``dcs-nas search|retrain`` with values of their own, monitored through metrics.csv."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcs_nas.config import TuneConfig
from dcs_nas.errors import InputError, choices
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.runs.child_process import ChildProcess
from dcs_nas.tune.space import format_overrides

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "dcs_nas")


class TrialProcess(ChildProcess):
    """One trial as a process group in the tuning's folder; it resumes if its run folder holds a run.

    Its job is ``job.yaml`` with ``values``, its genotype ``genotype.yaml`` if there is one, its output
    ``logs/LABEL.txt``. Epochs up to ``seen`` are not reported again.
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
        self._tune, self._seen = tune, seen
        arguments = [str(tuning.job_file), "--out", str(self._run.path)]
        arguments += [part for override in format_overrides(values) for part in ("-o", override)]
        if tuning.genotype_file.is_file():
            arguments += ["--genotype", str(tuning.genotype_file)]
        if self._run.config_file.is_file():
            arguments.append("--resume")
        self._stamp: tuple[int, int] | None = None
        super().__init__([*PROGRAM, tune.command, *arguments], folder / "logs" / f"{label}.txt", device=device)

    def read_new_epochs(self) -> list[tuple[int, float]]:
        """Return (epoch from 0, metric) of the epochs that metrics.csv has gained since the last call."""
        path = self._run.metrics_file
        try:
            status = path.stat()
        except FileNotFoundError:
            return []
        if (status.st_mtime_ns, status.st_ino) == self._stamp:
            return []
        self._stamp = status.st_mtime_ns, status.st_ino
        metric, _ = self._tune.objective
        rows = [(int(r["epoch"]), r[metric]) for r in read_metrics(path) if metric in r and r["epoch"] > self._seen]
        self._seen = rows[-1][0] if rows else self._seen
        return rows

    def read_result(self) -> float:
        """Return the metric of the ended trial; raise ``InputError`` if metrics.csv lacks it."""
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


@contextmanager
def catch_signals() -> Iterator[Callable[[], bool]]:
    """Catch Ctrl-C, SIGTERM and SIGHUP within the context; yield a function that returns whether one has arrived."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
