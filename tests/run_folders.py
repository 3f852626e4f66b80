"""Run folders as searches and trainings leave them, made in an instant, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dcs_nas.config import Config
from dcs_nas.files import write_json
from dcs_nas.models.build import build_fixed
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.runs import RunFolder
from dcs_nas.space import AnyGenotype, Genotype, Origin, SpaceSpec

SPACE = SpaceSpec(
    name="tiny",
    cells=2,
    channels=4,
    nodes=2,
    reductions=(1,),
    operations=("none", "skip_connect", "sep_conv_3x3"),
    attention=("none", "dcs", "harmonious", "rga"),
)
SEARCH_COLUMNS = (
    "weights/loss", "architecture/loss", "weights/identity", "architecture/identity", "weights/ib", "architecture/ib",
    "lr", "tau", "relaxation_temperature", "dcs_kept", "entropy/normal", "entropy/reduce", "skips/normal",
    "skips/reduce", "guard/eigenvalue", "guard/gap", "validation/mAP", "validation/mAP_derived", "seconds",
)  # fmt: skip


def start_run(path: Path, config: Config, **options: bool) -> RunFolder:
    """Open a run folder and release its lock: a run that no job works on."""
    with RunFolder.open(path, config, **options) as run:
        return run


def foreign_names(folder: Path) -> set[str]:
    """The names in a run folder that would stay where the run is replaced or deleted."""
    return {path.name for path in folder.iterdir()} - {path.name for path in RunFolder(folder).parts()} - {".lock"}


def config(root: Path, *, name: str = "tiny", **sections: Any) -> Config:
    """Settings for the tiny data set in ``root``."""
    data = {"name": "market1501", "root": root, "height": 32, "width": 16, "cache": root.parent / "cache"}
    trainer = {"accelerator": "cpu", "threads": 1}
    return Config.model_validate({"name": name, "data": data, "trainer": trainer, **sections})


def genotypes(count: int, *, seed: int = 0) -> list[Genotype]:
    """Random genotypes of the tiny space, each other than the one before."""
    random = np.random.default_rng(seed)
    network = SPACE.network(32, 16)
    origin = Origin(data="synthetic", seed=1, epoch=count - 1, method="darts, order 1")
    found: list[Genotype] = []
    while len(found) < count:
        drawn = CellKind().random_genotype(SPACE, network, random, origin=origin)
        if not found or drawn.cells != found[-1].cells:
            found.append(drawn)
    return found


def weights(seed: int) -> dict[str, list[list[float]]]:
    """Mixture weights of the tiny space: 5 edges of 3 candidates and 4 of attention, for both kinds of cell."""
    random = np.random.default_rng(seed)
    shapes = {"normal": (5, 3), "normal_attention": (1, 4), "reduce": (5, 3), "reduce_attention": (1, 4)}
    return {name: random.dirichlet(np.ones(columns), rows).tolist() for name, (rows, columns) in shapes.items()}


def write_record(folder: Path, epoch: int, genotype: AnyGenotype, mixture: dict[str, list[list[float]]]) -> None:
    """``architecture/epoch_NNN.yaml``."""
    names = {"operations": SPACE.operations, "attention": SPACE.attention}
    RunFolder(folder).write_epoch(epoch, genotype, names=names, weights=mixture)


def write_metrics(folder: Path, columns: tuple[str, ...], epochs: int) -> None:
    """Random figures in every column."""
    random = np.random.default_rng(0)
    run = RunFolder(folder)
    for epoch in range(epochs):
        run.write_metrics(epoch, dict(zip(columns, random.random(len(columns)).tolist())))


def searched(folder: Path, root: Path, *, epochs: int = 3) -> Path:
    """The folder of a finished search."""
    run = start_run(folder, config(root, search={"strategy": "bilevel", "space": "demo_cells", "epochs": epochs}))
    found = genotypes(epochs)
    for epoch, genotype in enumerate(found):
        write_record(folder, epoch, genotype, weights(epoch))
    write_metrics(folder, SEARCH_COLUMNS, epochs)
    run.write_genotype(found[-1])
    write_json(run.data_file, {"name": "market1501", "version": "synthetic"})
    return folder


def trained(folder: Path, root: Path, *, attention: tuple[str, str] = ("dcs", "harmonious")) -> Path:
    """The folder of a finished training, with the random weights of a network of this attention, and its scores."""
    genotype = genotypes(1, seed=7)[0]
    cells = {
        kind: cell.model_copy(update={"attention": name})
        for (kind, cell), name in zip(genotype.cells.items(), attention, strict=True)
    }
    genotype = genotype.model_copy(update={"cells": cells})
    settings = config(root, retrain={"epochs": 3, "warmup_epochs": 1, "channels": 6})
    run = start_run(folder, settings)
    assert settings.retrain is not None
    network = build_fixed(settings.retrain, settings.data, 4, genotype)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    run.checkpoints.mkdir()
    torch.save({"state_dict": state}, run.checkpoint("last"))
    run.write_genotype(genotype)
    run.write_finished({"epochs": 3})
    write_metrics(folder, ("train/loss", "train/identity", "train/triplet", "lr", "tau"), 3)
    write_json(run.evaluation_file(), evaluation(0.5))
    write_json(run.evaluation_file("color-histogram"), evaluation(0.2, features="color-histogram"))
    return folder


def evaluation(score: float, **changes: Any) -> dict[str, Any]:
    """A report as ``dcs-nas evaluate`` writes it."""
    protocol = {"name": "cross_camera", "metric": "cosine", "repeats": 1, "average_precision": "hits", "rerank": None}
    report = {
        "mAP": score,
        "mINP": score / 2,
        "cmc": [min(1.0, score + 0.02 * k) for k in range(20)],
        "protocol": protocol,
        "queries": {"total": 12, "used": 12, "skipped": {"no_match": 0}},
        "gallery_size": 40,
        "confidence": None,
        "features": "network",
        "checkpoint": "last",
        "flip": False,
        "data": {"name": "market1501", "version": "synthetic"},
    }
    return json.loads(json.dumps({**report, **changes}))
