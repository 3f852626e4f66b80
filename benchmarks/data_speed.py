"""Does a network ever wait for its images? Images a second that the data give, and that search and training use.

    python benchmarks/data_speed.py --work results/data_speed --json results/reference/data_speed.json

Input: images a second of the memory-mapped cache alone, of the loader (P x K sampling, batches), and of the loader with
augmentation. Models: images a second of the network part (forward, backward, optimizers) of real runs of
configs/demo.yaml on synthetic people, and the shares of a step that are not the network's. One thread, on a clock of
its own processor time by default, so that other programs on the machine change little; --clock wall on a quiet machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timed_run import StepTimer, timed_by
from measure import CLOCKS, in_turn, write_json

from dcs_nas.config import Config, load_config
from dcs_nas.data.augment import build_augment
from dcs_nas.data.datamodule import ReidData
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.space import find_shipped_file
from dcs_nas.strategies.job import run_search
from dcs_nas.training.retrain_job import run_retraining


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    data = arguments.work / "data"
    if not data.is_dir():
        write_synthetic(data, settings=SyntheticSettings())
    given = _input(_config(arguments), arguments)
    used = _models(arguments)
    for name, speed in given.items():
        print(f"{name:28} {speed:12,.0f} images a second")
    for name, found in used.items():
        print(f"{name:28} {found['images_per_second']:12,.0f} images a second")
        print(
            "".join(f"    {part}: {100 * share:.1f} % of the step\n" for part, share in found["shares"].items()), end=""
        )
    ratios = {name: given["loader and augmentation"] / found["images_per_second"] for name, found in used.items()}
    print("the data are " + ", ".join(f"{r:.0f} times as fast as {name}" for name, r in ratios.items()))
    facts = {"config": arguments.config, "clock": arguments.clock, "threads": arguments.threads}
    write_json(arguments.json, {**facts, "input": given, "models": used, "ratios": ratios})


def _input(config: Config, arguments: argparse.Namespace) -> dict[str, float]:
    """Images a second of each stage of the input; the median of the epochs."""
    data, augment = ReidData(config), build_augment(config)
    images = data.train()
    loader = data.make_identity_loader(images, stream=0)
    batch = config.data.identities_per_batch * config.data.images_per_identity
    random = np.random.default_rng(0)
    rows = [np.sort(random.choice(len(images), batch, replace=False)) for _ in range(len(loader))]

    def cache() -> None:
        for indices in rows:
            np.array(images.pixels[indices])

    def loaded() -> None:
        for _ in loader:
            pass

    def augmented() -> None:
        for found in loader:
            augment(found["images"])

    stages: dict[str, Callable[[], None]] = {
        "cache": cache,
        "loader": loaded,
        "loader and augmentation": augmented,
    }
    seconds = in_turn(stages, arguments.repeats, CLOCKS[arguments.clock])
    return {name: batch * len(loader) / statistics.median(values) for name, values in seconds.items()}


def _models(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Images a second of the network part of a search and of a training run, both of two epochs and more."""
    runs = {"search": arguments.work / "search", "retrain": arguments.work / "retrain"}
    for folder in runs.values():
        shutil.rmtree(folder, ignore_errors=True)
    found = {}
    for name, folder in runs.items():
        timer = StepTimer(CLOCKS[arguments.clock])
        config = _config(arguments, f"{name}.epochs={arguments.epochs}")
        with timed_by(timer):
            if name == "search":
                run_search(config, folder)
            else:
                run_retraining(config, folder, genotype=runs["search"] / "genotype.yaml")
        found[name] = {
            "images_per_second": timer.images / timer.seconds["network"],
            "shares": timer.shares,
            "seconds": timer.seconds,
            "steps": timer.steps,
        }
    return found


def _config(arguments: argparse.Namespace, *overrides: str) -> Config:
    own = [f"data.root={arguments.work / 'data'}", f"results={arguments.work}", "trainer.accelerator=cpu"]
    own += [f"trainer.threads={arguments.threads}", "search.warmup_epochs=0", "search.guard.eigenvalue_iterations=0"]
    own += ["search.strategy=bilevel", "search.validation=0"]
    return load_config(find_shipped_file("configs", arguments.config), [*own, "retrain.warmup_epochs=0", *overrides])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--epochs", type=int, default=3, help="of search and training; the first one is not counted")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of the input")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    parser.add_argument("--work", type=Path, default=Path("results/data_speed"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
