"""Published training recipes beside a searched network, from scratch on synthetic people of 128 x 64 pixels.

    python benchmarks/recipes.py --seeds 0 1 2
    python benchmarks/recipes.py --recipes bot hacnn

One row a training, added to results/reference/recipes.csv when it ends; rows that are there are not repeated,
and an interrupted training resumes. Prints mean and standard deviation over the seeds.

Each recipe keeps its own head, losses, sampler, augmentation and optimizer (sources: see RECIPES). All have the same
images and 12 epochs, so that these are scaled: milestones, warm-up and the flat part of a schedule, by 12 over the
recipe's own epochs; the padding, from 10 pixels to 5, as the images from 256 x 128; the rate of Adam, to 0.002 for all
who use it, as in configs/attention_blocks.yaml, since theirs are for long trainings from ImageNet weights. Small bodies
stand for large ones: resnet10_small for ResNet-50 (so SBS is without IBN), MSINet at a quarter of its widths, OSNet of
width 0.25; HA-CNN is whole. The backbone of SBS, untrained here, is not frozen at first. Ours are the cells that the
search of the demo found (results/reference/demo.json), 12 channels wide, trained by BoT's recipe.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from dcs_nas.config import Config, make_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.environment import describe_environment
from dcs_nas.files import write_text
from dcs_nas.models.flops import count
from dcs_nas.runs import RunFolder
from dcs_nas.space import Genotype, SpaceReference, find_shipped_file, load_space
from dcs_nas.training.evaluate import evaluate_run, load_trained
from dcs_nas.training.retrain_job import run_retraining

EPOCHS = 12
SIZE = {"height": 128, "width": 64}
PEOPLE = SyntheticSettings(train_identities=80, test_identities=100, **SIZE)
BASE: dict[str, Any] = {
    "data": {"name": "synthetic", **SIZE, "identities_per_batch": 16, "images_per_identity": 4},
    "augment": {"flip": 0.5, "pad": 5, "erase": 0.5},
    "retrain": {"epochs": EPOCHS},
    "trainer": {"accelerator": "cpu", "threads": 1, "loggers": []},
}
ADAM = {"optimizer": "adam", "lr": 0.002, "weight_decay": 0.0005}
# fast-reid's BoT: 120 epochs, steps at 40 and 90, warm-up from a tenth (2,000 steps; here a tenth of the epochs)
BOT = {**ADAM, "schedule": "multistep", "milestones": (4, 9), "warmup_epochs": 1.2, "warmup_factor": 0.1}
# 350 epochs, SGD 0.065, steps at 150, 225 and 300: Zhou et al., arXiv 1905.00953, section 4.1, and MSINet's code
FROM_SCRATCH = {
    "optimizer": "sgd", "lr": 0.065, "weight_decay": 0.0005, "schedule": "multistep", "milestones": (5, 8, 10),
}  # fmt: skip
SOFT_MARGIN = {"triplet_margin": None}
RECIPES: dict[str, dict[str, Any]] = {
    # fast-reid, BoT: features before the neck
    "bot": {"retrain": {**BOT, "backbone": "resnet10_small"}, "evaluate": {"neck": "before"}},
    # fast-reid, AGW: non-local blocks, GeM of p 3, weighted soft-margin triplet; features before the neck
    "agw": {
        "retrain": {
            **BOT,
            "backbone": "resnet10_small",
            "backbone_options": {"attention": "nonlocal", "attention_stages": ["layer2", "layer3"]},
            "head": {"pool": "gem_fixed"},
        },
        "loss": {**SOFT_MARGIN, "triplet_mining": "weighted"},
        "evaluate": {"neck": "before"},
    },
    # fast-reid, SBS: 60 epochs, flat for 30, then a cosine to 7e-7; K 16, circle softmax, soft-margin hard triplet
    "sbs": {
        "data": {"identities_per_batch": 4, "images_per_identity": 16},
        "augment": {"policy": "autoaugment", "policy_probability": 0.1},
        "retrain": {
            **ADAM,
            "schedule": "cosine",
            "flat_epochs": 6,
            "lr_min": 7e-7,
            "warmup_epochs": 1.2,
            "warmup_factor": 0.1,
            "backbone": "resnet10_small",
            "backbone_options": {"attention": "nonlocal", "attention_stages": ["layer2", "layer3"]},
            "head": {"pool": "gem", "classifier": "circle", "scale": 64, "margin": 0.35},
        },
        "loss": SOFT_MARGIN,
        "evaluate": {"neck": "before"},
    },
    # MSINet from scratch: warm-up over 10 epochs; its features are compared before the neck
    "msinet": {
        "retrain": {
            **FROM_SCRATCH,
            "warmup_epochs": 0.34,
            "backbone": "msinet",
            "backbone_options": {"channels": (32, 64, 96, 128)},
        },
        "evaluate": {"neck": "before"},
    },
    # torchreid's HA-CNN: softmax loss alone, shuffled images, flip and translation, no neck
    "hacnn": {
        "data": {"sampler": "shuffle"},
        "augment": {"pad": 0, "erase": 0.0, "translate": 0.5},
        "loss": {"triplet_weight": 0.0},
        "retrain": {
            **ADAM,
            "schedule": "constant",
            "warmup_epochs": 0,
            "backbone": "hacnn",
            "head": {"neck": False, "classifier": "biased"},
        },
    },
    # arXiv 1905.00953, section 4.1: softmax loss with label smoothing alone
    "osnet": {
        "data": {"sampler": "shuffle"},
        "loss": {"triplet_weight": 0.0},
        "retrain": {
            **FROM_SCRATCH,
            "warmup_epochs": 0,
            "backbone": "osnet_x0_25",
            "head": {"neck": False, "classifier": "biased"},
        },
    },
    "ours": {"retrain": {**BOT, "channels": 12}, "evaluate": {"neck": "before"}},
}
COLUMNS = ("recipe", "seed", "mAP", "rank1", "mINP", "parameters", "multiply_adds", "cpu_minutes")


def main() -> None:
    arguments = _arguments()
    data = arguments.work / "data"
    if not data.is_dir():
        write_synthetic(data, settings=PEOPLE, workers=1)
    for seed in arguments.seeds:
        for name in arguments.recipes:
            rows = read_rows(arguments.out)
            if (name, str(seed)) not in {(row["recipe"], row["seed"]) for row in rows}:
                row = _train(name, seed, data, arguments.work)
                print(", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr, flush=True)
                write_text(arguments.out, _table([*rows, row]))
    for name in RECIPES:
        maps = [float(row["mAP"]) for row in read_rows(arguments.out) if row["recipe"] == name]
        if len(maps) > 1:
            print(f"{name}: mAP {statistics.mean(maps):.1f} +- {statistics.stdev(maps):.1f}, {len(maps)} seeds")


def recipe(name: str, seed: int, data: Path, work: Path) -> Config:
    """Return the settings of one training."""
    sections = {key: {**BASE.get(key, {}), **RECIPES[name].get(key, {})} for key in (*BASE, *RECIPES[name])}
    sections["data"] |= {"root": str(data)}
    return make_config({"name": name, "seed": seed, "results": str(work), **sections}, source=f"recipe {name}")


def searched_cells() -> Genotype:
    """Return the genotype of the demo's search, as results/reference/demo.json holds it."""
    cells = json.loads((Path(__file__).parents[1] / "results" / "reference" / "demo.json").read_text())["cells"]
    space = load_space(find_shipped_file("search_spaces", "demo_cells"))
    return Genotype(space=SpaceReference.of(space, space.name), network=space.network(**SIZE), cells=cells)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of the table that is there."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def _train(name: str, seed: int, data: Path, work: Path) -> dict[str, Any]:
    folder = work / f"{name}-{seed}"
    genotype = work / "ours.yaml" if name == "ours" else None
    if genotype is not None:
        write_text(genotype, searched_cells().to_yaml())
    began = time.process_time()
    config = recipe(name, seed, data, work)
    run_retraining(config, folder, genotype=genotype, resume=RunFolder(folder).config_file.is_file())
    minutes = (time.process_time() - began) / 60
    report = evaluate_run(folder).report
    config, network = load_trained(folder)
    cost = count(network.backbone, config.data.height, config.data.width)
    percent = {"mAP": report["mAP"], "rank1": report["cmc"][0], "mINP": report["mINP"]}
    return {
        "recipe": name,
        "seed": seed,
        **{key: round(100 * value, 2) for key, value in percent.items()},
        "parameters": cost.parameters,
        "multiply_adds": cost.macs,
        "cpu_minutes": round(minutes, 1),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    versions = describe_environment()["versions"]
    text.write(
        f"# synthetic people, 128 x 64, {PEOPLE.train_identities} identities to train on, {PEOPLE.test_identities} "
        f"others to test on, {EPOCHS} epochs from scratch\n"
        "# python benchmarks/recipes.py --seeds 0 1 2; what is scaled: see its docstring\n"
        f"# torch {versions['torch']}, dcs_nas {versions['dcs_nas']}, one thread; mAP, rank1, mINP in percent, cosine "
        "distance; minutes of a resumed training are of its last part\n"
    )
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--work", type=Path, default=Path("results/recipes"))
    parser.add_argument("--out", type=Path, default=Path("results/reference/recipes.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
