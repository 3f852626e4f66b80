"""What the benchmarks share: alternating timings, peak memory in a fresh process, results as JSON."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MIB = 2**20
_M_MMAP_THRESHOLD = -3  # malloc.h


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, called in turn ``repeats`` times after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for call in functions.values():
        call()
    for _ in range(repeats):
        for name, call in functions.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


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
    """Writes ``results`` to ``path``, unless that is None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")


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
