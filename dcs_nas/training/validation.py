"""Retrieval among people held out of the training set. Nothing is ever chosen on the test set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from dcs_nas.config import EvaluateConfig
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.data.samplers import first_of_each_view
from dcs_nas.evaluation import score
from dcs_nas.training.features import extract_features, labelled_features


def validate(network: nn.Module, data: ReidData, images: Images, *, metric: str) -> float:
    """mAP of held-out people: the first image of each person and camera is a query, all images are the gallery.

    A query's own image is among those that the cross-camera protocol removes. Without a camera filter every image is a
    query, and its own image alone is removed: each counts as a camera of its own.
    """
    features = extract_features(network, data, images)
    views = images.cameras if data.camera_filter else np.arange(len(images))
    queries = first_of_each_view(images.labels, views)
    query = images.subset(queries.tolist())
    labelled = labelled_features(query, images, features[queries], features)
    labelled = replace(labelled, query_camids=views[queries], gallery_camids=views)
    return score(labelled, EvaluateConfig(metric=metric), protocol="cross_camera").result.mAP


def validation_is_due(epoch: int, every: int, epochs: int) -> bool:
    """Whether to validate after an epoch, from 0, of ``epochs``: after each ``every``-th, and after the last."""
    return (epoch + 1) % every == 0 or epoch + 1 == epochs
