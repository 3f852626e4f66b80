"""Signals at random moments of every kind of work, then a rerun or --resume: are all files equal to the bit?

    OMP_NUM_THREADS=1 python benchmarks/kill_resume.py --points 50 --json results/reference/kill_resume.json

Small jobs on synthetic people run once undisturbed. Then, for each seeded point, a job begins in a new folder, is sent
SIGKILL, SIGTERM or SIGINT at a moment between the start of its process and its end (an earlier one where it ended by
then), and is run again: a search or a training with --resume where it had begun. A point has survived where the second
run succeeds, every file is equal to the undisturbed job's, nothing half written is left, nor a process of the first.
Compared are all bytes, but for checkpoints, whose content is (all tensors, optimizers and counters), the name of the
point's folder, and the time in a report. The log, TensorBoard's events and the lock tell of times and stay out.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from measure import write_json

from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SPACE = {
    "cells": 2,
    "channels": 4,
    "nodes": 2,
    "reductions": [1],
    "operations": ["none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "dcs"],
    "attention": ["none", "dcs"],
}
JOB: dict[str, Any] = {
    "name": "kill",
    "data": {"name": "synthetic", "height": 32, "width": 16, "identities_per_batch": 8, "images_per_identity": 2},
    "augment": {"pad": 2},
    "loss": {"ib_kind": "ibb", "ib_weight": 0.1, "ib_temperature": "auto"},
    "search": {"strategy": "bilevel", "epochs": 4, "order": 2, "validation": 0.2, "validate_every": 2},
    "retrain": {"epochs": 5, "warmup_epochs": 1, "validation": 0.25, "validate_every": 1},
    "trainer": {"accelerator": "cpu", "threads": 1},
}
PEOPLE = SyntheticSettings(
    train_identities=16,
    test_identities=6,
    distractor_identities=0,
    junk_images=0,
    cameras=3,
    images_per_camera=3,
    height=64,
    width=32,
)
SYNTH = ["synth", "people", "--train-identities", "16", "--test-identities", "8", "--height", "64", "--width", "32"]
CACHE = """
import sys
from pathlib import Path
from dcs_nas.data.images import open_image_cache
root = Path(sys.argv[1])
names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.jpg"))
open_image_cache(root, names * 8, height=384, width=192, folder=Path("cache"))
"""
_UNTIMED = (".lock", "log.txt")
_TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?")


@dataclass(frozen=True)
class Work:
    """A job: what to lay into its folder, its command line there, and whether it is to be given --resume."""

    prepare: Callable[[Path], object]
    line: list[str]
    resume: Callable[[Path], bool] = lambda folder: False
    is_done: Callable[[Path], bool] = lambda folder: False


@dataclass(frozen=True)
class Point:
    """What became of one signal; ``ended`` is the exit code, or the name of the signal that ended the process."""

    command: str
    signal: str
    second: float
    ended: str
    survived: bool
    why_not: str


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        points, seconds = _all_points(Path(temporary), arguments)
    commands = {name: _summary(name, points, seconds[name]) for name in seconds}
    for name, found in commands.items():
        ended = ", ".join(f"{count} x {how}" for how, count in found["ended"].items())
        print(
            f"{name:10} {found['survived']}/{found['points']} survived; {found['seconds']:.1f} s alone; ended: {ended}"
        )
    survived = sum(point.survived for point in points)
    print(f"{'all':10} {survived}/{len(points)} survived")
    signals = Counter(point.signal for point in points)
    whole = {"points": len(points), "survived": survived, "signals": dict(signals), "seed": arguments.seed}
    write_json(arguments.json, {**whole, "commands": commands, "each": [asdict(p) for p in points]})


def _all_points(folder: Path, arguments: argparse.Namespace) -> tuple[list[Point], dict[str, float]]:
    """Every job once undisturbed, then the points in turn over the jobs."""
    works: dict[str, Work] = {}
    expected: dict[str, Mapping[str, str]] = {}
    seconds: dict[str, float] = {}
    for name, work in _works(folder):
        began, at = time.perf_counter(), folder / name / "work"
        _finish(_start(work, at))
        works[name], seconds[name], expected[name] = work, time.perf_counter() - began, _files(at)
        print(f"{name:10} undisturbed: {seconds[name]:.1f} s, {len(expected[name])} files", flush=True)
    draw, points = random.Random(arguments.seed), []
    for i in range(arguments.points):
        name = list(works)[i % len(works)]
        number, second = draw.choice(SIGNALS), draw.uniform(0.03, 0.97) * seconds[name]
        points.append(_point(name, works[name], folder / f"{name}_{i}" / "work", number, second, expected[name]))
        print(f"{i + 1}/{arguments.points} {points[-1]}", flush=True)
    return points, seconds


def _works(folder: Path) -> Iterator[tuple[str, Work]]:
    """The jobs by name; each may build on the ones before, which have then been run."""
    yield "synth", Work(Path.mkdir, SYNTH, is_done=lambda at: (at / "people").is_dir())
    people = folder / "training"
    write_synthetic(people, settings=PEOPLE)
    yield "cache", Work(Path.mkdir, ["-c", CACHE, str(people)])
    job = _write_job(folder, people)
    began = {"resume": lambda at: (at / "run" / "config.yaml").is_file()}
    yield "search", Work(Path.mkdir, ["search", str(job), "--out", "run"], **began)
    genotype = str(folder / "search" / "work" / "run" / "genotype.yaml")
    yield "retrain", Work(Path.mkdir, ["retrain", str(job), "--genotype", genotype, "--out", "run"], **began)
    trained = folder / "retrain" / "work" / "run"
    options = ["--csv", "scores.csv", "--save-features", "features.npz", "--pictures", "2"]
    yield "evaluate", Work(lambda at: shutil.copytree(trained, at / "run"), ["evaluate", "run", *options])
    evaluated = folder / "evaluate" / "work" / "run"
    yield "report", Work(lambda at: shutil.copytree(evaluated, at / "run"), ["report", "run", "--maps", "2"])


def _write_job(folder: Path, people: Path) -> Path:
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    data = {**JOB["data"], "root": str(people), "cache": str(folder / "job_cache")}
    job = {**JOB, "data": data, "search": {**JOB["search"], "space": str(folder / "space.yaml")}}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def _point(
    name: str, work: Work, folder: Path, number: signal.Signals, second: float, expected: Mapping[str, str]
) -> Point:
    process = _start(work, folder)
    time.sleep(second)
    if process.poll() is not None:  # the machine is faster than it was: that was no interruption
        _finish(process)
        shutil.rmtree(folder.parent)
        return _point(name, work, folder, number, 0.7 * second, expected)
    below = _children(process)
    process.send_signal(number)
    process.communicate(timeout=600)
    code = process.returncode
    _, alive = psutil.wait_procs(below, timeout=20)
    why = f"left {len(alive)} processes behind" if alive else ""
    if code != 0 and not work.is_done(folder):
        again = _start(work, folder, resume=work.resume(folder))
        _, said = again.communicate(timeout=600)
        why = why or (f"the second run ended with {again.returncode}: {said[-500:]}" if again.returncode else "")
    found = _files(folder)
    differing = sorted(file for file in {**expected, **found} if expected.get(file) != found.get(file))
    why = why or (f"differing: {', '.join(differing[:5])}" if differing else "")
    if not why:
        shutil.rmtree(folder.parent)
    ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Point(name, number.name, round(second, 2), ended, not why, why)


def _start(work: Work, folder: Path, *, resume: bool = False) -> subprocess.Popen[str]:
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        work.prepare(folder)
    program = [] if work.line[0] == "-c" else ["-m", "dcs_nas"]
    line = [sys.executable, *program, *work.line, *(["--resume"] if resume else [])]
    return subprocess.Popen(
        line,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_interrupts,
    )


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _finish(process: subprocess.Popen[str]) -> None:
    _, error = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, process.args))} ended with {process.returncode}: {error[-2000:]}")


def _files(folder: Path) -> dict[str, str]:
    """A digest of every file in the folder that is comparable, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in _UNTIMED and "tensorboard" not in path.parts:
            found[name] = _digest(path, folder)
    return found


def _digest(path: Path, folder: Path) -> str:
    digest = hashlib.sha256()
    if path.suffix == ".ckpt":
        _add(digest, torch.load(path, weights_only=True))
    elif path.suffix in (".html", ".yaml"):  # which name the folder
        digest.update(_TIME.sub(b"", path.read_bytes().replace(str(folder).encode(), b"")))
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Everything that a checkpoint holds, the bits of its tensors and the text of all else."""
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add(digest, item)
    else:
        digest.update(repr(value).encode())


def _summary(name: str, points: list[Point], seconds: float) -> dict[str, Any]:
    own = [point for point in points if point.command == name]
    return {
        "points": len(own),
        "survived": sum(point.survived for point in own),
        "seconds": round(seconds, 2),
        "ended": dict(Counter(f"{point.signal}: {point.ended}" for point in own)),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--points", type=int, default=50, help="in turn over synth, cache, search, retrain, evaluate, report"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; by default the system's temporary folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
