"""Trials as processes: ``dcs-nas search|retrain`` with values of their own, watched through metrics.csv."""

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
from dcs_nas.tune.space import overrides

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "dcs_nas")


class TrialProcess(ChildProcess):
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
        self._tune, self._seen = tune, seen
        arguments = [str(tuning.job_file), "--out", str(self._run.path)]
        arguments += [part for override in overrides(values) for part in ("-o", override)]
        if tuning.genotype_file.is_file():
            arguments += ["--genotype", str(tuning.genotype_file)]
        if self._run.config_file.is_file():
            arguments.append("--resume")
        self._stamp: tuple[int, int] | None = None
        super().__init__([*PROGRAM, tune.command, *arguments], folder / "logs" / f"{label}.txt", device=device)

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
