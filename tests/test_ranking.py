"""Ranking against the textbook definition, written out query by query, and against published values."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcs_nas.errors import InputError
from dcs_nas.evaluation import FEATURE_KEYS, FeatureDistances, RankingResult, rank, rank_distances, top_k
from dcs_nas.evaluation.matching import _count_ahead, count_ranks

GOLDEN = Path(__file__).parent / "golden" / "evaluation.npz"


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as archive:
        return dict(archive)


def labels_without_junk(published: dict[str, np.ndarray]) -> list[np.ndarray]:
    keep = published["gallery_pids"] != -1
    return [
        published["query_pids"],
        published["gallery_pids"][keep],
        published["query_camids"],
        published["gallery_camids"][keep],
    ]


def ranked_list(
    distances: Any,
    q: int,
    q_pid: np.ndarray,
    q_cam: np.ndarray,
    g_pids: np.ndarray,
    g_cams: np.ndarray,
    camera_filter: bool = True,
) -> list[int]:
    """Gallery indices of one query, closest first, ties in gallery order, removed images left out."""
    order = sorted(range(len(g_pids)), key=lambda g: (distances[q][g], g))
    return [
        g for g in order if g_pids[g] != -1 and not (camera_filter and g_pids[g] == q_pid[q] and g_cams[g] == q_cam[q])
    ]


def textbook(
    distances: Any,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_cams: np.ndarray,
    g_cams: np.ndarray,
    *,
    camera_filter: bool = True,
    trapezoid: bool = False,
    max_rank: int = 50,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(CMC, APs, INPs, first ranks) of the queries with a match, each by walking down its ranked list."""
    cmcs, aps, inps, firsts = [], [], [], []
    for q in range(len(q_pids)):
        found = [
            g_pids[g] == q_pids[q] for g in ranked_list(distances, q, q_pids, q_cams, g_pids, g_cams, camera_filter)
        ]
        if not any(found) or q_pids[q] == -1:
            continue
        hits, area, old_precision, total = 0, 0.0, 1.0, sum(found)
        for position, hit in enumerate(found, start=1):
            hits += hit
            precision = hits / position
            if hit:
                area += (precision + old_precision) / 2 if trapezoid else precision
                last = position
            old_precision = precision
        aps.append(area / total)
        inps.append(total / last)
        firsts.append(found.index(True) + 1)
        cmcs.append([any(found[:k]) for k in range(1, max_rank + 1)])
    return np.mean(cmcs, axis=0), np.array(aps), np.array(inps), np.array(firsts)


