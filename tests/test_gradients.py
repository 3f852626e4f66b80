"""Architecture gradients: the published values, and a quadratic whose derivatives can be written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dcs_nas.errors import InputError
from dcs_nas.strategies.gradients import WeightStep, dominant_eigenvalue, gradients, mixed_product, second_order
from tests.darts import golden_network, logits

Golden = Callable[[str], dict[str, np.ndarray]]


def _published(golden: Golden, **options: object) -> tuple[list[Tensor], dict[str, np.ndarray]]:
    values = golden("darts_supernet")
    supernet, classifier = golden_network(values)
    weights = [*supernet.weights(), *classifier.parameters()]
    alphas = list(supernet.alphas().values())

    def loss(part: str) -> Callable[[], Tensor]:
        images, labels = (torch.from_numpy(values[f"{name}_{part}"]) for name in "xy")
        return lambda: cross_entropy(logits(supernet, classifier, images), labels)

    step = WeightStep(
        lr=float(values["eta"]), momentum=float(values.get("momentum", 0.9)), weight_decay=float(values["weight_decay"])
    )
    before = [w.detach().clone() for w in weights]
    found = second_order(loss("train"), loss("val"), weights, alphas, step, **options)  # type: ignore[arg-type]
    assert all(torch.equal(w, b) for w, b in zip(weights, before))
    return dict(zip(supernet.alphas(), found)), values  # type: ignore[return-value]


def _error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    difference = torch.cat([(a - b).flatten() for a, b in zip(found, expected)]).norm()
    return float(difference / torch.cat([e.flatten() for e in expected]).norm())


def test_finite_differences_give_the_published_second_order_gradients(golden: Golden) -> None:
    found, values = _published(golden, hessian="finite_difference")
    for kind in ("normal", "reduce"):
        np.testing.assert_allclose(found[kind].numpy(), values[f"second_order_{kind}"], rtol=1e-8, atol=1e-11)


def test_the_exact_product_is_what_finite_differences_give_within_a_radius_without_kinks(golden: Golden) -> None:
    """Max pools and ReLUs have kinks that a larger radius crosses: at the published one its error is half the value."""
    exact, values = _published(golden, hessian="exact")
    kinds = ("normal", "reduce")

    def error(radius: float) -> float:
        near, _ = _published(golden, hessian="finite_difference", radius=radius)
        return _error([near[k] for k in kinds], [exact[k] for k in kinds])

    assert error(1e-5) < 1e-9
    published = [torch.from_numpy(values[f"second_order_{k}"]) for k in kinds]
    assert _error(published, [exact[k] for k in kinds]) == pytest.approx(error(1e-2), rel=1e-6)


def test_without_kinks_the_error_of_finite_differences_falls_with_the_square_of_the_radius() -> None:
    w, a = (torch.randn(4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x, y = torch.randn(2, 8, 4).double()

    def loss() -> Tensor:
        return (torch.tanh(x @ w) * torch.softmax(a, 1).sum(0) @ a - y).pow(2).mean()

    exact = second_order(loss, loss, [w], [a], WeightStep(lr=1.0))
    errors = [
        _error(second_order(loss, loss, [w], [a], WeightStep(lr=1.0), hessian="finite_difference", radius=r), exact)
        for r in (1e-1, 1e-2, 1e-3)
    ]
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1)
    assert errors[2] == pytest.approx(errors[1] / 100, rel=0.1)


def _quadratic() -> tuple[Tensor, Tensor, Callable[[], Tensor], Callable[[], Tensor]]:
    """L_train = (w - A a)^2 / 2 + a.w^2, L_val = (w - b)^2 / 2 + a^2 / 2."""
    torch.manual_seed(0)
    w, a = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    matrix, b = torch.randn(3, 3).double(), torch.randn(3).double()
    return (
        w,
        a,
        lambda: (w - matrix @ a).pow(2).sum() / 2 + (a * w.pow(2)).sum(),
        lambda: (w - b).pow(2).sum() / 2 + a.pow(2).sum() / 2,
    )


@pytest.mark.parametrize("hessian", ["exact", "finite_difference"])
def test_second_order_equals_differentiating_through_the_weight_step(hessian: str) -> None:
    w, a, train, val = _quadratic()
    buffer, lr, momentum, decay = torch.randn(3).double(), 0.1, 0.9, 0.01
    step = WeightStep(lr=lr, momentum=momentum, weight_decay=decay, buffers=[buffer])
    (found,) = second_order(train, val, [w], [a], step, hessian=hessian)  # type: ignore[arg-type]
    (g,) = torch.autograd.grad(train(), w, create_graph=True)
    ahead = w - lr * (momentum * buffer + g + decay * w)
    b = w.detach() - torch.autograd.grad(val(), w)[0]  # L_val's centre
    (expected,) = torch.autograd.grad((ahead - b).pow(2).sum() / 2 + a.pow(2).sum() / 2, a)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_power_iteration_finds_the_largest_eigenvalue_with_its_sign() -> None:
    matrix = torch.diag(torch.tensor([1.0, -4.0, 2.0, 0.5])).double()
    rotation = torch.linalg.qr(torch.randn(4, 4).double())[0]
    hessian = rotation @ matrix @ rotation.T
    a = torch.randn(4, dtype=torch.float64, requires_grad=True)
    found = dominant_eigenvalue(lambda: a @ hessian @ a / 2, [a], iterations=60)
    assert found == pytest.approx(-4.0, rel=1e-6)


def test_gradients_of_unused_parameters_are_zero_and_products_too() -> None:
    a, w = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert torch.equal(gradients(lambda: (a**2).sum(), [a, w])[1], torch.zeros(2))
    product = mixed_product(lambda: (a**2).sum() + (w**2).sum(), [w], [a], [torch.ones(2)])
    assert torch.equal(product[0], torch.zeros(2))


def test_an_operation_without_second_derivative_is_named() -> None:
    w, a = (torch.randn(30, 2, requires_grad=True) for _ in range(2))
    with pytest.raises(InputError, match=r"no second derivative .*_cdist_.*; use search.hessian=finite_difference"):
        mixed_product(lambda: torch.cdist(w, a, p=1.5).sum(), [w], [a], [torch.ones_like(w)])
