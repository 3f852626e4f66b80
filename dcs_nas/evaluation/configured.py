"""Scores as a configuration's section ``evaluate`` asks for them, replaced by what the command line says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dcs_nas.config import EvaluateConfig
from dcs_nas.errors import InputError
from dcs_nas.evaluation.distances import DistanceBlocks
from dcs_nas.evaluation.features_file import FeatureSet
from dcs_nas.evaluation.result import RankingResult
from dcs_nas.evaluation.scoring import Expansion, Reranking, distances_of, score_distances
from dcs_nas.settings import parse

log = logging.getLogger(__name__)
_RERANKING = ("rerank_k1", "rerank_k2", "rerank_lambda")


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores, the distances that they come from, and the intervals of ``RankingResult.confidence`` if asked for."""

    result: RankingResult
    distances: DistanceBlocks
    confidence: dict[str, Any] | None

    def report(self) -> dict[str, Any]:
        """All scores, ready for JSON."""
        return {**self.result.to_dict(), "confidence": self.confidence}


def changed(own: EvaluateConfig, changes: Mapping[str, Any]) -> EvaluateConfig:
    """``own`` with ``changes``.

    Raises:
        InputError: an unknown setting, a wrong value, or one that belongs to a step that is off.
    """
    settings = parse(EvaluateConfig, {**own.model_dump(), **changes}, source="evaluation settings")
    useless = [key for key in _RERANKING if key in changes]
    if useless and not settings.rerank:
        raise InputError(f"{', '.join(useless)} given, but re-ranking is off; add --rerank, or leave them out")
    if "expand_alpha" in changes and not settings.expand:
        raise InputError("expand_alpha given, but query expansion is off; add --expand K, or leave it out")
    return settings


def settings_of(features: FeatureSet, *, metric: str) -> EvaluateConfig:
    """Return the settings by which ``features`` were evaluated; without any, the defaults and ``metric``."""
    own = {"metric": metric} if features.evaluated is None else features.evaluated["settings"]
    return parse(EvaluateConfig, own, source="evaluation settings")


def score_as_configured(
    features: FeatureSet, settings: EvaluateConfig, *, protocol: str, device: torch.device | str | None = None
) -> Scored:
    """Expand, re-rank and score ``features``; ``protocol`` counts where the settings name none.

    Query images that are gallery images too, and that the protocol leaves in, are logged.
    """
    protocol = settings.protocol or protocol
    if protocol == "no_camera_filter" and features.query_paths is not None and features.gallery_paths is not None:
        itself = int(np.isin(features.query_paths, features.gallery_paths).sum())
        if itself:
            log.warning(
                "%d query images are gallery images too, and protocol %s lets each find itself", itself, protocol
            )
    reranking = Reranking(k1=settings.rerank_k1, k2=settings.rerank_k2, weight=settings.rerank_lambda)
    expansion = Expansion(neighbours=settings.expand, alpha=settings.expand_alpha) if settings.expand else None
    distances = distances_of(
        features,
        metric=settings.metric,
        rerank=reranking if settings.rerank else False,
        expansion=expansion,
        device=device,
    )
    result = score_distances(
        distances,
        features,
        protocol=protocol,
        expansion=expansion,
        max_rank=settings.max_rank,
        average_precision=settings.average_precision,
    )
    return Scored(result, distances, result.confidence(resamples=settings.confidence) if settings.confidence else None)
