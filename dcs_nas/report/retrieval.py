"""Ranked lists of the hardest and easiest queries.

Shapes: Q queries, G gallery images, n lists, k images of a list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dcs_nas.data.images import Bars
from dcs_nas.evaluation import DistanceBlocks, FeatureSet, RankingResult, top_k
from dcs_nas.report.embedded import Picture, encode_picture, read_picture
from dcs_nas.runs import RunContents

_QUERIES_AT_ONCE = 32
_MOST_SAVED = 12


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

    ``difficulty`` is 1 for the query of lowest average precision, or of highest in an ``easy`` list. ``images`` are the
    first of the list, without images that the protocol removes (same identity, same camera). ``first_match`` may come
    after them.
    """

    query: int
    difficulty: int
    camera: int
    average_precision: float
    matches: int
    images: tuple[Retrieved, ...]
    first_match: Retrieved
    easy: bool = False


def find_hardest_lists(
    result: RankingResult, distances: DistanceBlocks, features: FeatureSet, *, count: int, top: int = 10
) -> list[RankedList]:
    """Return the ranked lists, ``top`` images each, of the ``count`` queries of lowest precision, hardest first.

    Where the protocol draws its gallery (single-gallery-shot) the lists are of the whole gallery, across cameras.
    """
    return _lists(result, distances, features, result.hardest(count), top)


def find_easiest_lists(
    result: RankingResult, distances: DistanceBlocks, features: FeatureSet, *, count: int, top: int = 10
) -> list[RankedList]:
    """Return the ranked lists of the ``count`` queries of highest average precision, easiest first."""
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
        nearest, values = top_k(
            distances,
            features.query_pids,
            features.gallery_pids,
            features.query_camids,
            features.gallery_camids,
            k=max(top, deepest),
            queries=chosen,
            protocol=protocol,
        )
        for query, indices, row in zip(chosen.tolist(), nearest, values):
            lists.append(_make_list(result, features, query, indices[indices >= 0], row, top))
    return [replace(ranked, difficulty=i) for i, ranked in enumerate(lists, start=1)]


def _make_list(
    result: RankingResult, features: FeatureSet, query: int, indices: np.ndarray, distances: np.ndarray, top: int
) -> RankedList:
    """Return the ranked list of a query from its nearest images and their distances, with difficulty 0."""
    right = features.gallery_pids[indices] == features.query_pids[query]
    cameras = features.gallery_camids[indices]
    *images, first_match = (
        Retrieved(int(indices[i]), i + 1, int(cameras[i]), float(distances[i]), bool(right[i]))
        for i in (*range(min(top, len(indices))), int(np.flatnonzero(right)[0]))
    )
    precision, matches = float(result.average_precision[query]), int(result.matches[query])
    return RankedList(query, 0, int(features.query_camids[query]), precision, matches, tuple(images), first_match)


def to_plain_data(lists: Sequence[RankedList], files: Sequence[str], features: FeatureSet) -> list[dict[str, object]]:
    """Return the lists with the names of their pictures and images, ready for JSON."""
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


@dataclass(frozen=True)
class Lists:
    """Pictures under one heading; ``note`` says where further ones are."""

    title: str
    figures: list[Picture]
    note: str = ""


def read_saved_lists(run: RunContents) -> list[Lists]:
    """Return the lists in ``RUN/ranked/*/ranked.json``, hardest first, at most a dozen of each folder."""
    lists = []
    for index in sorted(run.files.ranked.glob("*/ranked.json")):
        entries = json.loads(index.read_text(encoding="utf-8"))
        shown = [
            Picture(read_picture(index.parent / Path(str(entry["file"])).name), _words(entry), caption=_words(entry))
            for entry in entries[:_MOST_SAVED]
        ]
        more = f"{len(entries) - len(shown)} more are in {index.parent}" if len(entries) > len(shown) else ""
        lists.append(Lists(f"Hardest queries of {index.parent.name}", shown, more))
    return lists


def draw_lists(run: RunContents, *, count: int, progress: Bars | None = None) -> list[Lists]:
    """Evaluate the trained network again; return its ``count`` queries of lowest and of highest average precision.

    Raises:
        InputError: the run holds no trained network, or its data are absent.
    """
    from dcs_nas.report.ranked_pictures import RankedPictures
    from dcs_nas.training.evaluate import evaluate_run

    evaluation = evaluate_run(run.path, progress=progress)
    light, dark = (RankedPictures.of_evaluation(evaluation, appearance=name) for name in ("light", "dark"))
    scored = evaluation.result, evaluation.distances, evaluation.features

    def draw(ranked: RankedList) -> Picture:
        words = f"ranked list of a query, average precision {100 * ranked.average_precision:.1f} %"
        return Picture(encode_picture(light.picture(ranked)), words, encode_picture(dark.picture(ranked)))

    return [
        Lists(title, [draw(ranked) for ranked in lists])
        for title, lists in (
            ("Worst queries, hardest first", find_hardest_lists(*scored, count=count)),
            ("Best queries, easiest first", find_easiest_lists(*scored, count=count)),
        )
    ]


def _words(entry: dict) -> str:
    score, place = 100 * float(entry["average_precision"]), int(entry["first_match"])
    return f"{entry['query']}: average precision {score:.1f} %, first match at rank {place:,}"
