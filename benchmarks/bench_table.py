"""Train every architecture of a small search space: the tables that ``dcs_nas.tabular`` reads.

    python benchmarks/bench_table.py bench_cells --workers 2

Each row is one training of configs/NAME.yaml with one seed on synthetic people, scored on people unseen in training:
all architectures with two seeds, a random 60 of them with five. --tiles trains the 60 with two seeds on drawn tiles in
place of people, into NAME_tiles.csv. Resumable: rows that --out holds are kept, each new one is appended when it is
done; the order is random, so that an unfinished table is a fair sample. A table continues only with the code,
configuration and space that began it: run the script of a worktree of the commit in its first lines, with --out. One
process a core, at low priority.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import measure
import torch
from scipy.stats import kendalltau

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.environment import describe_environment
from dcs_nas.errors import TrainingError
from dcs_nas.files import write_text
from dcs_nas.models.flops import count
from dcs_nas.processes import follow_parent
from dcs_nas.runs import read_metrics
from dcs_nas.space import find_shipped_file, load_space
from dcs_nas.space.architectures import architectures, decode
from dcs_nas.training.evaluate import evaluate_run, load_trained
from dcs_nas.training.retrain_job import run_retraining

SEEDS, NOISE_SEEDS, SAMPLED = (0, 1), (0, 1, 2, 3, 4), 60
DATA = {"train_identities": 120, "test_identities": 150}
COLUMNS = [
    *("architecture", "seed", "mAP", "rank1", "mINP", "validation_mAP", "half_mAP", "quarter_mAP"),
    *("parameters", "multiply_adds", "seconds"),
]
ROOT = Path(__file__).resolve().parents[1]
Task = tuple[str, int]


def main() -> None:
    arguments = _arguments()
    os.nice(arguments.nice)
    name, work = arguments.name, arguments.work
    if arguments.summary:
        _compare(name)
        return
    data = work / ("tiles" if arguments.tiles else "people")
    if not data.is_dir():
        write_synthetic(data, settings=SyntheticSettings(subject=data.name, **DATA))
    out = arguments.out or ROOT / f"results/reference/{name}{'_tiles' if arguments.tiles else ''}.csv"
    tasks = _tasks(name, tiles=arguments.tiles)
    _begin(out, name, len(tasks), tiles=arguments.tiles)
    lock = out.open("rb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"{out} is being filled by another process; use its --workers for more cores") from None
    done = {(row["architecture"], int(row["seed"])) for row in read_rows(out)}
    missing = [task for task in tasks if task not in done][: arguments.rows]
    print(f"{out}: {len(done)} of {len(tasks)} rows are there, training {len(missing)}", flush=True)
    began = time.time()
    for number, row in enumerate(_trained(missing, name, data, work, arguments.workers), start=1):
        with out.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        left = (time.time() - began) / number * (len(missing) - number) / 3600
        print(f"{number}/{len(missing)}, {left:.1f} h left: {row}", flush=True)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a table; a line that an interruption cut short is dropped."""
    return [row for row in measure.read_rows(path) if row["seconds"]]


def _compare(name: str) -> None:
    """Print how far the ranking of the sixty on tiles agrees with that on people, and each with its other seed."""
    on_tiles, on_people = (_scores(ROOT / f"results/reference/{name}{end}.csv") for end in ("_tiles", ""))
    on_tiles = {text: by_seed for text, by_seed in on_tiles.items() if set(SEEDS) <= set(by_seed)}
    if len(on_tiles) < 2:
        raise SystemExit(f"{name}_tiles.csv has no two architectures with seeds {SEEDS} yet; train them by --tiles")
    mean = {
        subject: [statistics.mean(scores[text][seed] for seed in SEEDS) for text in on_tiles]
        for subject, scores in (("tiles", on_tiles), ("people", on_people))
    }
    tau = lambda a, b: kendalltau(a, b).statistic  # noqa: E731
    print(f"{name}, {len(on_tiles)} architectures: tau of people and tiles {tau(mean['people'], mean['tiles']):.2f}")
    for subject, scores in (("people", on_people), ("tiles", on_tiles)):
        by_seed = [[scores[text][seed] for text in on_tiles] for seed in SEEDS]
        lowest, highest = min(mean[subject]), max(mean[subject])
        print(f"{subject}: tau of two seeds {tau(*by_seed):.2f}, mAP {lowest:.1f} to {highest:.1f}")
    texts = list(on_tiles)
    blocks = [set(re.findall(r"\+(\w+)", text)) - {"none"} for text in texts]
    for block in [None, *sorted(set().union(*blocks))]:
        own = [i for i, found in enumerate(blocks) if (block in found if block else not found)]
        values = [f"{subject} {statistics.mean(mean[subject][i] for i in own):.1f}" for subject in mean]
        print(f"{f'with {block}' if block else 'no attention'}: {', '.join(values)}, {len(own)} architectures")
    best = max(range(len(texts)), key=lambda i: mean["people"][i])
    rank = sum(score > mean["tiles"][best] for score in mean["tiles"]) + 1
    print(f"the best on people, {texts[best]}, is number {rank} on tiles")


