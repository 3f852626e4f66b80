"""Arrays in, scores out: ranking, re-ranking and the files around them."""

from dcs_nas.evaluation.distances import METRICS, DistanceBlocks, FeatureDistances, MatrixDistances
from dcs_nas.evaluation.expansion import average_query_expansion
from dcs_nas.evaluation.features_file import FEATURE_KEYS, FeatureSet, load_features, save_features
from dcs_nas.evaluation.ranking import PROTOCOLS, rank, rank_distances, top_k
from dcs_nas.evaluation.rerank import RerankedDistances, rerank, rerank_distances
from dcs_nas.evaluation.result import RankingProtocol, RankingResult
from dcs_nas.evaluation.scores import AVERAGE_PRECISIONS
from dcs_nas.evaluation.scoring import Expansion, Reranking, distances_of, score, score_distances

__all__ = [
    "AVERAGE_PRECISIONS",
    "FEATURE_KEYS",
    "METRICS",
    "PROTOCOLS",
    "DistanceBlocks",
    "Expansion",
    "FeatureDistances",
    "FeatureSet",
    "MatrixDistances",
    "RankingProtocol",
    "RankingResult",
    "RerankedDistances",
    "Reranking",
    "average_query_expansion",
    "distances_of",
    "load_features",
    "rank",
    "rank_distances",
    "rerank",
    "rerank_distances",
    "save_features",
    "score",
    "score_distances",
    "top_k",
]
