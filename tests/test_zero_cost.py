"""Scores without training, each against a slow formula of its own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.strategies import zero_cost
from dcs_nas.strategies.zero_cost import ZERO_COST


class Small(nn.Module):
    """Convolution, batch norm, rectifiers as a function and as modules, linear layer."""

    def __init__(self, rectifier: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.rectifier = rectifier or nn.ReLU()
        self.linear = nn.Linear(4, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.last(self.rectifier(self.linear(x.mean((2, 3)))))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 5, 4)


def loss(network: nn.Module, images: Tensor) -> Tensor:
    return F.cross_entropy(network(images), torch.arange(len(images)) % 3)


@pytest.mark.parametrize("rectifier", [nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.LeakyReLU(), nn.GELU()])
def test_naswot_counts_the_rectifiers_on_which_two_images_agree(rectifier: nn.Module, images: Tensor) -> None:
    network = Small(rectifier).train()
    codes = []
    with torch.no_grad():
        hidden = network.norm(network.conv(images))
        for b in range(len(images)):
            after = network.linear(torch.relu(hidden[b : b + 1]).mean((2, 3)))
            codes.append([float(x) > 0 for x in (*hidden[b].flatten(), *after.flatten())])
    kernel = [[sum(x == y for x, y in zip(a, b)) for b in codes] for a in codes]
    network.norm.reset_running_stats()
    score = zero_cost.naswot(network, images, lambda n: loss(n, images))
    assert score == pytest.approx(math.log(abs(np.linalg.det(np.array(kernel, dtype=float)))), rel=1e-6)


def test_synflow_is_the_sum_over_all_paths_of_the_products_of_absolute_weights() -> None:
    """Of a network of L layers without biases each layer's sum is R itself, so that the score is log L R."""
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 5, bias=False), nn.Linear(5, 2, False))
    first, second, third = (network[i].weight.tolist() for i in (0, 2, 3))
    paths = itertools.product(range(3), range(4), range(5), range(2))
    flow = sum(abs(first[j][i] * second[k][j] * third[o][k]) for i, j, k, o in paths)
    images = torch.randn(2, 3)
    assert zero_cost.synflow(network, images, lambda n: loss(n, images)) == pytest.approx(math.log(3 * flow), rel=1e-9)


def test_synflow_has_no_ceilings(images: Tensor) -> None:
    wide = [Small(rectifier) for rectifier in (nn.ReLU(), nn.ReLU6())]
    state = {name: 100 + value.abs() for name, value in wide[0].state_dict().items()}
    for network in wide:
        network.load_state_dict(state)
    scores = [zero_cost.synflow(network, images, lambda n: loss(n, images)) for network in wide]
    assert scores[0] == scores[1] > 10


def test_synflow_is_that_of_finite_differences(images: Tensor) -> None:
    network = Small().double().eval()

    def flow() -> float:
        with torch.no_grad():
            return float(positive(torch.ones(1, 3, 5, 4, dtype=torch.float64)).sum())

    positive = Small().double().eval()
    positive.load_state_dict({name: value.abs() for name, value in network.state_dict().items()})
    total, step = 0.0, 1e-6
    with torch.no_grad():
        for layer in (positive.conv, positive.linear, positive.last):
            weights = layer.weight.view(-1)
            for i in range(len(weights)):
                before, value = flow(), float(weights[i])
                weights[i] += step
                total += abs(value * (flow() - before) / step)
                weights[i] = value
    score = zero_cost.synflow(network, images.double(), lambda n: loss(n, images))
    assert score == pytest.approx(math.log(total), rel=1e-4)


def test_the_jacobian_score_is_that_of_gradients_pixel_by_pixel(images: Tensor) -> None:
    network, images = Small().double().train(), images.double()
    rows, step = [], 1e-6
    with torch.no_grad():
        for b in range(len(images)):
            row = []
            for i in range(images[b].numel()):
                sums = []
                for sign in (1, -1):
                    moved = images.clone()
                    moved[b].view(-1)[i] += sign * step
                    sums.append(float(network(moved).sum()))
                row.append((sums[0] - sums[1]) / (2 * step))
            rows.append(row)
    correlations = np.zeros((len(rows), len(rows)))
    for a, b in itertools.product(range(len(rows)), repeat=2):
        x, y = (np.array(rows[i]) - np.mean(rows[i]) for i in (a, b))
        correlations[a, b] = (x @ y) / math.sqrt((x @ x) * (y @ y))
    expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in np.linalg.eigvalsh(correlations))
    assert zero_cost.jacobian(network, images, lambda n: loss(n, images)) == pytest.approx(expected, rel=1e-4)


def test_the_gradient_norm_is_the_sum_of_the_layers_norms_by_finite_differences(images: Tensor) -> None:
    network, images, step = Small().double().train(), images.double(), 1e-6
    score = zero_cost.gradient_norm(network, images, lambda n: loss(n, images))
    total = 0.0
    with torch.no_grad():
        for layer in (network.conv, network.linear, network.last):
            weights, squares = layer.weight.view(-1), 0.0
            for i in range(len(weights)):
                losses = []
                for sign in (1, -1):
                    value = float(weights[i])
                    weights[i] = value + sign * step
                    losses.append(float(loss(network, images)))
                    weights[i] = value
                squares += ((losses[0] - losses[1]) / (2 * step)) ** 2
            total += math.sqrt(squares)
    assert score == pytest.approx(total, rel=1e-5)


def test_parameters_are_counted(images: Tensor) -> None:
    count = 3 * 4 * 9 + 4 + 8 + 4 * 5 + 5 + 5 * 3 + 3
    assert zero_cost.parameters(Small(), images, lambda n: loss(n, images)) == pytest.approx(math.log(count))


@pytest.mark.parametrize("name", ZERO_COST)
def test_a_score_leaves_the_network_as_it_was_and_is_the_same_again(name: str, images: Tensor) -> None:
    network = Small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    scores = [ZERO_COST[name](network, images, lambda n: loss(n, images)) for _ in range(2)]
    assert scores[0] == scores[1]
    assert math.isfinite(scores[0])
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_without_rectifiers_that_computes_nothing_has_no_finite_score(images: Tensor) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    nn.init.zeros_(plain[1].weight)
    for name in ("naswot", "synflow", "jacobian"):
        assert ZERO_COST[name](plain, images, lambda n: loss(n, images)) == -math.inf
