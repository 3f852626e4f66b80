"""SIGKILL at random moments of a search and a retraining, then --resume: are the last checkpoints equal to the bit?

    python benchmarks/kill_resume.py --kills 10 --json results/reference/kill_resume.json

A small job on synthetic people runs once undisturbed; then, for each seeded moment between the start of the process and
its end, a new run is killed and resumed to its end. Prints how many runs survived, out of all.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import yaml
from measure import write_json

from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.runs import environment

SPACE = {
    "cells": 2,
    "channels": 4,
    "nodes": 2,
    "reductions": [1],
    "operations": ["none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "dcs"],
    "attention": ["none", "dcs"],
}
JOB = {
    "name": "kill",
    "data": {"name": "synthetic", "height": 32, "width": 16, "people_per_batch": 8, "images_per_person": 2},
    "augment": {"pad": 2},
    "loss": {"ib_kind": "ibb", "ib_weight": 0.1, "ib_temperature": "auto"},
    "search": {"space": "space.yaml", "epochs": 4, "order": 2, "validation": 0.2, "validate_every": 2},
    "retrain": {"epochs": 4, "warmup_epochs": 1},
    "trainer": {"accelerator": "cpu", "threads": 1},
}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        job = _job(folder)
        results = {name: _survivors(name, job, folder, arguments) for name in ("search", "retrain")}
    for name, found in results.items():
        print(f"{name}: {found['survived']} of {found['kills']} killed runs resumed to the same bits")
    write_json(arguments.json, {**results, "seed": arguments.seed, **environment()})


def _job(folder: Path) -> Path:
    people = SyntheticSettings(train_people=24, test_people=8, distractor_people=0, junk_images=0, height=64, width=32)
    write_synthetic(folder / "people", settings=people)
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    job = {**JOB, "data": {**JOB["data"], "root": str(folder / "people"), "cache": str(folder / "cache")}}  # type: ignore[dict-item]
    job["search"] = {**JOB["search"], "space": str(folder / "space.yaml")}  # type: ignore[dict-item]
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def _survivors(command: str, job: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    given = ["--genotype", str(folder / "search" / "genotype.yaml")] if command == "retrain" else []
    began = time.perf_counter()
    _finish(_start(command, job, folder / command, given))
    seconds, moments = time.perf_counter() - began, random.Random(arguments.seed)
    expected, survived, places = _state(folder / command), 0, Counter[str]()
    for i in range(arguments.kills):
        run = folder / f"{command}_{i}"
        process = _start(command, job, run, given)
        time.sleep(moments.uniform(0.02, 0.98) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        places[_place(run)] += 1
        resume = ["--resume"] if (run / "config.yaml").is_file() else []
        _finish(_start(command, job, run, [*given, *resume]))
        survived += _equal(expected, _state(run))
        shutil.rmtree(run)
    return {"kills": arguments.kills, "survived": survived, "seconds": seconds, "killed": dict(places)}


def _start(command: str, job: Path, run: Path, more: list[str]) -> subprocess.Popen:
    line = [sys.executable, "-m", "dcs_nas", command, str(job), "--out", str(run), *more]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen) -> None:
    _, error = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, process.args))} ended with {process.returncode}: {error[-2000:]}")


def _place(run: Path) -> str:
    if not (run / "config.yaml").is_file():
        return "before the run began"
    return "in its epochs" if (run / "checkpoints" / "last.ckpt").is_file() else "in its first epoch"


def _state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    same = (torch.equal(a[k].nan_to_num(), b[k].nan_to_num()) for k in a if k in b)
    return a.keys() == b.keys() and all(same)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
