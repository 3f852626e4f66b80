"""A set of features to scores, re-ranked or not."""

from __future__ import annotations

from dcs_nas.evaluation.features_file import FeatureSet
from dcs_nas.evaluation.ranking import rank, rank_distances
from dcs_nas.evaluation.rerank import rerank as rerank_features
from dcs_nas.evaluation.result import RankingResult


def score(
    features: FeatureSet, *, protocol: str, metric: str, rerank: bool = False, max_rank: int = 50
) -> RankingResult:
    """CMC, mAP and mINP by one of the protocols of ``rank``; ``rerank`` by ``rerank`` with its published settings."""
    if not rerank:
        return rank(**features.arrays(), protocol=protocol, metric=metric, max_rank=max_rank)
    distances = rerank_features(
        features.query_features, features.gallery_features, metric=metric, gallery_pids=features.gallery_pids
    )
    return rank_distances(
        distances,
        features.query_pids,
        features.gallery_pids,
        features.query_camids,
        features.gallery_camids,
        protocol=protocol,
        max_rank=max_rank,
    )
