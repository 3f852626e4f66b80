"""Ranked lists: which queries are hardest, and what the network puts in front of their matches.

Shapes: Q queries, G gallery images, n lists, k images of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dcs_nas.evaluation import DistanceBlocks, FeatureSet, RankingResult, top_k

_QUERIES_AT_ONCE = 32


@dataclass(frozen=True)
class Retrieved:
    """A gallery image at a 1-based place of a ranked list; ``index`` is its place in the gallery."""

    index: int
    place: int
    camera: int
    distance: float
    match: bool


@dataclass(frozen=True)
class RankedList:
    """A query and the gallery images closest to it.

    ``difficulty`` is 1 for the query of lowest average precision, or of highest where the list is an ``easy`` one.
    ``images`` are the first of the list; images that the protocol removes (same person, same camera) are not in it.
    ``first_match`` is the first right one, wherever it is.
    """

    query: int
    difficulty: int
    camera: int
    average_precision: float
    matches: int
    images: tuple[Retrieved, ...]
    first_match: Retrieved
    easy: bool = False


def hardest_lists(
    result: RankingResult, distances: DistanceBlocks, features: FeatureSet, *, count: int, top: int = 10
) -> list[RankedList]:
    """The ranked lists of the ``count`` queries of lowest average precision, hardest first, ``top`` images of each.

    Where the protocol draws its gallery (single-gallery-shot) the lists are those of the whole gallery, across cameras.
    """
    return _lists(result, distances, features, result.hardest(count), top)


def easiest_lists(
    result: RankingResult, distances: DistanceBlocks, features: FeatureSet, *, count: int, top: int = 10
) -> list[RankedList]:
    """As ``hardest_lists``, of the ``count`` queries of highest average precision, easiest first."""
    queries = result.hardest()[::-1][:count]
    return [replace(ranked, easy=True) for ranked in _lists(result, distances, features, queries, top)]


def _lists(
    result: RankingResult, distances: DistanceBlocks, features: FeatureSet, queries: np.ndarray, top: int
) -> list[RankedList]:
    once = result.protocol.repeats == 1
    protocol = result.protocol.name if once else "cross_camera"
    lists: list[RankedList] = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        chosen = queries[start : start + _QUERIES_AT_ONCE]
        deepest = int(result.first_ranks[chosen].max()) if once else distances.shape[1]
        found, values = top_k(
            distances,
            features.query_pids,
            features.gallery_pids,
            features.query_camids,
            features.gallery_camids,
            k=max(top, deepest),
            queries=chosen,
            protocol=protocol,
        )
        for query, indices, row in zip(chosen.tolist(), found, values):
            lists.append(_ranked_list(result, features, query, len(lists) + 1, indices, row, top))
    return lists


def _ranked_list(
    result: RankingResult,
    features: FeatureSet,
    query: int,
    difficulty: int,
    indices: np.ndarray,
    distances: np.ndarray,
    top: int,
) -> RankedList:
    indices = indices[indices >= 0]
    right = features.gallery_pids[indices] == features.query_pids[query]

    def at(place: int) -> Retrieved:
        index = int(indices[place])
        camera = int(features.gallery_camids[index])
        return Retrieved(index, place + 1, camera, float(distances[place]), bool(right[place]))

    return RankedList(
        query=query,
        difficulty=difficulty,
        camera=int(features.query_camids[query]),
        average_precision=float(result.average_precision[query]),
        matches=int(result.matches[query]),
        images=tuple(at(place) for place in range(min(top, len(indices)))),
        first_match=at(int(np.flatnonzero(right)[0])),
    )


def as_plain(lists: Sequence[RankedList], files: Sequence[str], features: FeatureSet) -> list[dict[str, object]]:
    """The lists with the names of their pictures and images, ready for JSON."""
    assert features.query_paths is not None
    assert features.gallery_paths is not None
    return [
        {
            "file": file,
            "query": str(features.query_paths[ranked.query]),
            "average_precision": ranked.average_precision,
            "matches": ranked.matches,
            "first_match": ranked.first_match.place,
            "images": [
                {
                    "path": str(features.gallery_paths[image.index]),
                    "rank": image.place,
                    "camera": image.camera,
                    "distance": image.distance,
                    "match": image.match,
                }
                for image in ranked.images
            ],
        }
        for ranked, file in zip(lists, files, strict=True)
    ]
