"""A set of features to scores: expanded or not, re-ranked or not.

Shapes: Q queries, G gallery images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcs_nas.evaluation.distances import DistanceBlocks, FeatureDistances
from dcs_nas.evaluation.expansion import average_query_expansion
from dcs_nas.evaluation.features_file import FeatureSet
from dcs_nas.evaluation.inputs import as_matrix
from dcs_nas.evaluation.labels import JUNK
from dcs_nas.evaluation.ranking import rank_distances
from dcs_nas.evaluation.rerank import rerank as rerank_features
from dcs_nas.evaluation.result import RankingResult


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """Settings of k-reciprocal re-ranking; the defaults are the published ones. ``weight`` is the paper's lambda."""

    k1: int = 20
    k2: int = 6
    weight: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """Settings of ``average_query_expansion``."""

    neighbours: int = 5
    alpha: float = 0.0


def score(
    features: FeatureSet,
    *,
    protocol: str,
    metric: str,
    rerank: Reranking | bool = False,
    expansion: Expansion | None = None,
    max_rank: int = 50,
    average_precision: str = "hits",
    device: torch.device | str | None = None,
) -> RankingResult:
    """CMC, mAP and mINP by one of the protocols of ``rank``; ``rerank`` True means the published settings."""
    distances = distances_of(features, metric=metric, rerank=rerank, expansion=expansion, device=device)
    return score_distances(
        distances,
        features,
        protocol=protocol,
        expansion=expansion,
        max_rank=max_rank,
        average_precision=average_precision,
    )


def score_distances(
    distances: DistanceBlocks,
    features: FeatureSet,
    *,
    protocol: str,
    expansion: Expansion | None = None,
    max_rank: int = 50,
    average_precision: str = "hits",
) -> RankingResult:
    """The scores of ``distances_of(features, expansion=expansion, ...)``."""
    result = rank_distances(
        distances,
        features.query_pids,
        features.gallery_pids,
        features.query_camids,
        features.gallery_camids,
        protocol=protocol,
        max_rank=max_rank,
        average_precision=average_precision,
    )
    return replace(result, protocol=replace(result.protocol, expansion=_as_dict(expansion)))


def distances_of(
    features: FeatureSet,
    *,
    metric: str,
    rerank: Reranking | bool = False,
    expansion: Expansion | None = None,
    device: torch.device | str | None = None,
) -> DistanceBlocks:
    """Distances (Q, G), made block by block: query features are expanded first, then all is re-ranked.

    Junk (person -1) is no one's neighbour in either step. ``device`` is where to compute, the CPU by default.
    """
    query = as_matrix("query_features", features.query_features, device)
    gallery = as_matrix("gallery_features", features.gallery_features, device)
    if expansion is not None:
        query, gallery = _expanded(query, gallery, features.gallery_pids, expansion)
    if rerank is False:
        return FeatureDistances(query, gallery, metric=metric)
    settings = Reranking() if rerank is True else rerank
    return rerank_features(query, gallery, metric=metric, gallery_pids=features.gallery_pids, **asdict(settings))


def _expanded(query: Tensor, gallery: Tensor, gallery_pids: np.ndarray, expansion: Expansion) -> tuple[Tensor, Tensor]:
    kept = torch.as_tensor(np.flatnonzero(gallery_pids != JUNK), device=gallery.device)
    whole = len(kept) == len(gallery)
    expanded, normalised = average_query_expansion(
        query, gallery if whole else gallery[kept], neighbours=expansion.neighbours, alpha=expansion.alpha
    )
    if whole:
        return expanded, normalised
    return expanded, normalised.new_zeros(len(gallery), gallery.shape[1]).index_copy_(0, kept, normalised)


def _as_dict(expansion: Expansion | None) -> dict[str, Any] | None:
    return None if expansion is None else {"method": "average query expansion", **asdict(expansion)}
