"""Shared by the benchmarks: functions timed in turn, peak memory in a fresh process, results as JSON or CSV."""

from __future__ import annotations

import csv
import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from dcs_nas import files
from dcs_nas.environment import describe_environment

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
MIB = 2**20
_M_MMAP_THRESHOLD = -3  # malloc.h


def in_turn(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Clock = time.perf_counter,
    *,
    steady: bool = False,
) -> dict[str, list[float]]:
    """Seconds of every call of each function, called in turn ``repeats`` times after one warm-up.

    ``steady``: every timed call follows an untimed one of the same function, so that caches and the allocator are as
    this function leaves them, not as the one before it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for call in functions.values():
        call()
    for _ in range(repeats):
        for name, call in functions.items():
            if steady:
                call()
            began = clock()
            call()
            seconds[name].append(clock() - began)
    return seconds


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, called in turn."""
    return {name: statistics.median(values) for name, values in in_turn(functions, repeats).items()}


def ratio(several: list[float], to: list[float]) -> float:
    """The median of the ratios of calls that stood side by side."""
    return statistics.median(a / b for a, b in zip(several, to, strict=True))


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments: Any, repeats: int = 3) -> float:
    """Bytes by which a call of ``prepare(*arguments)()`` lifts resident memory at its peak, in a fresh process.

    One call before warms the libraries' own buffers up. Median of ``repeats``; Linux with glibc.
    """
    context = multiprocessing.get_context("spawn")
    values = []
    for _ in range(repeats):
        with context.Pool(1) as pool:
            values.append(pool.apply(_peak, (prepare, arguments)))
    return statistics.median(values)


def write_json(path: Path | None, results: Mapping[str, object]) -> None:
    """Writes ``results``, versions, machine and command to ``path``, unless that is None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {**results, **describe_environment()})


def _peak(prepare: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> float:
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_M_MMAP_THRESHOLD, 65536)  # larger blocks go back to the system when freed: no fragments are counted
    call = prepare(*arguments)
    call()
    gc.collect()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
    before = _resident("VmRSS")
    kept = call()
    peak = _resident("VmHWM") - before
    del kept
    return peak


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1]) * 1024
    raise AssertionError(f"no {field} in /proc/self/status")


def budgets_of_processor_time() -> AbstractContextManager[Any]:
    """Count a search's seconds, and ``search.trials.minutes``, in processor time, so that other work hardly matters."""
    from dcs_nas.strategies.trial_strategy import TrialStrategy

    return mock.patch.object(TrialStrategy, "clock", time.process_time)


def shrink_by_noise(scores: np.ndarray, noise: float) -> np.ndarray:
    """Return the scores (n,) moved to their mean so far that noise of this deviation restores their spread."""
    return scores.mean() + (scores - scores.mean()) * np.sqrt(max(0, 1 - noise**2 / scores.var()))


def reference_file(stem: str, table: str) -> Path:
    """Return the file of results on a table of trained architectures: STEM.csv, of bench_chain STEM_chain.csv."""
    return Path("results/reference") / f"{stem}{'_chain' if table == 'bench_chain' else ''}.csv"


def begin_table(out: Path, command: str, notes: Sequence[str], columns: Sequence[str]) -> None:
    """Write the head of a table whose rows are appended one by one: command, commit, versions, notes and columns."""
    environment = describe_environment(1)
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    head = [f"# {command}; one thread; commit {environment['git']}; {versions}", *(f"# {note}" for note in notes)]
    files.write_text(out, "\n".join([*head, ",".join(columns)]) + "\n")


def append_row(out: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    """Append a row to a table that ``begin_table`` began."""
    with out.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, columns, lineterminator="\n").writerow(row)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table, without the lines of its head; end the script where there is no table."""
    if not path.is_file():
        raise SystemExit(f"no table {path}; run without --summary first, or name another by --out")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
