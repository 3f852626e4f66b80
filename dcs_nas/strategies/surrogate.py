"""A predictor of scores: from encodings and scores without training to a distribution of the score of a training.

N trials, M candidates, F numbers of an encoding, E scores without training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata

from dcs_nas.config import PredictorConfig

_TREES = 200
_LENGTH = 1.0
_NOISE = 0.1


class Prediction(NamedTuple):
    """Mean and standard deviation (M,) of the score, without the noise of a training."""

    mean: np.ndarray
    deviation: np.ndarray


def predict(
    settings: PredictorConfig, features: np.ndarray, scores: np.ndarray, candidates: np.ndarray, *, seed: int
) -> Prediction:
    """Return the scores predicted for ``candidates`` (M, F + E) by ``features`` (N, F + E) and ``scores`` (N,).

    ``gaussian_process``: an RBF kernel of length 1 and noise of a tenth of the scores' variance; both fixed, as they
    proved better so than fitted to ten trials (docs/which_search.md). ``forest``: the mean and the deviation of trees.
    """
    if np.ptp(scores) == 0:
        return Prediction(np.full(len(candidates), scores[0]), np.ones(len(candidates)))
    if settings.model == "forest":
        return _forest(features, scores, candidates, seed)
    return _gaussian_process(features, scores, candidates)


def _gaussian_process(features: np.ndarray, scores: np.ndarray, candidates: np.ndarray) -> Prediction:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    process = GaussianProcessRegressor(RBF(_LENGTH), alpha=_NOISE, optimizer=None, normalize_y=True)
    return Prediction(*process.fit(features, scores).predict(candidates, return_std=True))


def _forest(features: np.ndarray, scores: np.ndarray, candidates: np.ndarray, seed: int) -> Prediction:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(_TREES, min_samples_leaf=2, max_features=0.5, random_state=seed)
    forest.fit(features, scores)
    trees = np.array([tree.predict(candidates) for tree in forest.estimators_])
    return Prediction(trees.mean(0), trees.std(0))


def expect_improvement(prediction: Prediction, best: float) -> np.ndarray:
    """Return E max(score - best, 0) (M,) of normally distributed scores: s (z Phi(z) + phi(z)), z = (mean - best) / s.

    Where s is 0 it is the mean's own improvement.
    """
    mean, deviation = prediction
    z = (mean - best) / np.where(deviation > 0, deviation, 1)
    return np.where(deviation > 0, deviation * (z * norm.cdf(z) + norm.pdf(z)), np.maximum(mean - best, 0))


def encode_features(encodings: Sequence[np.ndarray], evidence: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return encodings (N, F) beside the ranks of N evidences (N, E), each of both blocks with a variance of 1.

    Ranks among all N, ties shared, so that neither scale nor outliers of a score count; a score that is missing, since
    it was not finite, ranks below all.
    """
    blocks = [np.array(encodings)]
    names = sorted({name for one in evidence for name in one})
    if names:
        columns = [[one.get(name, -np.inf) for one in evidence] for name in names]
        blocks.append(np.array([rankdata(column) for column in columns]).T)
    return np.concatenate([_scale(block) for block in blocks], axis=1)


def _scale(block: np.ndarray) -> np.ndarray:
    centered = block - block.mean(0)
    variance = centered.var(0).sum()
    return centered / np.sqrt(variance) if variance else centered
