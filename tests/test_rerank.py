"""k-reciprocal re-ranking and query expansion against loops over sets, and against published values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcs_nas.errors import InputError
from dcs_nas.evaluation import average_query_expansion, rank_distances, rerank, rerank_distances, top_k

GOLDEN = Path(__file__).parent / "golden" / "evaluation.npz"


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as archive:
        return dict(archive)


def people(seed: int, queries: int, gallery: int, channels: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Features in loose clusters, so that neighbours are reciprocal for some and not for others."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(2, gallery // 8), channels))
    draw = [
        centres[random.integers(len(centres), size=n)] + 0.6 * random.normal(size=(n, channels))
        for n in (queries, gallery)
    ]
    return draw[0], draw[1]


def euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=2)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unit_a, unit_b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return 1 - unit_a @ unit_b.T


def reciprocal(order: np.ndarray, i: int, k: int) -> set[int]:
    return {j for j in order[i][: k + 1].tolist() if i in order[j][: k + 1]}


def textbook(distance: np.ndarray, queries: int, k1: int, k2: int, weight: float) -> np.ndarray:
    """The paper's equations over all images, with sets and dense vectors; ``distance`` is (N, N)."""
    squared = distance**2
    squared = squared / squared.max(axis=1, keepdims=True)
    total = len(squared)
    order = np.argsort(squared, axis=1, kind="stable")
    V = np.zeros((total, total))
    for i in range(total):
        near = reciprocal(order, i, k1)
        expanded = set(near)
        for candidate in near:
            other = reciprocal(order, candidate, int(np.around(k1 / 2)))
            if len(other & near) > 2 / 3 * len(other):
                expanded |= other
        for j in expanded:
            V[i, j] = np.exp(-squared[i, j])
        V[i] /= V[i].sum()
    V = np.stack([V[order[i, :k2]].mean(axis=0) for i in range(total)])
    result = np.empty((queries, total - queries))
    for q in range(queries):
        for g in range(queries, total):
            jaccard = 1 - np.minimum(V[q], V[g]).sum() / np.maximum(V[q], V[g]).sum()
            result[q, g - queries] = (1 - weight) * jaccard + weight * squared[q, g]
    return result


# ---- published values


@pytest.mark.device
def test_reranked_distances_agree_with_the_published_algorithm(
    published: dict[str, np.ndarray], device: torch.device
) -> None:
    gallery = published["gallery_features"][published["gallery_pids"] != -1]
    reranked = rerank(published["query_features"], gallery, device=device)
    np.testing.assert_allclose(reranked.matrix().cpu(), published["rerank_distance"], atol=1e-5)


def test_given_matrices_agree_with_the_published_algorithm(published: dict[str, np.ndarray]) -> None:
    query = torch.from_numpy(published["query_features"])
    gallery = torch.from_numpy(published["gallery_features"][published["gallery_pids"] != -1])
    reranked = rerank_distances(torch.cdist(query, gallery), torch.cdist(query, query), torch.cdist(gallery, gallery))
    np.testing.assert_allclose(reranked.matrix(), published["rerank_distance"], atol=1e-5)


def test_reranked_scores_agree_with_the_published_evaluation_and_junk_takes_no_part(
    published: dict[str, np.ndarray],
) -> None:
    pids = published["gallery_pids"]
    reranked = rerank(published["query_features"], published["gallery_features"], gallery_pids=pids)
    result = rank_distances(
        reranked, published["query_pids"], pids, published["query_camids"], published["gallery_camids"], query_block=32
    )
    np.testing.assert_allclose(result.cmc, published["rerank_cmc"], atol=1e-6)
    np.testing.assert_allclose(result.average_precision[result.used], published["rerank_ap"], atol=1e-6)
    np.testing.assert_allclose(result.inverse_negative_penalty[result.used], published["rerank_inp"], atol=1e-6)
    assert result.gallery_junk_dropped == 11
    assert result.protocol.rerank == {"method": "k-reciprocal", "k1": 20, "k2": 6, "weight": 0.3}


# ---- the textbook


@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 8),
    gallery=st.integers(1, 40),
    k1=st.integers(1, 15),
    k2=st.integers(1, 20),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
    metric=st.sampled_from(["euclidean", "cosine"]),
)
@settings(max_examples=60, deadline=None)
def test_features_and_matrices_are_reranked_as_the_paper_says(
    seed: int, queries: int, gallery: int, k1: int, k2: int, weight: float, metric: str
) -> None:
    query, others = people(seed, queries, gallery)
    images = np.concatenate([query, others])
    distance = euclidean(images, images) if metric == "euclidean" else cosine(images, images)
    np.fill_diagonal(distance, 0)
    expected = textbook(distance, queries, k1, k2, weight)
    from_features = rerank(query, others, k1=k1, k2=k2, weight=weight, metric=metric)
    np.testing.assert_allclose(from_features.matrix(), expected, atol=1e-5)
    quadrants = distance[:queries, queries:], distance[:queries, :queries], distance[queries:, queries:]
    from_matrices = rerank_distances(*quadrants, k1=k1, k2=k2, weight=weight)
    np.testing.assert_allclose(from_matrices.matrix(), expected, atol=1e-5)


