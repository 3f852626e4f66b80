"""Identity, triplet and center losses against slow loops, and the objective that adds them up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from dcs_nas.config import LossConfig
from dcs_nas.errors import InputError
from dcs_nas.losses import CenterLoss, Objective, batch_hard, first_nonfinite, identity_loss, triplet_loss
from dcs_nas.settings import parse

LABELS = {
    "balanced": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "with one-image people": [0, 0, 1, 2, 2, 2, 3, 4, 4],
    "one person": [5] * 9,
    "all strangers": list(range(9)),
}


def slow_triplets(features: np.ndarray, labels: list[int]) -> list[tuple[int, int, int]]:
    found = []
    for i, label in enumerate(labels):
        distances = [math.sqrt(((features[i] - other) ** 2).sum()) for other in features]
        positives = [(distances[j], j) for j in range(len(labels)) if j != i and labels[j] == label]
        negatives = [(distances[j], j) for j in range(len(labels)) if labels[j] != label]
        if positives and negatives:
            found.append((i, max(positives)[1], min(negatives)[1]))
    return found


def slow_triplet_loss(features: np.ndarray, labels: list[int], margin: float | None) -> float:
    values: list[float] = []
    for a, p, n in slow_triplets(features, labels):
        gap = float(np.linalg.norm(features[a] - features[p]) - np.linalg.norm(features[a] - features[n]))
        values.append(math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin))
    return float(np.mean(values)) if values else 0.0


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("margin", [None, 0.0, 0.3, 5.0])
def test_the_triplet_loss_equals_a_slow_loop(labels: list[int], margin: float | None) -> None:
    for _ in range(10):
        features = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
        loss = triplet_loss(features, torch.tensor(labels), margin=margin)
        assert loss.item() == pytest.approx(slow_triplet_loss(features.detach().numpy(), labels, margin))
        loss.backward()
        assert features.grad is not None
        assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_hardest_pairs_are_those_of_a_slow_loop(labels: list[int]) -> None:
    features = torch.randn(9, 4, dtype=torch.float64)
    mined = torch.stack(batch_hard(features, torch.tensor(labels)), dim=1)
    assert [tuple(row) for row in mined.tolist()] == slow_triplets(features.numpy(), labels)


@pytest.mark.parametrize("margin", [None, 0.3])
def test_the_triplet_loss_and_its_gradient_equal_those_of_pytorch_metric_learning(margin: float | None) -> None:
    labels = torch.arange(16).repeat_interleave(4)
    ours = torch.randn(64, 32, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    euclidean = LpDistance(normalize_embeddings=False)
    reference = TripletMarginLoss(
        margin=margin or 0.0, smooth_loss=margin is None, distance=euclidean, reducer=MeanReducer()
    )
    expected = reference(theirs, labels, BatchHardMiner(distance=euclidean)(theirs, labels))
    actual = triplet_loss(ours, labels, margin=margin)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, ours), torch.autograd.grad(expected, theirs))


@pytest.mark.parametrize("margin", [None, 0.3])
def test_triplet_gradients_agree_with_finite_differences_to_second_order(margin: float | None) -> None:
    features = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda f: triplet_loss(f, labels, margin=margin), features)
    assert torch.autograd.gradgradcheck(lambda f: triplet_loss(f, labels, margin=margin), features)


def test_coinciding_features_give_finite_gradients() -> None:
    features = torch.ones(6, 3, requires_grad=True)
    loss = triplet_loss(features, torch.tensor([0, 0, 1, 1, 2, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_mining_is_exact_where_distances_are_small_beside_the_features() -> None:
    labels = torch.arange(40) // 4
    features = torch.randn(40, 16) + 1e3
    mined = torch.stack(batch_hard(features, labels), dim=1)
    assert [tuple(row) for row in mined.tolist()] == slow_triplets(features.double().numpy(), labels.tolist())


def test_the_triplet_loss_is_computed_in_full_precision_under_autocast() -> None:
    features, labels = torch.randn(8, 16), torch.arange(8) // 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = triplet_loss(features, labels)
    assert loss == triplet_loss(features, labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_identity_loss_is_the_cross_entropy_of_smoothed_targets(smoothing: float) -> None:
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 2, 1, 3])
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        normaliser = math.log(sum(math.exp(v) for v in row))
        for k, value in enumerate(row):
            target = smoothing / 5 + (1 - smoothing) * (k == label)
            expected -= target * (value - normaliser) / 6
    assert identity_loss(logits, labels, label_smoothing=smoothing).item() == pytest.approx(expected)


def test_center_loss_is_the_mean_squared_distance_to_the_own_centre() -> None:
    loss, labels = CenterLoss(num_classes=3, feature_dim=4), torch.tensor([0, 2, 2])
    features = torch.randn(3, 4, requires_grad=True)
    expected = sum(((features[i] - loss.centres[y]) ** 2).sum() for i, y in enumerate(labels)) / 3
    value = loss(features, labels)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, 2 * (features - loss.centres[labels]).detach() / 3)
    assert loss.centres.grad is not None
    torch.testing.assert_close(loss.centres.grad[2], -features.grad[1:].sum(0))
    assert (loss.centres.grad[1] == 0).all()


def test_center_loss_refuses_what_does_not_fit() -> None:
    loss = CenterLoss(num_classes=3, feature_dim=4)
    with pytest.raises(InputError, match=r"features have shape \(2, 5\), expected \(n, 4\)"):
        loss(torch.randn(2, 5), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="labels run from 0 to 3, expected 0 to 2"):
        loss(torch.randn(2, 4), torch.tensor([0, 3]))
    with pytest.raises(InputError, match="expected 2 integers"):
        loss(torch.randn(2, 4), torch.tensor([0.0, 1.0]))


# The objective


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, features, labels and images."""
    labels = torch.arange(12) % 4
    return torch.randn(12, 4), torch.randn(12, 8, requires_grad=True), labels, torch.randn(12, 3, 8, 4)


