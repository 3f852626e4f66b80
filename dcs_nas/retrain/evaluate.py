"""The evaluation job: a trained run and a data set in, scores out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dcs_nas.config import Config
from dcs_nas.data.cache import Progress
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.errors import InputError, choices
from dcs_nas.evaluation import FeatureSet, RankingResult
from dcs_nas.evaluation.scoring import score
from dcs_nas.retrain.retrain import load_trained
from dcs_nas.runs import environment
from dcs_nas.training.features import color_histograms, extract_features, labelled_features

FEATURES = ("network", "color-histogram", "color-histogram-corrected")


@dataclass(frozen=True)
class Evaluation:
    """Scores and what they were measured on."""

    result: RankingResult
    query: Images
    gallery: Images
    features: FeatureSet
    report: dict[str, Any]


def evaluate_run(
    folder: Path,
    *,
    data_name: str | None = None,
    root: Path | None = None,
    checkpoint: str = "last",
    rerank: bool = False,
    flip: bool = False,
    features: str = "network",
    progress: Callable[[str], Progress] | None = None,
) -> Evaluation:
    """Score a trained run on its own data set, or on another one (cross-domain).

    ``features`` is ``network``, or one of the baselines that know clothing colours alone: ``color-histogram`` and
    ``color-histogram-corrected`` (colour cast removed).
    Raises ``InputError`` for a folder that holds no trained run, and for bad data.
    """
    if features not in FEATURES:
        raise InputError(f"unknown features '{features}'; {choices(features, FEATURES)}")
    config, network = load_trained(folder, checkpoint=checkpoint)
    data = ReidData(_on_data(config, data_name, root), progress=progress)
    query, gallery = data.test()
    if features == "network":
        network.to("cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu")
        bars = [progress(f"features of the {part}") if progress else None for part in ("queries", "gallery")]
        metric = config.evaluate.metric
        of_query, of_gallery = (
            extract_features(network, data, images, flip=flip, progress=bar)
            for images, bar in zip((query, gallery), bars)
        )
    else:
        corrected = features == "color-histogram-corrected"
        of_query, of_gallery = (color_histograms(images, corrected=corrected) for images in (query, gallery))
        metric = "euclidean"
    labelled = labelled_features(query, gallery, of_query, of_gallery)
    result = score(
        labelled,
        protocol=data.dataset.protocol,
        metric=metric,
        rerank=rerank,
        max_rank=config.evaluate.max_rank,
    )
    facts = {
        "features": features,
        "run": folder.name,
        "checkpoint": checkpoint,
        "flip": flip,
        "seed": config.seed,
        "data": data.dataset.statistics(),
        "trained_on": config.data.name,
        **environment(),
    }
    return Evaluation(result, query, gallery, labelled, {**result.to_dict(), **facts})


def _on_data(config: Config, name: str | None, root: Path | None) -> Config:
    """The run's settings, on the data set asked for."""
    if name is None and root is None:
        return config
    own = name is None or name == config.data.name
    changes = {
        "name": name or config.data.name,
        "root": root or config.data.root,
        "options": config.data.options if own else {},
    }
    if not own and root is None:
        raise InputError(f"--data {name} needs --root, the folder of that data set")
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})