def test_blocks_hold_the_rows_that_are_asked_for() -> None:
    reranked = rerank(*people(0, 9, 50))
    whole = reranked.matrix()
    np.testing.assert_allclose(reranked.block(np.array([7, 2])), whole[[7, 2]], atol=1e-6)
    np.testing.assert_allclose(reranked.matrix(query_block=4), whole, atol=1e-6)


def test_weight_one_keeps_the_original_order() -> None:
    query, gallery = people(1, 6, 30)
    order = np.argsort(rerank(query, gallery, weight=1.0).matrix().numpy(), axis=1)
    np.testing.assert_array_equal(order, np.argsort(euclidean(query, gallery), axis=1))


def test_junk_among_the_gallery_moves_nothing_and_is_never_listed() -> None:
    query, gallery = people(2, 5, 40)
    pids = np.arange(40)
    pids[[3, 17]] = -1
    kept = pids != -1
    with_junk = rerank(query, gallery, k1=6, gallery_pids=pids)
    np.testing.assert_allclose(with_junk.matrix()[:, kept], rerank(query, gallery[kept], k1=6).matrix(), atol=1e-6)
    assert torch.isinf(with_junk.matrix()[:, ~kept]).all()
    listed, _ = top_k(with_junk, np.arange(5), pids, np.zeros(5, int), np.ones(40, int), k=40)
    assert not np.isin([3, 17], listed).any()


def test_identical_images_give_finite_distances() -> None:
    assert torch.isfinite(rerank(np.ones((2, 3)), np.ones((30, 3))).matrix()).all()


# ---- query expansion


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_an_expanded_feature_is_the_normalised_weighted_mean_of_its_neighbours(alpha: float) -> None:
    query, gallery = people(3, 7, 25)
    unit_q, unit_g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))

    def expand(feature: np.ndarray, others: np.ndarray) -> np.ndarray:
        closest = sorted(others, key=lambda g: -(feature @ g))[:4]
        total = feature + sum(max(feature @ g, 0) ** alpha * g for g in closest)
        return total / np.linalg.norm(total)

    new_query, same = average_query_expansion(query, gallery, neighbours=4, alpha=alpha, query_block=3)
    np.testing.assert_allclose(new_query, [expand(q, unit_g) for q in unit_q], atol=1e-6)
    np.testing.assert_allclose(same, unit_g, atol=1e-6)


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1": 0}, "k1 is 0, k2 6, weight 0.3; expected k1, k2 >= 1"),
        ({"weight": 1.5}, "k1 is 20, k2 6, weight 1.5"),
        ({"metric": "manhattan"}, "unknown metric 'manhattan'; known: euclidean, cosine"),
        ({"query_features": np.ones((2, 4))}, "query_features have 4 channels and gallery_features 3"),
        ({"gallery_features": np.full((5, 3), np.nan)}, "gallery_features: 5 of 5 rows hold NaN"),
        ({"gallery_pids": np.ones(4, int)}, "4 gallery_pids for 5 images"),
        ({"gallery_pids": -np.ones(5, int)}, "all 5 gallery images are junk"),
    ],
)
def test_bad_features_and_settings_give_one_clear_line(changes: dict, message: str) -> None:
    arguments = {"query_features": np.ones((2, 3)), "gallery_features": np.ones((5, 3))} | changes
    with pytest.raises(InputError, match=message) as caught:
        rerank(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "matrix", "message"),
    [
        (1, np.ones((3, 3)), r"query_query has shape \(3, 3\); expected \(2, 2\), as query_gallery is \(2, 4\)"),
        (2, np.ones((4, 3)), r"gallery_gallery has shape \(4, 3\); expected \(4, 4\), as"),
        (0, np.full((2, 4), np.nan), "distances hold NaN or infinity"),
        (0, np.full((2, 4), -0.5), "distances hold negative numbers"),
    ],
)
def test_matrices_that_do_not_fit_give_one_clear_line(place: int, matrix: np.ndarray, message: str) -> None:
    matrices = [np.ones((2, 4)), np.ones((2, 2)), np.ones((4, 4))]
    matrices[place] = matrix
    with pytest.raises(InputError, match=message):
        rerank_distances(*matrices)


def test_more_neighbours_than_the_gallery_has_are_refused() -> None:
    with pytest.raises(InputError, match="expected neighbours from 1 to 5"):
        average_query_expansion(np.ones((2, 3)), np.ones((5, 3)), neighbours=6)