def objective(**more: object) -> Objective:
    return Objective(LossConfig.model_validate(more), num_classes=4, feature_dim=8)


def test_the_default_objective_is_identity_plus_triplet() -> None:
    logits, features, labels, _ = batch()
    terms = objective()(logits, features, labels)
    torch.testing.assert_close(terms["identity"], identity_loss(logits, labels, label_smoothing=0.1))
    torch.testing.assert_close(terms["triplet"], triplet_loss(features, labels, margin=0.3))
    torch.testing.assert_close(terms["loss"], terms["identity"] + terms["triplet"])
    assert set(terms) == {"identity", "triplet", "loss"}
    assert not objective().needs_inputs


def test_the_loss_is_the_weighted_sum_of_all_terms() -> None:
    loss = objective(
        identity_weight=0.5,
        triplet_weight=2,
        triplet_margin=None,
        center_weight=0.1,
        ib_kind="ibb_tight",
        ib_weight=3,
        ib_grid=(4, 2),
    )
    logits, features, labels, images = batch()
    assert loss.needs_inputs
    assert loss(logits, features, labels, images)["ib"] == 0
    loss.update(features, labels, images)
    loss.end_epoch()
    terms = loss(logits, features, labels, images)
    expected = 0.5 * terms["identity"] + 2 * terms["triplet"] + 0.1 * terms["center"] + 3 * terms["ib"]
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["ib"], terms["ib_compression"] + terms["ib_relevance"] + terms["ib_spread"])
    assert terms["ib"] != 0
    terms["loss"].backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_without_logits_the_identity_term_is_left_out() -> None:
    _, features, labels, _ = batch()
    terms = objective()(None, features, labels)
    assert set(terms) == {"triplet", "loss"}
    with pytest.raises(InputError, match="no loss term is left for this batch"):
        objective(triplet_weight=0)(None, features, labels)


def test_an_information_bottleneck_of_weight_zero_is_logged_only() -> None:
    logits, features, labels, images = batch()
    loss = objective(ib_kind="plugin", ib_grid=(1, 1))
    loss.update(features, labels, images)
    loss.end_epoch()
    terms = loss(logits, features, labels, images)
    assert terms["ib"] != 0
    torch.testing.assert_close(terms["loss"], terms["identity"] + terms["triplet"])


def test_updates_and_epochs_without_an_information_bottleneck_do_nothing() -> None:
    loss = objective()
    loss.update(torch.randn(2, 8), torch.tensor([0, 1]))
    loss.end_epoch()
    assert not loss.state_dict()


def test_missing_inputs_are_reported() -> None:
    logits, features, labels, _ = batch()
    with pytest.raises(InputError, match="input_features is None, expected a tensor for the IB term"):
        objective(ib_kind="ibb", ib_weight=1)(logits, features, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"triplet_weight": -1}, "triplet_weight: Input should be greater than or equal to 0"),
        ({"identity_weight": math.nan}, "identity_weight"),
        ({"identity_weight": 0, "triplet_weight": 0}, "give one of them a weight"),
        ({"label_smoothing": 1.5}, "label_smoothing: Input should be less than 1"),
        ({"triplet_margin": -0.1}, "triplet_margin: Input should be greater than or equal to 0"),
        ({"ib_weight": 1}, "ib_weight is 1, but ib_kind is 'none'"),
        ({"ib_kind": "ib"}, "ib_kind: Input should be 'none', 'ibb'"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(LossConfig, change, source="loss")


def test_the_first_term_that_is_not_finite_is_named() -> None:
    good, bad = torch.tensor(1.0), torch.tensor(math.nan)
    assert first_nonfinite({"a": good}) is None
    assert first_nonfinite({"a": good, "b": bad, "c": -bad}) == "b"
    assert first_nonfinite({"a": good, "b": torch.tensor(math.inf)}) == "b"