def _scores(path: Path) -> dict[str, dict[int, float]]:
    scores: dict[str, dict[int, float]] = {}
    for row in read_rows(path):
        scores.setdefault(row["architecture"], {})[int(row["seed"])] = float(row["mAP"])
    return scores


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["bench_cells", "bench_chain"])
    parser.add_argument("--tiles", action="store_true", help="the second data set: patterned tiles")
    parser.add_argument("--summary", action="store_true", help="compare the ranking on tiles with that on people")
    parser.add_argument("--workers", type=int, default=1, help="processes, one a core")
    parser.add_argument("--rows", type=int, help="stop after so many")
    parser.add_argument("--nice", type=int, default=10, help="added to the processes' niceness")
    parser.add_argument("--work", type=Path, default=ROOT / "results/bench")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _tasks(name: str, *, tiles: bool) -> list[Task]:
    """The noise sample first, then all others, each seed after seed in one random order."""
    config, space = _config(name), load_space(find_shipped_file("search_spaces", name))
    all_of_them = architectures(space, config.data.height, config.data.width)
    random.Random(0).shuffle(all_of_them)
    sample, rest = all_of_them[:SAMPLED], all_of_them[SAMPLED:]
    if tiles:
        return [(text, seed) for seed in SEEDS for text in sample]
    return [(text, s) for s in NOISE_SEEDS for text in sample] + [(text, s) for text in rest for s in SEEDS]


def _begin(out: Path, name: str, rows: int, *, tiles: bool) -> None:
    """Write the head of a new table, or check that the one there was begun with the same code and settings."""
    own = f"# code, configuration and space: {_fingerprint(name)}"
    if out.is_file():
        head = [line for line in out.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        if own not in head:
            commit = next((line for line in head if line.startswith("# commit")), "# no commit named")
            raise SystemExit(
                f"{out} was begun with other code or settings ({commit[2:]}); continue it with those: "
                f"git worktree add DIR COMMIT; python DIR/benchmarks/bench_table.py {name} --out {out}"
            )
        if not out.read_text(encoding="utf-8").endswith("\n"):  # a row that was cut short
            write_text(out, out.read_text(encoding="utf-8").rpartition("\n")[0] + "\n")
        return
    stamp = describe_environment(threads=1)
    versions = ", ".join(f"{package} {version}" for package, version in stamp["versions"].items())
    subject = "tiles" if tiles else "people"
    head = [
        f"# all architectures of search_spaces/{name}.yaml, each trained by configs/{name}.yaml; {rows} rows",
        f"# python benchmarks/bench_table.py {name}{' --tiles' if tiles else ''}",
        f"# synthetic {subject}: {', '.join(f'{key} {value}' for key, value in DATA.items())}, seed 0",
        "# mAP, rank-1, mINP in percent, cosine distance, cross-camera; validation, half, quarter: mAP of identities",
        "# held out after all, half and a quarter of the epochs; seconds: processor time of training, one thread",
        f"# commit {stamp['git']}; {versions}",
        own,
        ",".join(COLUMNS),
    ]
    write_text(out, "\n".join(head) + "\n")


def _fingerprint(name: str) -> str:
    """Twelve hex digits of everything that a row depends on but the versions of other packages."""
    files = [
        *sorted((ROOT / "dcs_nas").rglob("*.py")),
        ROOT / f"configs/{name}.yaml",
        ROOT / f"search_spaces/{name}.yaml",
    ]
    digest = hashlib.sha256(repr(DATA).encode())
    for file in files:
        digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _trained(tasks: list[Task], name: str, data: Path, work: Path, workers: int) -> Iterator[dict[str, Any]]:
    """Rows in the order in which they are done, ``workers`` at a time."""
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=follow_parent) as pool:
        running = set()
        for task in tasks:
            running.add(pool.submit(train, *task, name, data, work))
            if len(running) > workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in wait(running).done)


def _config(name: str, *overrides: str) -> Config:
    return load_config(find_shipped_file("configs", name), ["trainer.loggers=[]", *overrides])


def train(text: str, seed: int, name: str, data: Path, work: Path) -> dict[str, Any]:
    """Return the row of an architecture trained with a seed: its scores and its seconds of processor time."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        run = Path(folder) / "run"
        own = [f"seed={seed}", f"data.root={data}", f"data.cache={work / 'cache'}", f"results={folder}"]
        config = _config(name, *own)
        size = config.data.height, config.data.width
        genotype = Path(folder) / "genotype.yaml"
        write_text(genotype, decode(text, load_space(find_shipped_file("search_spaces", name)), *size).to_yaml())
        began = time.process_time()
        try:
            run_retraining(config, run, genotype=genotype)
        except TrainingError as error:
            raise SystemExit(f"{text}, seed {seed}: {error}") from None
        seconds = time.process_time() - began
        report = evaluate_run(run).report
        curve = {row["epoch"] + 1: row.get("validation/mAP") for row in read_metrics(run / "metrics.csv")}
        epochs = config.section("retrain").epochs
        cost = count(load_trained(run)[1].backbone, *size)
    percent = {"mAP": report["mAP"], "rank1": report["cmc"][0], "mINP": report["mINP"]}
    percent |= {f"{part}_mAP": curve[epochs // k] for part, k in (("validation", 1), ("half", 2), ("quarter", 4))}
    return {
        "architecture": text,
        "seed": seed,
        **{key: f"{100 * value:.3f}" for key, value in percent.items()},
        "parameters": cost.parameters,
        "multiply_adds": cost.macs,
        "seconds": f"{seconds:.1f}",
    }


if __name__ == "__main__":
    main()
