"""CMC, mAP and mINP of person re-identification, and the top of ranked lists.

Shapes: Q queries, G gallery images, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcs_nas.errors import InputError, choices
from dcs_nas.evaluation.distances import DistanceBlocks, FeatureDistances, MatrixDistances
from dcs_nas.evaluation.features import Array, Integers
from dcs_nas.evaluation.matching import (
    AVERAGE_PRECISIONS,
    Labels,
    filter_block,
    rank_matches,
    rank_single_shots,
    score_queries,
    split_blocks,
)
from dcs_nas.evaluation.result import RankingProtocol, RankingResult


@dataclass(frozen=True)
class _Protocol:
    camera_filter: str
    removes_same_camera: bool
    repeats: int = 1
    single_shot: bool = False


_PROTOCOLS = {
    "cross_camera": _Protocol("images of the query's person from the query's camera are removed", True),
    "single_gallery_shot": _Protocol("images from the query's camera are removed", True, repeats=10, single_shot=True),
    "no_camera_filter": _Protocol("none", False),
}

PROTOCOLS = tuple(_PROTOCOLS)


def rank(
    query_features: Array,
    gallery_features: Array,
    query_pids: Integers,
    gallery_pids: Integers,
    query_camids: Integers,
    gallery_camids: Integers,
    *,
    protocol: str = "cross_camera",
    metric: str = "euclidean",
    max_rank: int = 50,
    average_precision: str = "hits",
    query_block: int = 512,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> RankingResult:
    """Score features by a re-identification protocol.

    Protocols: ``cross_camera`` removes, per query, gallery images of the same identity from the same camera (Zheng et
    al., ICCV 2015); ``single_gallery_shot`` draws one gallery image per identity from other cameras, 10 seeded times
    (classic CUHK03), where a query's AP and INP are the mean of 1/rank; ``no_camera_filter`` removes nothing. Gallery
    images of identity -1 are junk and dropped, with their count in the result; identity 0 is an ordinary one, which
    no query has (a distractor). Equal distances keep the gallery's order.

    Args:
        query_features: (Q, C).
        gallery_features: (G, C).
        query_pids: (Q,) integers, as are ``query_camids``, and ``gallery_pids``, ``gallery_camids`` (G,).
        metric: "euclidean" or "cosine".
        max_rank: length of the CMC curve; beyond the gallery's size it stays at its last value.
        average_precision: "hits" (precision at each hit) or "trapezoid" (MATLAB's area), see ``score_queries``.
        query_block: queries per matrix product; memory beyond the features is about 8 * query_block * G bytes.
        seed: of the draws of ``single_gallery_shot``.
        device: the device to compute on; by default the device of the query features.

    Raises:
        InputError: arrays that don't fit, NaN or infinite features, an unknown setting, or no query with a match.
    """
    return rank_distances(
        FeatureDistances(query_features, gallery_features, metric=metric, device=device),
        query_pids,
        gallery_pids,
        query_camids,
        gallery_camids,
        protocol=protocol,
        max_rank=max_rank,
        average_precision=average_precision,
        query_block=query_block,
        seed=seed,
    )


def rank_distances(
    distances: Array | DistanceBlocks,
    query_pids: Integers,
    gallery_pids: Integers,
    query_camids: Integers,
    gallery_camids: Integers,
    *,
    protocol: str = "cross_camera",
    max_rank: int = 50,
    average_precision: str = "hits",
    query_block: int = 512,
    seed: int = 0,
) -> RankingResult:
    """Score a distance matrix (Q, G), or re-ranked distances computed by blocks, as ``rank`` does features.

    Raises:
        InputError: as ``rank``; also NaN or infinite distances.
    """
    _check_settings(protocol, average_precision, max_rank, query_block)
    rules = _PROTOCOLS[protocol]
    source = _as_blocks(distances)
    labels = Labels.from_arrays(query_pids, gallery_pids, query_camids, gallery_camids, shape=source.shape)
    skipped = labels.find_skip_causes(camera_filter=rules.removes_same_camera)
    queries = _require_scorable(skipped, protocol)
    if rules.single_shot:
        query, ranks = rank_single_shots(
            source, labels, queries, repeats=rules.repeats, seed=seed, query_block=query_block
        )
    else:
        query, ranks = rank_matches(
            source, labels, queries, camera_filter=rules.removes_same_camera, query_block=query_block
        )
    scores = score_queries(query, ranks, len(skipped) * rules.repeats, average_precision=average_precision)
    per_repeat = (len(skipped), rules.repeats)
    return RankingResult(
        average_precision=scores.average_precision.reshape(per_repeat).mean(axis=1),
        inverse_negative_penalty=scores.inverse_negative_penalty.reshape(per_repeat).mean(axis=1),
        first_ranks=scores.first_rank.reshape(per_repeat),
        matches=scores.matches.reshape(per_repeat)[:, 0],
        skipped=skipped,
        query_pids=labels.query_pids,
        query_camids=labels.query_camids,
        gallery_size=len(labels.gallery_pids) - len(labels.junk),
        gallery_junk_dropped=len(labels.junk),
        max_rank=max_rank,
        protocol=RankingProtocol(
            name=protocol,
            metric=source.metric,
            camera_filter=rules.camera_filter,
            average_precision=average_precision,
            repeats=rules.repeats,
            seed=seed if rules.single_shot else None,
            rerank=dict(source.rerank) if source.rerank else None,
        ),
    )


def top_k(
    distances: Array | DistanceBlocks,
    query_pids: Integers,
    gallery_pids: Integers,
    query_camids: Integers,
    gallery_camids: Integers,
    *,
    k: int = 10,
    queries: Integers | None = None,
    protocol: str = "cross_camera",
    query_block: int = 512,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first ``k`` gallery images of the ranked lists of ``queries`` (n,), by default all.

    For features pass ``FeatureDistances(query_features, gallery_features, metric=...)``.

    Returns:
        Gallery indices (n, k), -1 where fewer than k images are left, and distances (n, k), infinity there.

    Raises:
        InputError: as ``rank_distances``; also for ``single_gallery_shot``, which has no single ranked list.
    """
    _check_settings(protocol, "hits", k, query_block)
    if _PROTOCOLS[protocol].single_shot:
        raise InputError(f"{protocol} draws a gallery per repeat, so it has no single ranked list; use cross_camera")
    source = _as_blocks(distances)
    labels = Labels.from_arrays(query_pids, gallery_pids, query_camids, gallery_camids, shape=source.shape)
    selected = np.arange(source.shape[0]) if queries is None else np.asarray(queries, dtype=np.int64)
    if len(selected) and not 0 <= selected.min() <= selected.max() < source.shape[0]:
        raise InputError(f"queries run from {selected.min()} to {selected.max()}; expected 0 to {source.shape[0] - 1}")
    indices, values = np.full((len(selected), k), -1), np.full((len(selected), k), np.inf)
    camera_filter = _PROTOCOLS[protocol].removes_same_camera
    for place in split_blocks(np.arange(len(selected)), query_block):
        block, _, _ = filter_block(source, labels, selected[place], camera_filter=camera_filter)
        columns = select_top_k(block, min(k, block.shape[1]))
        smallest = block.gather(1, columns)
        distance = source.to_distance(smallest, selected[place]).cpu().numpy()
        valid = np.isfinite(smallest.cpu().numpy())
        indices[place, : columns.shape[1]] = np.where(valid, columns.cpu().numpy(), -1)
        values[place, : columns.shape[1]] = np.where(valid, distance, np.inf)
    return indices, values


def select_top_k(block: Tensor, k: int) -> Tensor:
    """Return the columns (b, k) of the k smallest entries of every row, smallest first, ties in column order."""
    bound = block.topk(k, dim=1, largest=False).values[:, -1:]
    rows, columns = torch.nonzero(block <= bound, as_tuple=True)
    by_value = torch.sort(block[rows, columns], stable=True).indices
    order = by_value[torch.sort(rows[by_value], stable=True).indices]
    counts = torch.bincount(rows, minlength=len(block))
    first = counts.cumsum(0) - counts
    return columns[order][first[:, None] + torch.arange(k, device=block.device)]


def _as_blocks(distances: Array | DistanceBlocks) -> DistanceBlocks:
    return distances if isinstance(distances, DistanceBlocks) else MatrixDistances(distances)


_ADVICE = {
    "only_same_camera": "their gallery images are from the query's own camera, which {} removes: rank with --protocol "
    "no_camera_filter (evaluate.protocol in a configuration)",
    "no_match_in_gallery": "their identities are not in the gallery: use the same number for an identity in both",
    "junk": "identity -1 is junk: give the queries other identities",
}
"""How to fix each of ``SKIP_CAUSES`` when no query has a score."""


def _require_scorable(skipped: np.ndarray, protocol: str) -> np.ndarray:
    queries = np.flatnonzero(skipped == "")
    if not len(queries):
        causes = [(cause, int((skipped == cause).sum())) for cause in _ADVICE]
        reasons = "; ".join(f"{cause} {count}: {_ADVICE[cause].format(protocol)}" for cause, count in causes if count)
        raise InputError(f"no query has a match in the gallery; {reasons}")
    return queries


def _check_settings(protocol: str, average_precision: str, max_rank: int, query_block: int) -> None:
    if protocol not in _PROTOCOLS:
        raise InputError(f"unknown protocol '{protocol}'; {choices(protocol, PROTOCOLS)}")
    if average_precision not in AVERAGE_PRECISIONS:
        known = choices(average_precision, AVERAGE_PRECISIONS)
        raise InputError(f"unknown average_precision '{average_precision}'; {known}")
    if max_rank < 1 or query_block < 1:
        raise InputError(f"ranks is {max_rank} and query_block {query_block}; expected at least 1")
