"""Published training recipes beside a searched network, from scratch on synthetic people of 128 x 64 pixels.

    python benchmarks/recipes.py --seeds 0 1 2
    python benchmarks/recipes.py --recipes bot hacnn

One row a training, added to results/reference/recipes.csv when it ends; rows that are there are not repeated,
and an interrupted training resumes. Prints mean and standard deviation over the seeds.

Each recipe is the configuration of RECIPES: its head, losses, sampler, augmentation, optimizer and evaluation. All have
the same images and 12 epochs, so that milestones, warm-up and the flat part of a schedule are scaled by 12 over the
recipe's own epochs (2,000 steps are 10 epochs of Market-1501), and the padding to that of images half as high. Nothing
is frozen, as nothing is pretrained; the rate of Adam, published for fine-tuning, is 0.002 as in
configs/attention_blocks.yaml, and OSNet trains by its schedule from scratch (arXiv 1905.00953, section 4.1). Small
bodies stand for large ones: resnet10_small for ResNet-50, with a non-local block after its second and third stage for
AGW's and without IBN for SBS, MSINet at a quarter of its widths, OSNet of width 0.25; HA-CNN is whole. Ours are the
cells that the search of the demo found (results/reference/demo.json), 12 channels wide, trained by BoT's recipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from measure import append_row, begin_table, read_rows

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.files import write_text
from dcs_nas.models.flops import count
from dcs_nas.runs import RunFolder
from dcs_nas.space import Genotype, SpaceReference, find_shipped_file, load_space
from dcs_nas.training.evaluate import evaluate_run, load_trained
from dcs_nas.training.retrain_job import run_retraining

EPOCHS = 12
SIZE = {"height": 128, "width": 64}
PEOPLE = SyntheticSettings(train_identities=80, test_identities=100, **SIZE)
BODY = "retrain.backbone=resnet10_small"
NON_LOCAL = "retrain.backbone_options={attention: nonlocal, attention_stages: [layer2, layer3]}"
# 350 epochs, SGD 0.065, steps at 150, 225 and 300: arXiv 1905.00953, section 4.1
FROM_SCRATCH = [
    "retrain.optimizer=sgd", "retrain.amsgrad=false", "retrain.lr=0.065", "retrain.epochs=350",
    "retrain.milestones=[150, 225, 300]",
]  # fmt: skip
RECIPES: dict[str, tuple[str, list[str]]] = {  # configuration, and what replaces its body
    "bot": ("bot_r50", [BODY, "retrain.backbone_options={}"]),
    "agw": ("agw_r50", [BODY, NON_LOCAL]),
    "sbs": ("sbs_r50_ibn", [BODY, NON_LOCAL]),
    "msinet": ("msinet_scratch", ["retrain.backbone_options={channels: [32, 64, 96, 128]}"]),
    "hacnn": ("hacnn_market1501", []),
    "osnet": ("osnet", ["retrain.backbone=osnet_x0_25", *FROM_SCRATCH]),
    "ours": ("bot_r50", ["retrain.backbone=null", "retrain.backbone_options={}", "retrain.channels=12"]),
}
ADAM_RATE, STEPS_OF_AN_EPOCH = 0.002, 202  # the steps of Market-1501: 12,936 images in batches of 64
COLUMNS = ("recipe", "seed", "mAP", "rank1", "mINP", "parameters", "multiply_adds", "cpu_minutes")


def main() -> None:
    arguments = _arguments()
    data = arguments.work / "data"
    if not data.is_dir():
        write_synthetic(data, settings=PEOPLE, workers=1)
    if not arguments.out.is_file():
        notes = [
            f"synthetic people, 128 x 64, {PEOPLE.train_identities} identities to train on, {PEOPLE.test_identities} "
            f"others to test on, {EPOCHS} epochs from scratch",
            "mAP, rank1, mINP in percent; minutes of a resumed training are of its last part",
        ]
        begin_table(arguments.out, "python benchmarks/recipes.py", notes, COLUMNS)
    for seed in arguments.seeds:
        for name in arguments.recipes:
            rows = read_rows(arguments.out)
            if (name, str(seed)) not in {(row["recipe"], row["seed"]) for row in rows}:
                row = _train(name, seed, data, arguments.work)
                print(", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr, flush=True)
                append_row(arguments.out, COLUMNS, row)
    for name in RECIPES:
        maps = [float(row["mAP"]) for row in read_rows(arguments.out) if row["recipe"] == name]
        if len(maps) > 1:
            print(f"{name}: mAP {statistics.mean(maps):.1f} +- {statistics.stdev(maps):.1f}, {len(maps)} seeds")


def recipe(name: str, seed: int, data: Path, work: Path) -> Config:
    """Return the settings of one training."""
    shipped, body = RECIPES[name]
    own = ["retrain.weights=null", *body]
    config = load_config(find_shipped_file("configs", shipped), own)
    settings, share = config.section("retrain"), EPOCHS / config.section("retrain").epochs
    warmup = settings.warmup_steps / STEPS_OF_AN_EPOCH if settings.warmup_steps else settings.warmup_epochs
    scaled: dict[str, Any] = {
        "name": name, "seed": seed, "results": work, "trainer": "{accelerator: cpu, threads: 1, loggers: []}",
        "data.name": "synthetic", "data.root": data, "data.height": SIZE["height"], "data.width": SIZE["width"],
        "augment.pad": config.augment.pad // 2,
        "retrain.epochs": EPOCHS, "retrain.freeze_epochs": 0, "retrain.freeze_steps": 0, "retrain.warmup_steps": 0,
        "retrain.warmup_epochs": round(warmup * share, 2), "retrain.flat_epochs": settings.flat_epochs * share,
        "retrain.milestones": [max(1, round(epoch * share)) for epoch in settings.milestones],
    }  # fmt: skip
    if settings.optimizer == "adam":
        scaled["retrain.lr"] = ADAM_RATE
    return load_config(find_shipped_file("configs", shipped), [*own, *(f"{k}={v}" for k, v in scaled.items())])


def searched_cells() -> Genotype:
    """Return the genotype of the demo's search, as results/reference/demo.json holds it."""
    cells = json.loads((Path(__file__).parents[1] / "results" / "reference" / "demo.json").read_text())["cells"]
    space = load_space(find_shipped_file("search_spaces", "demo_cells"))
    return Genotype(space=SpaceReference.of(space, space.name), network=space.network(**SIZE), cells=cells)


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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--work", type=Path, default=Path("results/recipes"))
    parser.add_argument("--out", type=Path, default=Path("results/reference/recipes.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
