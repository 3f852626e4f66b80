"""Search steps in one process and in two at once, by how OpenMP's threads wait for each other.

    python benchmarks/concurrent_steps.py --json results/reference/concurrent_steps.json

A step is that of search_step.py, in processes of their own with as many threads as there are cores. For each way of
waiting: seconds of a step alone and beside a second process, in turn; medians. Torch's library by itself spins for
long; ``dcs-nas`` sets GOMP_SPINCOUNT to end that sooner (dcs_nas/environment.py).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import write_json

from dcs_nas.environment import OPENMP_VARIABLES, limit_spinning

WAITS: dict[str, dict[str, str]] = {  # name to variables of the environment
    "library": {},
    "ours": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SMALL = {"width": 8, "cells": 2, "nodes": 2, "batch": 16, "size": 32}


def main() -> None:
    arguments = _arguments()
    if arguments.worker:
        _work(arguments.steps)
        return
    seconds: dict[str, dict[str, list[float]]] = {name: {"alone": [], "two": []} for name in WAITS}
    for _ in range(arguments.repeats):
        for name in WAITS:
            for count, case in ((1, "alone"), (2, "two")):
                seconds[name][case].append(_run(name, count, arguments.steps))
                print(f"{name} {case}: {seconds[name][case][-1]:.3f} s", file=sys.stderr, flush=True)
    medians = {
        name: {case: statistics.median(values) for case, values in found.items()} for name, found in seconds.items()
    }
    for name, found in medians.items():
        alone, two = found.values()
        print(f"{name:10} alone {alone:.3f} s, two at once {two:.3f} s: {two / alone:.2f}")
    write_json(arguments.json, {"sizes": SMALL, "seconds": medians, "all": seconds})


def _run(name: str, count: int, steps: int) -> float:
    """Return the seconds of a step, the mean over the processes that run at once."""
    clean = {key: value for key, value in os.environ.items() if key not in (*OPENMP_VARIABLES, "OMP_NUM_THREADS")}
    command = [sys.executable, __file__, "--worker", name, "--steps", str(steps)]
    started = [
        subprocess.Popen(
            command, env={**clean, **WAITS[name]}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()  # it is warm
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return statistics.mean(float(process.communicate()[0]) for process in started)


def _work(steps: int) -> None:
    from search_step import ours

    step = ours(SMALL).step
    step()
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    print((time.perf_counter() - began) / steps, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--worker", choices=list(WAITS), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    if "ours" in sys.argv:  # before torch is loaded
        limit_spinning()
    main()
