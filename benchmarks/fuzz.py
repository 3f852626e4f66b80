"""Every file that other people write, fuzzed: refused in one line or read, never a traceback, never a hang.

    python benchmarks/fuzz.py --inputs 20000 --json results/reference/fuzz.json
    python benchmarks/fuzz.py --engine atheris --inputs 20000 --kinds genotypes

Valid examples (the shipped configurations and spaces, genotypes drawn from them, small data sets, features, weights and
images) are changed at random: values, keys and places exchanged, deep nesting, huge numbers, odd text, flipped bytes.
hypothesis draws the changes; atheris (optional: pip install atheris), where it is asked for, changes the bytes of the
plain files guided by the coverage of our parsers. Each kind runs in a process of its own with a limit on its memory;
an input that takes longer than the limit ends it, with the place where it hung.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from _fuzz_kinds import KINDS, Kind, fresh

MEMORY = 12 * 2**30  # bytes of address space; torch alone takes four
SECONDS = 5.0
"""Of the processor, that an input may take; a busy machine is no hang."""
WALL = 60.0
"""Seconds that it may wait."""


class Tally:
    """What became of the inputs of one kind; ``path`` always holds the count so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.crashes: dict[str, dict[str, Any]] = {}
        self.slowest = self.seconds = 0.0

    def run(self, kind: Kind, folder: Path) -> None:
        """Read one input that was written into ``folder``, and count."""
        from dcs_nas.errors import InputError

        faulthandler.dump_traceback_later(WALL, exit=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        began = time.process_time()
        try:
            kind.read(folder)
            outcome = "accepted"
        except InputError as error:
            outcome = "refused"
            if len(str(error).splitlines()) != 1 or len(str(error)) > 5000:
                outcome = self._crash(AssertionError(f"not one line: {str(error)[:200]!r}"), folder)
        except Exception as error:
            outcome = self._crash(error, folder)
        took = time.process_time() - began
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        self.counts[outcome] += 1
        self.slowest, self.seconds = max(self.slowest, took), self.seconds + took
        if sum(self.counts.values()) % 100 == 0:
            self.save()

    def save(self) -> None:
        found = {**{k: self.counts[k] for k in ("accepted", "refused", "crashes")}, "slowest_s": round(self.slowest, 3)}
        found |= {"seconds": round(self.seconds, 1), "places": list(self.crashes.values())}  # type: ignore[dict-item]
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"inputs": sum(self.counts.values()), **found}))
        part.replace(self.path)

    def _crash(self, error: Exception, folder: Path) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "dcs_nas" in f.filename or "benchmarks" in f.filename] or [*frames]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        key = f"{type(error).__name__} {place}"
        if key not in self.crashes:
            kept = Path(tempfile.mkdtemp(prefix="fuzz-")) / "input"
            shutil.copytree(
                folder,
                kept,
                symlinks=True,
                ignore=lambda d, names: [n for n in names if stat.S_ISFIFO(os.lstat(Path(d) / n).st_mode)],
            )
            self.crashes[key] = {"where": key, "message": str(error)[:200], "input": str(kept)}
        return "crashes"


def warm_up(kind: Kind, folder: Path) -> None:
    """Read a few inputs uncounted, so that imports do not count as slow inputs."""
    import contextlib

    import numpy  # noqa: F401
    import torch  # noqa: F401

    import dcs_nas.models.build  # noqa: F401

    for seed in range(12):
        kind.make(Random(-1 - seed), fresh(folder))
        with contextlib.suppress(Exception):
            kind.read(folder)


