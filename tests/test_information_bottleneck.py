"""The information-bottleneck term against enumeration, its bounds on random cases, and its streaming state."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dcs_nas.errors import InputError
from dcs_nas.losses import (
    InformationBottleneck,
    class_conditional,
    entropy,
    ibb,
    ibb_tight,
    input_features,
    log_assignments,
    marginal_entropy,
    mutual_information,
    plugin,
)

KINDS = ("ibb", "ibb_tight", "plugin")
Case = tuple[Tensor, Tensor, Tensor]
case_numbers = st.tuples(
    st.integers(0, 2**31), st.integers(1, 12), st.integers(2, 6), st.sampled_from([0.05, 0.5, 1.0, 3.0])
)


def random_case(seed: int, samples: int, classes: int, spread: float) -> Case:
    """log phi(F), log phi(X) and labels, float64."""
    draw = torch.Generator().manual_seed(seed)

    def assigned() -> Tensor:
        points = torch.randn(samples, 3, generator=draw, dtype=torch.float64) * spread
        return log_assignments(points, torch.randn(classes, 3, generator=draw, dtype=torch.float64) * spread)

    return assigned(), assigned(), torch.randint(classes, (samples,), generator=draw)


def random_q(seed: int, classes: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(classes, classes, generator=draw, dtype=torch.float64).log_softmax(1)


def total(terms: dict[str, Tensor]) -> float:
    return float(sum(terms.values()))


def slow_information(joint: np.ndarray) -> float:
    value = 0.0
    for a in range(joint.shape[0]):
        for b in range(joint.shape[1]):
            if joint[a, b] > 0:
                value += joint[a, b] * math.log(joint[a, b] / (joint[a].sum() * joint[:, b].sum()))
    return value


def slow_ib(log_f: Tensor, log_x: Tensor, labels: Tensor) -> float:
    """I(F;X) - I(F;Y) by enumeration of the two joints."""
    p, q = log_f.exp().numpy(), log_x.exp().numpy()
    n, k = p.shape
    with_input, with_label = np.zeros((k, k)), np.zeros((k, k))
    for i in range(n):
        for a in range(k):
            with_label[a, labels[i]] += p[i, a] / n
            for b in range(k):
                with_input[a, b] += p[i, a] * q[i, b] / n
    return slow_information(with_input) - slow_information(with_label)


def slow_ibb(log_f: Tensor, log_x: Tensor, labels: Tensor, log_q: Tensor) -> tuple[float, float]:
    p, q, n, k = log_f.exp(), log_x.exp(), *log_f.shape
    compression = relevance = 0.0
    for i in range(n):
        for a in range(k):
            relevance -= float(p[i, a] * log_q[labels[i], a]) / n
            for b in range(k):
                compression += float(p[i, a] * q[i, b] * log_x[i, b]) / n
    return compression, relevance


def test_assignments_are_a_softmax_of_minus_squared_distances() -> None:
    points, means = torch.randn(5, 7) + 3, torch.randn(4, 7) + 3
    scores = np.array([[-((x - c) ** 2).sum() / 2.5 for c in means.numpy()] for x in points.numpy()])
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(log_assignments(points, means, temperature=2.5).exp(), expected, rtol=1e-4)


def test_excluded_classes_get_no_probability_and_the_others_share_it() -> None:
    points, means = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3)
    assignable = torch.tensor([True, False, True, True])
    log_phi = log_assignments(points, means, assignable=assignable)
    torch.testing.assert_close(log_phi[:, assignable], log_assignments(points, means[assignable]))
    assert (log_phi.exp()[:, 1] == 0).all()
    (log_phi.exp() * log_phi).sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()


@given(case_numbers)
@settings(max_examples=50, deadline=None)
def test_the_plugin_is_the_information_bottleneck_by_enumeration(numbers: tuple[int, int, int, float]) -> None:
    case = random_case(*numbers)
    assert total(plugin(*case)) == pytest.approx(slow_ib(*case), abs=1e-9)


@given(case_numbers)
@settings(max_examples=30, deadline=None)
def test_the_published_bound_equals_its_triple_loop(numbers: tuple[int, int, int, float]) -> None:
    log_f, log_x, labels = random_case(*numbers)
    log_q = random_q(numbers[0], log_f.shape[1])
    terms = ibb(log_f, log_x, labels, log_q)
    assert (float(terms["compression"]), float(terms["relevance"])) == pytest.approx(
        slow_ibb(log_f, log_x, labels, log_q), abs=1e-9
    )


@given(case_numbers, st.booleans())
@settings(max_examples=150, deadline=None)
def test_both_bounds_hold_and_the_tight_one_is_tighter(numbers: tuple[int, int, int, float], exact_q: bool) -> None:
    log_f, log_x, labels = random_case(*numbers)
    log_q = class_conditional(log_f, labels) if exact_q else random_q(numbers[0], log_f.shape[1])
    h_b, h_a = float(marginal_entropy(log_x)), float(marginal_entropy(log_f))
    ib, published = slow_ib(log_f, log_x, labels), total(ibb(log_f, log_x, labels, log_q))
    tight = total(ibb_tight(log_f, log_x, labels, log_q))
    assert ib <= tight + h_b + 1e-9
    assert tight <= published
    assert tight == pytest.approx(published - h_a, abs=1e-9)


def test_a_batch_overestimates_the_tight_bound_on_average_and_never_breaks_it() -> None:
    log_f, log_x, labels = random_case(0, 12, 4, 1.0)
    log_q = class_conditional(log_f, labels)
    whole = total(ibb_tight(log_f, log_x, labels, log_q))
    parts = [total(ibb_tight(log_f[i::3], log_x[i::3], labels[i::3], log_q)) for i in range(3)]
    assert np.mean(parts) >= whole


def test_compression_is_minus_the_mean_entropy_of_the_input_assignments() -> None:
    log_f, log_x, labels = random_case(1, 9, 5, 1.0)
    expected = -np.mean([float(entropy(row.exp())) for row in log_x])
    assert float(ibb(log_f, log_x, labels, log_f[:5])["compression"]) == pytest.approx(expected)


def test_compression_of_raw_input_moves_no_weight_and_of_a_stem_moves_the_stem() -> None:
    term = ready_term(kind="ibb")
    features, inputs = torch.randn(6, 8, requires_grad=True), torch.randn(6, 5)
    terms = term(features, inputs, torch.arange(6) % 4)
    assert not terms["ib_compression"].requires_grad
    (gradient,) = torch.autograd.grad(terms["ib"], features)
    assert gradient.abs().max() > 0
    stem = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(features, stem, torch.arange(6) % 4)["ib_compression"], stem)
    assert gradient.abs().max() > 0


def test_weights_act_as_repetitions() -> None:
    log_f, log_x, labels = random_case(2, 3, 4, 1.0)
    log_q = class_conditional(log_f, labels)
    twice = torch.tensor([0, 0, 2])
    weights = torch.tensor([2 / 3, 0, 1 / 3], dtype=torch.float64)
    for bound in (ibb, ibb_tight):
        repeated = bound(log_f[twice], log_x[twice], labels[twice], log_q)
        torch.testing.assert_close(bound(log_f, log_x, labels, log_q, weights), repeated)
    torch.testing.assert_close(plugin(log_f, log_x, labels, weights), plugin(log_f[twice], log_x[twice], labels[twice]))


def test_mutual_information_of_a_copy_is_its_entropy_and_of_a_constant_is_zero() -> None:
    p = torch.eye(4, dtype=torch.float64)
    assert float(mutual_information(p, p)) == pytest.approx(math.log(4))
    assert float(mutual_information(p, torch.ones(4, 1, dtype=torch.float64))) == pytest.approx(0)


def ready_term(*, classes: int = 4, dim: int = 8, input_dim: int = 5, **more: object) -> InformationBottleneck:
    term = InformationBottleneck(num_classes=classes, feature_dim=dim, input_dim=input_dim, **more)  # type: ignore[arg-type]
    labels = torch.arange(3 * classes) % classes
    term.update(torch.randn(len(labels), dim), torch.randn(len(labels), input_dim), labels)
    term.end_epoch()
    return term


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_agree_with_finite_differences_to_second_order(kind: str, normalize: bool) -> None:
    term = ready_term(kind=kind, normalize=normalize, temperature="auto").double()
    features = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda f, x: term(f, x, labels)["ib"], (features, inputs))
    assert torch.autograd.gradgradcheck(lambda f, x: term(f, x, labels)["ib"], (features, inputs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, "auto"])
@pytest.mark.parametrize("scale", [1e-8, 1e4, 1e8])
def test_values_and_gradients_are_finite_at_extreme_distances(kind: str, temperature: object, scale: float) -> None:
    term = InformationBottleneck(kind=kind, num_classes=5, feature_dim=8, input_dim=8, temperature=temperature)  # type: ignore[arg-type]
    labels = torch.arange(16) % 4  # nobody has label 4
    for _ in range(2):
        term.update(torch.randn(16, 8) * scale, torch.randn(16, 8) * scale, labels)
        term.end_epoch()
    features, inputs = ((torch.randn(16, 8) * scale).requires_grad_() for _ in range(2))
    terms = term(features, inputs, labels)
    assert all(torch.isfinite(value) for value in terms.values())
    for gradient in torch.autograd.grad(terms["ib"], (features, inputs), allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


def test_features_all_alike_are_no_problem_to_the_automatic_temperature() -> None:
    term = InformationBottleneck(num_classes=3, feature_dim=2, input_dim=2, temperature="auto")
    for offset in (0.0, 1e4):
        points, labels = torch.full((6, 2), offset, requires_grad=True), torch.arange(6) % 3
        term.update(points, points, labels)
        term.end_epoch()
        terms = term(points + torch.randn(6, 2) * 1e4, points, labels)
        terms["ib"].backward()
        assert torch.isfinite(terms["ib"])
        assert points.grad is not None
        assert torch.isfinite(points.grad).all()


def test_assignments_are_accurate_far_from_the_origin() -> None:
    points, means = torch.randn(20, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    points, means = (points + 1e4).float(), (means + 1e4).float()
    exact = log_assignments(points.double(), means.double())
    torch.testing.assert_close(log_assignments(points, means).double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_classes_work(kind: str) -> None:
    term = ready_term(kind=kind, classes=3000, dim=16, temperature="auto")
    features = torch.randn(8, 16, requires_grad=True)
    terms = term(features, torch.randn(8, 5), torch.arange(8) * 300)
    terms["ib"].backward()
    assert torch.isfinite(terms["ib"])
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


@pytest.mark.parametrize(("kind", "limit"), [("ibb", 16 * 200), ("ibb_tight", 16 * 200), ("plugin", 200 * 200)])
def test_no_tensor_has_samples_times_classes_times_classes_elements(kind: str, limit: int) -> None:
    term = ready_term(kind=kind, classes=200)
    features = torch.randn(16, 8, requires_grad=True)
    with Largest() as largest:
        term(features, torch.randn(16, 5), torch.arange(16))["ib"].backward()
    assert largest.elements == limit


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing_and_half_precision_features_are_raised(kind: str) -> None:
    term = ready_term(kind=kind)
    features, inputs, labels = torch.randn(6, 8).bfloat16(), torch.randn(6, 5), torch.arange(6) % 4
    expected = term(features.float(), inputs, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = term(features, inputs, labels)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_published_assignments_are_one_hot_in_hundreds_of_dimensions_and_automatic_ones_are_not() -> None:
    labels = torch.arange(512) % 64
    features = 0.7 * torch.randn(64, 512)[labels] + torch.randn(512, 512)  # others about twice as far as the own mean
    own = {}
    for temperature in (1.0, "auto"):
        term = InformationBottleneck(num_classes=64, feature_dim=512, input_dim=1, temperature=temperature)
        for _ in range(2):
            term.update(features, features[:, :1], labels)
            term.end_epoch()
        points = features.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(term(points, points[:, :1], labels)["ib_relevance"], points)
        log_phi = term.feature_means.log_assignments(features)
        own[temperature] = float(log_phi.exp()[range(512), labels].mean())
        assert (gradient.norm(dim=1).max() < 1e-6) == (temperature == 1.0)
    assert own[1.0] > 0.999
    assert 0.3 < own["auto"] < 0.9


# Streaming state


def epoch(seed: int, batches: int = 3, classes: int = 4) -> list[Case]:
    draw = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(8, 8, generator=draw),
            torch.randn(8, 5, generator=draw),
            torch.randint(classes, (8,), generator=draw),
        )
        for _ in range(batches)
    ]


def joined(batches: list[Case]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*batches)]


def new_term(**more: object) -> InformationBottleneck:
    return InformationBottleneck(num_classes=4, feature_dim=8, input_dim=5, **more)  # type: ignore[arg-type]


def class_means(points: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([points[labels == y].mean(0) for y in range(4)])


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_refresh_the_term_is_zero_without_gradient(kind: str) -> None:
    term = new_term(kind=kind)
    batch = epoch(0)[0]
    term.update(*batch)
    terms = term(batch[0].requires_grad_(), *batch[1:])
    assert not term.ready
    assert all(value == 0 and not value.requires_grad for value in terms.values())
    term.end_epoch()
    assert term.ready
    assert set(term(*batch)) == set(terms)


def test_an_epoch_streams_to_its_class_means_and_to_q_under_the_means_before() -> None:
    term, first, second = new_term(), epoch(0), epoch(1)
    for batches in (first, second):
        for batch in batches:
            term.update(*batch)
        term.end_epoch()
    (f0, _, y0), (f1, x1, y1) = joined(first), joined(second)
    torch.testing.assert_close(term.feature_means.means, class_means(f1, y1))
    torch.testing.assert_close(term.input_means.means, class_means(x1, y1))
    torch.testing.assert_close(term.log_q, class_conditional(log_assignments(f1, class_means(f0, y0)), y1))


def test_after_the_first_epoch_q_is_the_assignment_of_the_class_means() -> None:
    term, (f, x, y) = new_term(), joined(epoch(0))
    term.update(f, x, y)
    term.end_epoch()
    means = class_means(f, y)
    torch.testing.assert_close(term.log_q, log_assignments(means, means))
    torch.testing.assert_close(term.log_q.exp().sum(1), torch.ones(4))


@pytest.mark.parametrize("temperature", [1.0, "auto"])
def test_the_extra_pass_mode_is_exact(temperature: object) -> None:
    term, batches = new_term(temperature=temperature), epoch(0)
    term.estimate(lambda: batches)
    f, x, y = joined(batches)
    means = class_means(f, y)
    within = float((f - means[y]).square().sum(1).mean()) / math.log(4) if temperature == "auto" else 1.0
    torch.testing.assert_close(float(term.feature_means.scale), within, rtol=1e-5, atol=0)
    log_f = log_assignments(f, means, temperature=within)
    log_q = class_conditional(log_f, y)
    torch.testing.assert_close(term.log_q, log_q, rtol=1e-4, atol=1e-4)
    scale = float(term.input_means.scale)
    expected = ibb(log_f, log_assignments(x, class_means(x, y), temperature=scale), y, log_q)
    actual = term(f, x, y)
    torch.testing.assert_close(actual["ib_relevance"], expected["relevance"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual["ib_compression"], expected["compression"], rtol=1e-4, atol=1e-4)


def test_the_extra_pass_mode_refuses_a_stream_that_ends_after_one_pass() -> None:
    once: Iterator[Case] = iter(epoch(0))
    with pytest.raises(InputError, match=r"first pass has 24 samples and the second 0.*restarts the batches"):
        new_term().estimate(lambda: once)
    with pytest.raises(InputError, match="first pass has 0 samples"):
        new_term().estimate(list)


def test_the_total_is_the_sum_of_its_addends() -> None:
    for kind in KINDS:
        term = ready_term(kind=kind)
        terms = term(torch.randn(6, 8), torch.randn(6, 5), torch.arange(6) % 4)
        total_of = terms.pop("ib")
        torch.testing.assert_close(total_of, torch.stack(list(terms.values())).sum())
        assert ("ib_spread" in terms) == (kind == "ibb_tight")


@pytest.mark.parametrize("kind", KINDS)
def test_people_never_seen_do_not_count(kind: str) -> None:
    term = new_term(kind=kind)
    term.update(*epoch(0, classes=3)[0])
    term.end_epoch()
    f, x, y = joined(epoch(1, classes=3))
    with_stranger = [torch.cat([f, torch.randn(1, 8)]), torch.cat([x, torch.randn(1, 5)]), torch.cat([y, y.new([3])])]
    torch.testing.assert_close(term(*with_stranger), term(f, x, y))
    strangers = term(f.requires_grad_(), x, torch.full_like(y, 3))
    strangers["ib"].backward()
    assert strangers["ib"] == 0
    assert f.grad is not None
    assert (f.grad == 0).all()


def test_a_person_absent_for_an_epoch_keeps_mean_and_q_and_a_new_one_is_taken_in() -> None:
    term = new_term()
    for classes in (3, 3, 2):
        before = term.feature_means.means.clone(), term.log_q.clone()
        for batch in epoch(classes, classes=classes):
            term.update(*batch)
        term.end_epoch()
    assert torch.equal(term.feature_means.means[2], before[0][2])
    assert torch.equal(term.log_q[2], before[1][2])
    assert not torch.equal(term.log_q[:2], before[1][:2])
    for batch in epoch(4):
        term.update(*batch)
    term.end_epoch()
    assert term.feature_means.seen.all()
    assert (term.log_q.exp().argmax(1) == torch.arange(4)).all()


def test_an_epoch_without_updates_changes_nothing_in_use() -> None:
    term = ready_term(temperature="auto")
    before = {name: value.clone() for name, value in term.state_dict().items()}
    term.end_epoch()
    torch.testing.assert_close(dict(term.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [1.0, "auto"])
def test_a_run_resumed_in_mid_epoch_goes_on_bit_equal(temperature: object) -> None:
    straight, batches = new_term(temperature=temperature), [*epoch(0), *epoch(1), *epoch(2)]
    resumed = new_term(temperature=temperature)
    for step, batch in enumerate(batches):
        if step == 4:
            resumed.load_state_dict({name: value.clone() for name, value in straight.state_dict().items()})
        for term in (straight, resumed) if step >= 4 else (straight,):
            term.update(*batch)
            if step % 3 == 2:
                term.end_epoch()
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(straight(*batches[0]).values(), resumed(*batches[0]).values()))


def test_forward_changes_no_state_and_update_keeps_no_gradient() -> None:
    term = ready_term()
    before = {name: value.clone() for name, value in term.state_dict().items()}
    f, x, y = epoch(5)[0]
    f.requires_grad_()
    term(f, x, y)
    assert all(torch.equal(value, before[name]) for name, value in term.state_dict().items())
    term.update(f, x, y)
    assert not any(value.requires_grad for value in term.state_dict().values())


def _process(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    term = new_term(temperature="auto")
    for seed in (0, 1):
        for batch in epoch(seed, batches=4)[rank::2]:
            term.update(*batch)
        term.end_epoch()
    torch.save(term.state_dict(), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_reach_the_statistics_of_one(tmp_path: object) -> None:
    mp.spawn(_process, args=(f"{tmp_path}/store", str(tmp_path)), nprocs=2)
    alone = new_term(temperature="auto")
    for seed in (0, 1):
        for batch in epoch(seed, batches=4):
            alone.update(*batch)
        alone.end_epoch()
    for rank in range(2):
        torch.testing.assert_close(torch.load(f"{tmp_path}/{rank}.pt"), dict(alone.state_dict()))


# Input features and errors


def test_images_are_averaged_over_the_cells_of_a_grid() -> None:
    images = torch.randn(2, 3, 8, 4)
    expected = [
        images[1, c, 4 * i : 4 * i + 4, 2 * j : 2 * j + 2].mean() for c in range(3) for i in (0, 1) for j in (0, 1)
    ]
    torch.testing.assert_close(input_features(images, (2, 2))[1], torch.stack(expected))


def test_with_a_grid_the_term_takes_images() -> None:
    with_grid, without = new_term(input_grid=(5, 1)), new_term()
    images, (f, _, y) = torch.randn(8, 1, 10, 6), epoch(0)[0]
    for term, inputs in ((with_grid, images), (without, input_features(images, (5, 1)))):
        term.update(f, inputs, y)
        term.end_epoch()
    assert torch.equal(with_grid(f, images, y)["ib"], without(f, input_features(images, (5, 1)), y)["ib"])
    with pytest.raises(InputError, match=r"shape \(8, 5\) cannot be pooled"):
        with_grid(f, torch.randn(8, 5), y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ibb_tigth"}, "unknown IB kind 'ibb_tigth'; did you mean ibb_tight"),
        ({"temperature": 0}, "temperature is 0, expected a positive number or 'auto'"),
        ({"temperature": "warm"}, "temperature is 'warm'"),
        ({"num_classes": 1}, "expected at least 2 classes"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    settings_: dict = {"num_classes": 4, "feature_dim": 8, "input_dim": 5, **change}
    with pytest.raises(InputError, match=message):
        InformationBottleneck(**settings_)


def test_shapes_and_labels_that_do_not_fit_are_refused() -> None:
    term, (f, x, y) = new_term(), epoch(0)[0]
    with pytest.raises(InputError, match=r"features have shape \(8, 7\), expected \(8, 8\)"):
        term(f[:, 1:], x, y)
    with pytest.raises(InputError, match=r"input features have shape \(7, 5\), expected \(8, 5\)"):
        term.update(f, x[1:], y)
    with pytest.raises(InputError, match=r"labels have shape \(7,\).*expected 8 integers"):
        term(f, x, y[1:])
    with pytest.raises(InputError, match="labels run from 0 to 4, expected 0 to 3"):
        term(f, x, torch.tensor([0, 1, 2, 3, 4, 0, 0, 0]))
    with pytest.raises(InputError, match=r"class sums are torch.bfloat16, expected float32: use autocast"):
        term.bfloat16().update(f, x, y)
