"""A hundred short searches in a row in one process: do memory, open files, threads or child processes grow?

    python benchmarks/many_searches.py --json results/reference/many_searches.json

Every tenth search is given a learning rate at which its loss is no number, so that it ends with an error. Prints what
the process holds after some of the searches, and the growth from the tenth to the last.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from measure import write_json

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.errors import TrainingError
from dcs_nas.strategies.job import run_search

SPACE = {
    "cells": 2,
    "channels": 4,
    "nodes": 2,
    "reductions": [1],
    "operations": ["none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "dcs"],
    "attention": ["none", "dcs"],
}
JOB = {
    "name": "many",
    "data": {"name": "synthetic", "height": 32, "width": 16, "identities_per_batch": 8, "images_per_identity": 2},
    "augment": {"pad": 2},
    "loss": {"ib_kind": "ibb", "ib_weight": 0.1, "ib_temperature": "auto"},
    "trainer": {"accelerator": "cpu", "threads": 1},
}
WARM = 10
FAILING_EVERY = 10
DIVERGING = ["search.lr=1e30", "search.grad_clip=1e30"]


class Held(NamedTuple):
    """What the process holds: memory in MiB, as it stands and after a collection, and counts."""

    resident: float
    collected: float
    files: int
    threads: int
    children: int
    objects: int


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        job = _job(Path(temporary))
        began, failed, after = time.perf_counter(), 0, []
        for i in range(arguments.searches):
            failed += _search(job, Path(temporary) / "run", seed=i, fails=i % FAILING_EVERY == FAILING_EVERY - 1)
            after.append(tuple(held()))  # a plain tuple of numbers is no object to the collector
            if i + 1 in (1, 2, 5) or (i + 1) % 10 == 0:
                _show(i + 1, Held(*after[-1]))
    figures = [Held(*values) for values in after]
    warm, last = figures[WARM - 1], figures[-1]
    growth = {key: value - getattr(warm, key) for key, value in last._asdict().items()}
    slope = float(np.polyfit(range(WARM, len(after) + 1), [h.collected for h in figures[WARM - 1 :]], 1)[0])
    print(f"from search {WARM} to {len(after)}: " + ", ".join(f"{k} {v:+.4g}" for k, v in growth.items()))
    results = {
        "searches": len(after),
        "failed_on_purpose": failed,
        "seconds": time.perf_counter() - began,
        f"after_{WARM}": warm._asdict(),
        f"after_{len(after)}": last._asdict(),
        "growth": growth,
        "mib_per_search": slope,
        "collected_mib": [round(h.collected, 2) for h in figures],
        "resident_mib": [round(h.resident, 2) for h in figures],
    }
    write_json(arguments.json, results)


def held() -> Held:
    """What this process holds now."""
    resident = _status("VmRSS") / 1024
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    children = sum(len(task.read_text().split()) for task in Path("/proc/self/task").glob("*/children"))
    return Held(
        resident=resident,
        collected=_status("VmRSS") / 1024,
        files=len(os.listdir("/proc/self/fd")),
        threads=_status("Threads"),
        children=children,
        objects=len(gc.get_objects()),
    )


def _search(job: Path, run: Path, *, seed: int, fails: bool) -> bool:
    """Search once, delete the run folder; whether it ended with an error, as it must where ``fails``."""
    config: Config = load_config(job, [f"seed={seed}", *(DIVERGING if fails else [])])
    try:
        run_search(config, run)
    except TrainingError:
        assert fails
    else:
        assert not fails
    shutil.rmtree(run)
    return fails


def _show(searches: int, now: Held) -> None:
    print(
        f"after {searches:3}: {now.collected:.1f} MiB, {now.files} files, {now.threads} threads, "
        f"{now.children} children, {now.objects:,} objects",
        flush=True,
    )


def _job(folder: Path) -> Path:
    people = SyntheticSettings(
        train_identities=24, test_identities=8, distractor_identities=0, junk_images=0, height=64, width=32
    )
    write_synthetic(folder / "people", settings=people, workers=1)
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    data = {**JOB["data"], "root": str(folder / "people"), "cache": str(folder / "cache")}  # type: ignore[dict-item]
    search = {"space": str(folder / "space.yaml"), "strategy": "bilevel", "epochs": 1}
    (folder / "job.yaml").write_text(yaml.safe_dump({**JOB, "data": data, "search": search}))
    return folder / "job.yaml"


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {field} in /proc/self/status")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.searches < 2 * WARM:
        parser.error(f"--searches is {arguments.searches}, expected {2 * WARM} or more: the first {WARM} warm up")
    return arguments


if __name__ == "__main__":
    main()