def by_hypothesis(kind: Kind, inputs: int, seed: int, folder: Path, tally: Tally) -> None:
    """hypothesis draws a generator of random numbers for each input, which drives the changes."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    @seeded(seed)
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def one(rng: Random) -> None:
        kind.make(rng, fresh(folder))
        tally.run(kind, folder)

    one()


def by_atheris(kind: Kind, inputs: int, seed: int, folder: Path, tally: Tally) -> None:
    """Bytes of one file changed by libFuzzer, which keeps those that reach new code."""
    import atheris

    with atheris.instrument_imports(include=["dcs_nas", "yaml", "csv", "zipfile", "numpy.lib"]):
        import dcs_nas.config
        import dcs_nas.data.check
        import dcs_nas.evaluation
        import dcs_nas.runs
        import dcs_nas.space  # noqa: F401
    corpus = folder.parent / "corpus"
    corpus.mkdir()
    names: Counter[str] = Counter()
    for i in range(60):
        kind.make(Random(seed + i), fresh(folder))
        for file in (f for f in folder.rglob("*") if f.is_file() and f.stat().st_size):
            names[file.relative_to(folder).as_posix()] += 1
            (corpus / f"{i}_{file.name}").write_bytes(file.read_bytes())
    (name,) = [n for n, _ in names.most_common() if n.endswith((".yaml", ".npz"))][:1]

    def one(data: bytes) -> None:
        if sum(tally.counts.values()) >= inputs:
            tally.save()
            os._exit(0)
        (fresh(folder) / "overrides").touch()
        (folder / name).write_bytes(data)
        tally.run(kind, folder)

    flags = [
        f"-seed={seed + 1}",
        "-max_len=6000",
        "-rss_limit_mb=0",
        "-timeout=0",
        "-verbosity=0",
        "-print_final_stats=0",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


ATHERIS_KINDS = ("configurations", "genotypes", "search spaces", "features files")
ENGINES = {"hypothesis": by_hypothesis, "atheris": by_atheris}


def child(arguments: argparse.Namespace) -> None:
    """One kind, in this process, under its limits."""
    warnings.simplefilter("ignore")
    (kind,) = (k for k in KINDS if k.name == arguments.child)
    tally = Tally(arguments.json)
    folder = arguments.json.parent / "input"
    if arguments.engine == "hypothesis":
        warm_up(kind, folder)
    faulthandler.register(signal.SIGPROF, chain=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    ENGINES[arguments.engine](kind, arguments.inputs, arguments.seed, folder, tally)
    tally.save()


def fuzz(kind: Kind, arguments: argparse.Namespace) -> dict[str, Any]:
    """One kind in a process of its own; a process that dies counts as a crash, and another one does the rest."""
    total: dict[str, Any] = {
        "inputs": 0,
        "accepted": 0,
        "refused": 0,
        "crashes": 0,
        "slowest_s": 0.0,
        "seconds": 0.0,
        "places": [],
    }
    for attempt in range(10):
        with tempfile.TemporaryDirectory(dir=_quick_folder()) as temporary:
            result = Path(temporary) / "tally.json"
            line = [sys.executable, __file__, "--child", kind.name, "--json", str(result), "--engine", arguments.engine]
            line += ["--inputs", str(arguments.inputs - total["inputs"]), "--seed", str(arguments.seed + attempt)]
            done = subprocess.run(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace")
            found = json.loads(result.read_text()) if result.is_file() else {}
        for key in total:
            total[key] = (
                max(total[key], found.get(key, 0))
                if key == "slowest_s"
                else total[key] + found.get(key, type(total[key])())
            )
        total["seconds"] = round(total["seconds"], 1)
        if done.returncode:
            total["crashes"] += 1
            total["inputs"] += 1
            total["places"].append(
                {"where": f"the process ended with {done.returncode}", "message": done.stderr[-2500:]}
            )
        if total["inputs"] >= arguments.inputs:
            break
    return total


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        return child(arguments)
    from measure import write_json

    chosen = [k for k in KINDS if not arguments.kinds or any(k.name.startswith(n) for n in arguments.kinds)]
    if arguments.engine == "atheris":
        chosen = [k for k in chosen if k.name in ATHERIS_KINDS]
    results = {}
    row = "{:<16} {:>8} {:>9} {:>8} {:>8} {:>10} {:>9}"
    print(row.format("input kind", "inputs", "accepted", "refused", "crashes", "slowest s", "all s"), flush=True)
    for kind in chosen:
        found = results[kind.name] = fuzz(kind, arguments)
        values = [found[k] for k in ("inputs", "accepted", "refused", "crashes", "slowest_s", "seconds")]
        print(row.format(kind.name, *values), flush=True)
        for place in found["places"]:
            print(f"    {place}", flush=True)
        facts = {"engine": arguments.engine, "seed": arguments.seed, "limit_cpu_s": SECONDS, "limit_bytes": MEMORY}
        write_json(arguments.json, {"kinds": results, **facts})
    return None


def _quick_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="of each kind")
    parser.add_argument("--kinds", nargs="*", help="the first letters of some kinds")
    parser.add_argument("--engine", choices=ENGINES, default="hypothesis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