def assert_scores(
    result: RankingResult, cmc: np.ndarray, ap: np.ndarray, inp: np.ndarray, tolerance: float = 1e-6
) -> None:
    np.testing.assert_allclose(result.cmc, cmc, atol=tolerance)
    np.testing.assert_allclose(result.average_precision[result.used], ap, atol=tolerance)
    np.testing.assert_allclose(result.inverse_negative_penalty[result.used], inp, atol=tolerance)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Few people and cameras, junk and distractors, distances with many ties, at least one query with a match."""
    seed = draw(st.integers(0, 2**32 - 1))
    queries, gallery = draw(st.integers(1, 6)), draw(st.integers(1, 24))
    people, cameras, levels = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 8))
    random = np.random.default_rng(seed)
    q_pids = random.integers(-1, people + 1, queries)
    g_pids = random.integers(-1, people + 1, gallery)
    q_cams, g_cams = random.integers(0, cameras, queries), random.integers(0, cameras, gallery)
    g_pids[-1], g_cams[-1], q_pids[0] = 1, cameras, 1
    return random.integers(0, levels, (queries, gallery)).astype(np.float32), q_pids, g_pids, q_cams, g_cams


# ---- published values


@pytest.mark.device
def test_euclidean_scores_agree_with_the_published_evaluation(
    published: dict[str, np.ndarray], device: torch.device
) -> None:
    result = rank(*(published[key] for key in FEATURE_KEYS), device=device)
    assert_scores(result, published["euclidean_cmc"], published["euclidean_ap"], published["euclidean_inp"])
    assert result.gallery_junk_dropped == 11
    assert result.to_dict()["queries"] == {
        "total": 90,
        "used": 83,
        "skipped": {"no_match_in_gallery": 6, "only_same_camera": 1, "junk": 0},
    }


@pytest.mark.parametrize("name", ["tied", "rerank"])
def test_scores_of_given_distances_agree_with_the_published_evaluation(
    published: dict[str, np.ndarray], name: str
) -> None:
    result = rank_distances(published[f"{name}_distance"], *labels_without_junk(published))
    assert_scores(result, published[f"{name}_cmc"], published[f"{name}_ap"], published[f"{name}_inp"])


# ---- the textbook


@given(cases(), st.booleans(), st.booleans(), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_scores_equal_the_textbook_definition_ties_included(
    case: Any, camera_filter: bool, trapezoid: bool, query_block: int
) -> None:
    result = rank_distances(
        *case,
        protocol="cross_camera" if camera_filter else "no_camera_filter",
        average_precision="trapezoid" if trapezoid else "hits",
        query_block=query_block,
    )
    cmc, ap, inp, first = textbook(*case, camera_filter=camera_filter, trapezoid=trapezoid)
    assert_scores(result, cmc, ap, inp, tolerance=1e-12)
    assert result.first_ranks[result.used, 0].tolist() == first.tolist()
    assert result.mAP == pytest.approx(ap.mean())
    assert result.mINP == pytest.approx(inp.mean())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_features_are_ranked_by_their_metric(metric: str, dtype: type) -> None:
    random = np.random.default_rng(3)
    query: np.ndarray = random.normal(size=(20, 8)).astype(dtype)
    gallery: np.ndarray = random.normal(size=(70, 8)).astype(dtype)
    labels = [
        random.integers(0, 6, 20),
        random.integers(0, 6, 70),
        random.integers(0, 3, 20),
        random.integers(0, 3, 70),
    ]
    if metric == "euclidean":
        distances = [[np.linalg.norm(q - g) for g in gallery] for q in query]
    else:
        distances = [[1 - q @ g / np.linalg.norm(q) / np.linalg.norm(g) for g in gallery] for q in query]
    result = rank(query, gallery, *labels, metric=metric)
    assert_scores(result, *textbook(distances, *labels)[:3])
    assert result.protocol.metric == metric


def test_identical_images_keep_the_gallery_order() -> None:
    features = torch.ones(4, 3)
    result = rank(features[:1], features, *(torch.tensor(v) for v in ([5], [1, 5, 2, 5], [0], [1, 1, 1, 1])))
    assert result.first_ranks.tolist() == [[2]]
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.mINP == pytest.approx(2 / 4)


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_without_ties_the_order_of_the_gallery_does_not_matter(case: Any, random: Random) -> None:
    distances, q_pids, g_pids, q_cams, g_cams = case
    distances = np.argsort(np.argsort(distances + np.linspace(0, 0.5, distances.shape[1]), axis=1), axis=1) * 1.0
    order = np.array(random.sample(range(len(g_pids)), len(g_pids)))
    one = rank_distances(distances, q_pids, g_pids, q_cams, g_cams)
    other = rank_distances(distances[:, order], q_pids, g_pids[order], q_cams, g_cams[order])
    assert_scores(other, one.cmc, one.average_precision[one.used], one.inverse_negative_penalty[one.used], 1e-12)


@given(cases())
@settings(max_examples=50, deadline=None)
def test_an_increasing_function_of_the_distances_changes_nothing(case: Any) -> None:
    distances, *labels = case
    one, other = rank_distances(distances, *labels), rank_distances(np.exp(distances / 4), *labels)
    assert_scores(other, one.cmc, one.average_precision[one.used], one.inverse_negative_penalty[one.used], 0)


@pytest.mark.device
def test_counting_on_an_accelerator_equals_counting_on_the_cpu(device: torch.device) -> None:
    block = torch.randint(0, 9, (12, 300)).float()
    rows, columns = np.random.default_rng(0).integers(0, [[12], [300]], (2, 200))
    order = np.argsort(block.numpy(), axis=1, kind="stable")
    expected = [order[r].tolist().index(c) + 1 for r, c in zip(rows, columns, strict=True)]
    block = block.to(device)
    assert count_ranks(block, rows, columns).tolist() == expected
    assert (1 + _count_ahead(block, rows, columns)).tolist() == expected


# ---- protocol


def test_junk_never_counts_and_distractors_do() -> None:
    distances = np.array([[0.1, 0.2, 0.3, 0.4]])
    result = rank_distances(distances, [7], [-1, 0, 7, 7], [0], [1, 1, 1, 1])
    assert result.first_ranks.tolist() == [[2]]
    assert (result.gallery_size, result.gallery_junk_dropped) == (3, 1)


def test_queries_without_a_match_are_counted_by_cause() -> None:
    result = rank_distances(np.zeros((4, 3)), [1, 2, 3, -1], [1, 2, -1], [0, 0, 0, 0], [1, 0, 1])
    assert result.skipped.tolist() == ["", "only_same_camera", "no_match_in_gallery", "junk"]
    assert result.to_dict()["queries"]["skipped"] == {"no_match_in_gallery": 1, "only_same_camera": 1, "junk": 1}
    assert result.mAP == 1
    assert np.isnan(result.average_precision[1:]).all()


def test_without_camera_filter_the_same_camera_is_a_match() -> None:
    result = rank_distances(np.zeros((1, 1)), [2], [2], [0], [0], protocol="no_camera_filter")
    assert result.mAP == 1


def test_cmc_beyond_the_gallery_stays_at_its_last_value() -> None:
    result = rank_distances(np.array([[3.0, 2.0, 1.0]]), [1], [1, 2, 3], [0], [1, 1, 1], max_rank=6)
    assert result.cmc.tolist() == [0, 0, 1, 1, 1, 1]


def test_a_single_shot_gallery_has_one_image_per_person_from_other_cameras() -> None:
    """Where each person has one image per camera there is nothing to draw, so the textbook applies to that gallery."""
    random = np.random.default_rng(1)
    query, gallery = random.normal(size=(30, 6)), random.normal(size=(60, 6))
    q_pids, g_pids = np.arange(30), np.concatenate([np.arange(30)] * 2)
    q_cams, g_cams = np.zeros(30, int), np.repeat([0, 1], 30)
    result = rank(query, gallery, q_pids, g_pids, q_cams, g_cams, protocol="single_gallery_shot")
    other = rank(query, gallery[30:], q_pids, g_pids[30:], q_cams, g_cams[30:])
    assert_scores(result, other.cmc, other.average_precision, other.inverse_negative_penalty, 1e-12)
    assert result.protocol.repeats == 10


def test_single_shot_draws_are_seeded_and_average_to_the_chance_of_a_draw() -> None:
    """Person 1 has a good image (rank 1) and a bad one (rank 2 behind person 2's): CMC(1) is the good one's share."""
    distances = np.tile([[0.0, 2.0, 1.0]], (2, 1))
    labels: list[list[int]] = [[1, 1], [1, 1, 2], [0, 5], [1, 1, 1]]
    first = rank_distances(distances, *labels, protocol="single_gallery_shot", seed=4)
    again = rank_distances(distances, *labels, protocol="single_gallery_shot", seed=4, query_block=1)
    assert first.first_ranks.tolist() == again.first_ranks.tolist()
    assert first.first_ranks.shape == (2, 10)
    draws = [rank_distances(distances, *labels, protocol="single_gallery_shot", seed=s).cmc[0] for s in range(200)]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.03)
    assert first.mAP == pytest.approx((1 / first.first_ranks).mean())


def test_query_block_does_not_change_scores() -> None:
    random = np.random.default_rng(5)
    query, gallery = random.integers(-3, 4, (33, 4)), random.integers(-3, 4, (90, 4))
    labels = [
        random.integers(0, 9, 33),
        random.integers(0, 9, 90),
        random.integers(0, 3, 33),
        random.integers(0, 3, 90),
    ]
    results = [rank(query, gallery, *labels, query_block=b) for b in (1, 7, 256)]
    assert results[0].to_dict() == results[1].to_dict() == results[2].to_dict()


def test_inputs_are_left_untouched(published: dict[str, np.ndarray]) -> None:
    arrays = [published[key].copy() for key in FEATURE_KEYS]
    distances = published["tied_distance"].copy()
    for array in [*arrays, distances]:
        array.flags.writeable = False
    rank(*arrays)
    rank_distances(distances, *labels_without_junk(published))
    for key, array in zip((*FEATURE_KEYS, "tied_distance"), (*arrays, distances)):
        np.testing.assert_array_equal(array, published[key])


# ---- ranked lists


@given(cases(), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_top_k_is_the_head_of_the_ranked_list(case: Any, k: int) -> None:
    distances, q_pids, g_pids, q_cams, g_cams = case
    indices, values = top_k(*case, k=k, query_block=2)
    for q in range(len(q_pids)):
        expected = ranked_list(distances, q, q_pids, q_cams, g_pids, g_cams)[:k]
        assert indices[q, : len(expected)].tolist() == expected
        assert values[q, : len(expected)].tolist() == distances[q, expected].tolist()
        assert (indices[q, len(expected) :] == -1).all()
        assert np.isinf(values[q, len(expected) :]).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_top_k_of_features_gives_distances_in_the_metric(metric: str) -> None:
    random = np.random.default_rng(2)
    query, gallery = random.normal(size=(5, 4)), random.normal(size=(9, 4))
    labels = [np.arange(5), np.arange(9), np.zeros(5, int), np.ones(9, int)]
    indices, values = top_k(FeatureDistances(query, gallery, metric=metric), *labels, k=9, queries=[3, 1])
    for row, q in enumerate([3, 1]):
        for g, value in zip(indices[row], values[row], strict=True):
            cosine = query[q] @ gallery[g] / np.linalg.norm(query[q]) / np.linalg.norm(gallery[g])
            expected = np.linalg.norm(query[q] - gallery[g]) if metric == "euclidean" else 1 - cosine
            assert value == pytest.approx(expected)


# ---- results


def test_a_result_is_json_with_fractions_and_its_protocol(published: dict[str, np.ndarray]) -> None:
    result = rank(*(published[key] for key in FEATURE_KEYS), max_rank=10)
    read = json.loads(json.dumps(result.to_dict()))
    assert len(read["cmc"]) == 10
    assert 0 < read["mINP"] < read["mAP"] < 1
    assert read["protocol"]["name"] == "cross_camera"
    assert read["protocol"]["average_precision"] == "hits"
    assert read["gallery_junk_dropped"] == 11


def test_the_table_of_queries_has_a_line_for_each_with_its_scores_or_cause(
    published: dict[str, np.ndarray], tmp_path: Path
) -> None:
    result = rank(*(published[key] for key in FEATURE_KEYS))
    result.write_csv(tmp_path / "new" / "queries.csv", names=[f"{q}.jpg" for q in range(90)])
    with open(tmp_path / "new" / "queries.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"{q}.jpg" for q in range(90)]
    scored = [row for row in rows if not row["skipped"]]
    assert np.mean([float(row["ap"]) for row in scored]) == pytest.approx(result.mAP)
    assert sorted({row["skipped"] for row in rows}) == ["", "no_match_in_gallery", "only_same_camera"]
    with pytest.raises(InputError, match="1 names for 90 queries"):
        result.write_csv(tmp_path / "queries.csv", names=["a.jpg"])


def test_hardest_queries_come_first_and_skipped_ones_never(published: dict[str, np.ndarray]) -> None:
    result = rank(*(published[key] for key in FEATURE_KEYS))
    hardest = result.hardest(10)
    ap = result.average_precision[hardest]
    assert (np.diff(ap) >= 0).all()
    assert ap[0] == pytest.approx(published["euclidean_ap"].min())
    assert len(result.hardest()) == 83


def test_confidence_intervals_are_those_of_resampled_queries(published: dict[str, np.ndarray]) -> None:
    result = rank(*(published[key] for key in FEATURE_KEYS))
    intervals = result.confidence_intervals(ranks=(1,), resamples=2000, level=0.9)
    assert result.confidence_intervals(ranks=(1,), resamples=2000, level=0.9) == intervals
    ap, random = published["euclidean_ap"], np.random.default_rng(9)
    means = [random.choice(ap, len(ap)).mean() for _ in range(2000)]
    np.testing.assert_allclose(intervals["mAP"], np.quantile(means, [0.05, 0.95]), atol=0.01)
    assert intervals["rank-1"][0] < result.cmc[0] < intervals["rank-1"][1]
    with pytest.raises(InputError, match="expected 0 < level < 1"):
        result.confidence_intervals(level=95)


# ---- bad input


def small(**changes: Any) -> dict[str, Any]:
    arrays = {
        "query_features": np.ones((2, 3)),
        "gallery_features": np.ones((4, 3)),
        "query_pids": np.array([1, 2]),
        "gallery_pids": np.array([1, 1, 2, 2]),
        "query_camids": np.array([0, 0]),
        "gallery_camids": np.array([1, 1, 1, 1]),
    }
    return arrays | changes


NAN = np.ones((4, 3))
NAN[2, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_features": NAN}, "gallery_features: 1 of 4 rows hold NaN or infinity, the first is row 2"),
        ({"query_features": np.full((2, 3), np.inf)}, "query_features: 2 of 2 rows hold NaN or infinity"),
        ({"query_features": np.full((2, 3), 1e200)}, "numbers too large to square"),
        ({"query_features": np.ones((2, 5))}, "query_features have 5 channels and gallery_features 3"),
        ({"query_features": np.ones(3)}, r"query_features has shape \(3,\); expected a matrix"),
        ({"gallery_features": np.ones((0, 3))}, r"gallery_features has shape \(0, 3\)"),
        ({"query_features": np.array([["a"], ["b"]])}, "query_features has dtype <U1; expected real numbers"),
        ({"query_features": torch.ones(2, 3, dtype=torch.bool)}, "dtype torch.bool; expected real numbers"),
        ({"query_pids": np.array([1.0, 2.0])}, "query_pids has shape .* dtype float64; expected a vector of integers"),
        ({"query_pids": np.array([1, 2, 3])}, "3 query_pids for 2 images; expected one per image"),
        ({"gallery_pids": np.ones(3, int), "gallery_camids": np.ones(3, int)}, "3 gallery_pids for"),
        ({"query_pids": np.array([8, 9])}, "no query has a match in the gallery; no_match_in_gallery 2: "),
        ({"gallery_camids": np.zeros(4, int)}, "no query has a match in the gallery; only_same_camera 2: "),
        ({"protocol": "cross_camara"}, "unknown protocol 'cross_camara'; did you mean cross_camera?"),
        ({"metric": "cosin"}, "unknown metric 'cosin'; did you mean cosine?"),
        ({"average_precision": "11-point"}, "unknown average_precision '11-point'; known: hits, trapezoid"),
        ({"max_rank": 0}, "ranks is 0 and query_block 512; expected at least 1"),
    ],
)
def test_bad_input_gives_one_clear_line(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        rank(**small(**changes))
    assert "\n" not in str(caught.value)


def test_distances_that_are_no_finite_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="distances hold NaN or infinity"):
        rank_distances(np.array([[np.nan, 1.0]]), [1], [1, 2], [0], [1, 1])


def test_a_ranked_list_of_drawn_galleries_is_refused() -> None:
    with pytest.raises(InputError, match="has no single ranked list"):
        top_k(np.ones((1, 2)), [1], [1, 2], [0], [1, 1], protocol="single_gallery_shot")
    with pytest.raises(InputError, match="queries run from 4 to 4; expected 0 to 0"):
        top_k(np.ones((1, 2)), [1], [1, 2], [0], [1, 1], queries=[4])
