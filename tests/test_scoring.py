"""From a set of features to scores: the order of the steps, junk, intervals, and what a result says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from dcs_nas.config import EvaluateConfig
from dcs_nas.errors import InputError
from dcs_nas.evaluation import (
    FeatureSet,
    apply_changes,
    average_query_expansion,
    load_features,
    rank,
    rank_distances,
    rerank,
    save_features,
    score,
)


@pytest.fixture
def features() -> FeatureSet:
    random = np.random.default_rng(1)
    pids = np.repeat(np.arange(1, 11), 4)
    centres = random.normal(size=(11, 12))
    cameras = np.tile([0, 1, 2, 3], 10)
    gallery = (centres[pids] + 0.9 * random.normal(size=(40, 12))).astype(np.float32)
    query = (centres[1:] + 0.9 * random.normal(size=(10, 12))).astype(np.float32)
    return FeatureSet(query, gallery, np.arange(1, 11), pids, np.zeros(10, dtype=np.int64), cameras)


def _with_junk(features: FeatureSet) -> FeatureSet:
    """Junk beside every query, where it would be the nearest neighbour of all."""
    return replace(
        features,
        gallery_features=np.concatenate([features.query_features, features.gallery_features]),
        gallery_pids=np.concatenate([np.full(10, -1), features.gallery_pids]),
        gallery_camids=np.concatenate([np.zeros(10, dtype=np.int64), features.gallery_camids]),
    )


def test_queries_are_expanded_first_and_everything_is_re_ranked_then(features: FeatureSet) -> None:
    own = EvaluateConfig(
        metric="euclidean", rerank=True, rerank_k1=6, rerank_k2=3, rerank_lambda=0.4, expand=3, expand_alpha=2
    )
    found = score(features, own, protocol="cross_camera").result
    query, gallery = average_query_expansion(features.query_features, features.gallery_features, neighbours=3, alpha=2)
    labels = [features.query_pids, features.gallery_pids, features.query_camids, features.gallery_camids]
    expected = rank_distances(rerank(query, gallery, k1=6, k2=3, weight=0.4), *labels)
    np.testing.assert_allclose(found.average_precision, expected.average_precision)
    assert found.protocol.expansion == {"method": "average query expansion", "neighbours": 3, "alpha": 2}
    assert found.protocol.rerank == {"method": "k-reciprocal", "k1": 6, "k2": 3, "weight": 0.4}
    plain = score(features, EvaluateConfig(metric="euclidean"), protocol="cross_camera").result
    assert plain.mAP == rank(**features.arrays()).mAP != found.mAP


@pytest.mark.parametrize("expand", [0, 4])
@pytest.mark.parametrize("rerank", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_junk_is_no_ones_neighbour(
    features: FeatureSet, expand: int, rerank: bool, metric: Literal["cosine", "euclidean"]
) -> None:
    own = EvaluateConfig(metric=metric, rerank=rerank, rerank_k1=6, rerank_k2=3, expand=expand)
    clean, junk = (score(f, own, protocol="cross_camera").result for f in (features, _with_junk(features)))
    np.testing.assert_allclose(clean.average_precision, junk.average_precision)
    assert (clean.gallery_junk_dropped, junk.gallery_junk_dropped) == (0, 10)


def test_intervals_of_the_whole_curve_are_those_of_every_rank(features: FeatureSet) -> None:
    result = score(features, EvaluateConfig(max_rank=7), protocol="cross_camera").result
    confidence = result.confidence(resamples=40, seed=3)
    expected = result.confidence_intervals(ranks=(1, 5), resamples=40, seed=3)
    assert tuple(confidence["mAP"]) == expected["mAP"]
    assert tuple(confidence["cmc"][4]) == expected["rank-5"]
    assert (len(confidence["cmc"]), confidence["level"], confidence["resamples"]) == (7, 0.95, 40)


def test_settings_choose_every_step(features: FeatureSet) -> None:
    own = EvaluateConfig(metric="euclidean", average_precision="trapezoid", confidence=100)
    scored = score(features, own, protocol="cross_camera")
    expected = rank(**features.arrays(), average_precision="trapezoid")
    assert scored.report()["mAP"] == expected.mAP
    assert scored.report()["confidence"]["resamples"] == 100
    settings = apply_changes(own, {"protocol": "no_camera_filter", "confidence": 0})
    other = score(features, settings, protocol="cross_camera")
    assert (other.result.protocol.name, other.confidence) == ("no_camera_filter", None)
    with pytest.raises(InputError, match="unknown key 'expnd'; did you mean expand"):
        apply_changes(own, {"expnd": 3})


def test_paths_of_images_are_kept_with_their_features(features: FeatureSet, tmp_path: Path) -> None:
    paths = [np.array([f"{side}/é {i}.jpg" for i in range(n)]) for side, n in (("q", 10), ("g", 40))]
    save_features(tmp_path / "f.npz", replace(features, query_paths=paths[0], gallery_paths=paths[1]))
    read = load_features(tmp_path / "f.npz")
    assert read.query_paths is not None
    assert read.query_paths.tolist() == paths[0].tolist()
    assert "query_paths" not in read.arrays()
    with pytest.raises(InputError, match="query_paths has shape .9,. .* expected 10 strings"):
        replace(features, query_paths=paths[0][:9])
    np.savez(tmp_path / "g.npz", **features.arrays(), gallery_paths=np.arange(40))
    with pytest.raises(InputError, match=r"g\.npz: gallery_paths has shape .40,. and dtype int64"):
        load_features(tmp_path / "g.npz")
