"""Retrieval among people held out of the training set. Nothing is ever chosen on the test set."""

from __future__ import annotations

import numpy as np
from torch import nn

from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.errors import InputError
from dcs_nas.evaluation.scoring import score
from dcs_nas.training.features import extract_features, labelled_features


def validate(network: nn.Module, data: ReidData, images: Images, *, metric: str) -> float:
    """mAP of held-out people: the first image of each person and camera is a query, all images are the gallery.

    A query's own image is among those that the cross-camera protocol removes.
    """
    features = extract_features(network, data, images)
    queries = first_of_each_view(images.labels, images.cameras)
    query = images.subset(queries.tolist())
    labelled = labelled_features(query, images, features[queries], features)
    return score(labelled, protocol="cross_camera", metric=metric).mAP


def validation_is_due(epoch: int, every: int, epochs: int) -> bool:
    """Whether to validate after an epoch, from 0, of ``epochs``: after each ``every``-th, and after the last."""
    return (epoch + 1) % every == 0 or epoch + 1 == epochs


def first_of_each_view(people: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Index of the first image of every (person, camera), for people seen by two cameras or more."""
    views, first = np.unique(np.stack([people, cameras]), axis=1, return_index=True)
    person, count = np.unique(views[0], return_counts=True)
    queries = first[np.isin(views[0], person[count > 1])]
    if not len(queries):
        raise InputError(
            "no one held out is seen by two cameras; raise the share of people held out "
            "(retrain.validation or search.trials.validation)"
        )
    return np.sort(queries)
