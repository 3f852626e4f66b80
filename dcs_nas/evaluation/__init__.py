"""Arrays in, scores out: ranking, re-ranking and the files around them."""

from dcs_nas.evaluation.distances import METRICS, DistanceBlocks, FeatureDistances, MatrixDistances
from dcs_nas.evaluation.features import FEATURE_KEYS, FeatureSet, load_features, save_features
from dcs_nas.evaluation.matching import AVERAGE_PRECISIONS
from dcs_nas.evaluation.ranking import PROTOCOLS, rank, rank_distances, top_k
from dcs_nas.evaluation.rerank import RerankedDistances, average_query_expansion, rerank, rerank_distances
from dcs_nas.evaluation.result import RankingProtocol, RankingResult, average
from dcs_nas.evaluation.scoring import Scores, apply_changes, compute_distances, get_settings, score, score_matrix

__all__ = [
    "AVERAGE_PRECISIONS",
    "FEATURE_KEYS",
    "METRICS",
    "PROTOCOLS",
    "DistanceBlocks",
    "FeatureDistances",
    "FeatureSet",
    "MatrixDistances",
    "RankingProtocol",
    "RankingResult",
    "RerankedDistances",
    "Scores",
    "apply_changes",
    "average",
    "average_query_expansion",
    "compute_distances",
    "get_settings",
    "load_features",
    "rank",
    "rank_distances",
    "rerank",
    "rerank_distances",
    "save_features",
    "score",
    "score_matrix",
    "top_k",
]
