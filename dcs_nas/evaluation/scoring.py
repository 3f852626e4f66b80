"""Scores of features by the section ``evaluate``: with query expansion, re-ranking, or neither.

Shapes: Q queries, G gallery images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcs_nas.config import EvaluateConfig
from dcs_nas.errors import InputError
from dcs_nas.evaluation.distances import DistanceBlocks, FeatureDistances, MatrixDistances
from dcs_nas.evaluation.features import LABEL_KEYS, FeatureSet, as_matrix
from dcs_nas.evaluation.matching import JUNK
from dcs_nas.evaluation.ranking import rank_distances
from dcs_nas.evaluation.rerank import average_query_expansion, rerank
from dcs_nas.evaluation.result import RankingResult
from dcs_nas.settings import parse

log = logging.getLogger(__name__)
_RERANKING = ("rerank_k1", "rerank_k2", "rerank_lambda")


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores, their distances, and the intervals of ``RankingResult.confidence`` if requested."""

    result: RankingResult
    distances: DistanceBlocks
    confidence: dict[str, Any] | None

    def report(self) -> dict[str, Any]:
        """Return all scores, ready for JSON."""
        return {**self.result.to_dict(), "confidence": self.confidence}


def apply_changes(own: EvaluateConfig, changes: Mapping[str, Any]) -> EvaluateConfig:
    """Return ``own`` with ``changes``.

    Raises:
        InputError: an unknown setting, a wrong value, or one that belongs to a step that is off.
    """
    settings = parse(EvaluateConfig, {**own.model_dump(), **changes}, source="evaluation settings")
    unused = [key for key in _RERANKING if key in changes]
    if unused and not settings.rerank:
        raise InputError(f"{', '.join(unused)} given, but re-ranking is off; add --rerank, or leave them out")
    if "expand_alpha" in changes and not settings.expand:
        raise InputError("expand_alpha given, but query expansion is off; add --expand K, or leave it out")
    return settings


def get_settings(features: FeatureSet, *, metric: str) -> EvaluateConfig:
    """Return the settings by which ``features`` were evaluated; if none are recorded, the defaults and ``metric``."""
    own = {"metric": metric} if features.evaluated is None else features.evaluated["settings"]
    return parse(EvaluateConfig, own, source="evaluation settings")


def score(
    features: FeatureSet, settings: EvaluateConfig, *, protocol: str, device: torch.device | str | None = None
) -> Scores:
    """Return the CMC, mAP and mINP of ``features``; ``protocol`` is used if the settings name none.

    A warning is logged if query images are in the gallery too and the protocol does not remove them.
    """
    protocol = settings.protocol or protocol
    if protocol == "no_camera_filter" and features.query_paths is not None and features.gallery_paths is not None:
        repeated = int(np.isin(features.query_paths, features.gallery_paths).sum())
        if repeated:
            message = "%d query images are gallery images too, and protocol %s does not remove them"
            log.warning(message, repeated, protocol)
    labels = {name: getattr(features, name) for name in LABEL_KEYS}
    scores = _score(compute_distances(features, settings, device=device), labels, settings, protocol)
    if not settings.expand:
        return scores
    method = {"method": "average query expansion", "neighbours": settings.expand, "alpha": settings.expand_alpha}
    return replace(scores, result=replace(scores.result, protocol=replace(scores.result.protocol, expansion=method)))


def score_matrix(matrix: np.ndarray, labels: Mapping[str, Any], settings: EvaluateConfig) -> Scores:
    """Return the scores of distances (Q, G); ``labels`` are the four arguments of ``rank_distances`` by name."""
    return _score(MatrixDistances(matrix), labels, settings, settings.protocol or "cross_camera")


def _score(distances: DistanceBlocks, labels: Mapping[str, Any], settings: EvaluateConfig, protocol: str) -> Scores:
    result = rank_distances(
        distances, **labels, protocol=protocol, max_rank=settings.max_rank, average_precision=settings.average_precision
    )
    return Scores(result, distances, result.confidence(resamples=settings.confidence) if settings.confidence else None)


def compute_distances(
    features: FeatureSet, settings: EvaluateConfig, *, device: torch.device | str | None = None
) -> DistanceBlocks:
    """Return the distances (Q, G), computed by blocks, after query expansion and re-ranking where they are set.

    Junk (identity -1) is no image's neighbour in either step. ``device`` is the CPU by default.
    """
    query = as_matrix("query_features", features.query_features, device)
    gallery = as_matrix("gallery_features", features.gallery_features, device)
    if settings.expand:
        query, gallery = _expand(query, gallery, features.gallery_pids, settings)
    if not settings.rerank:
        return FeatureDistances(query, gallery, metric=settings.metric)
    return rerank(
        query,
        gallery,
        k1=settings.rerank_k1,
        k2=settings.rerank_k2,
        weight=settings.rerank_lambda,
        metric=settings.metric,
        gallery_pids=features.gallery_pids,
    )


def require_neighbours(expand: int, images: int) -> None:
    """Raise ``InputError`` where the gallery has fewer than the ``expand`` images that query expansion averages."""
    if expand > images:
        raise InputError(f"expand is {expand}; expected at most {images}, the images of the gallery without junk")


def _expand(
    query: Tensor, gallery: Tensor, gallery_pids: np.ndarray, settings: EvaluateConfig
) -> tuple[Tensor, Tensor]:
    """Expand both sides by ``average_query_expansion`` without junk, whose gallery features become 0."""
    valid = torch.as_tensor(np.flatnonzero(gallery_pids != JUNK), device=gallery.device)
    require_neighbours(settings.expand, len(valid))
    options: Any = {"neighbours": settings.expand, "alpha": settings.expand_alpha}
    if len(valid) == len(gallery):
        return average_query_expansion(query, gallery, **options)
    expanded, normalised = average_query_expansion(query, gallery[valid], **options)
    return expanded, normalised.new_zeros(len(gallery), gallery.shape[1]).index_copy_(0, valid, normalised)
