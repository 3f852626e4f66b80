"""Arrays in, scores out: ranking, re-ranking and the files around them."""

from dcs_nas.evaluation.distances import METRICS, DistanceBlocks, FeatureDistances, MatrixDistances
from dcs_nas.evaluation.expansion import average_query_expansion
from dcs_nas.evaluation.features_file import FEATURE_KEYS, FeatureSet, load_features, save_features
from dcs_nas.evaluation.ranking import PROTOCOLS, rank, rank_distances, top_k
from dcs_nas.evaluation.rerank import RerankedDistances, rerank, rerank_distances
from dcs_nas.evaluation.result import RankingProtocol, RankingResult
from dcs_nas.evaluation.scores import AVERAGE_PRECISIONS

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
    "average_query_expansion",
    "load_features",
    "rank",
    "rank_distances",
    "rerank",
    "rerank_distances",
    "save_features",
    "top_k",
]
