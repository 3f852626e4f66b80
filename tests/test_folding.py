"""Folded batch norms: the same features, and nothing folded where it would not be exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.cell_space import fixed_network
from dcs_nas.models.folding import adjacent_norms, folded
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.space import CellStructure, Genotype, NetworkSpec, SpaceReference

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms as after a training: none of their numbers is 0 or 1."""
    for module in network.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def norms(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, NORMS)]


def cells() -> nn.Module:
    operations = ("skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "harmonious")
    space = CellStructure(operations=operations, attention=("none", "dcs"), nodes=2, edges_per_node=2)
    spec = {"channels": 4, "cells": 2, "stem": "stride2", "reductions": (1,), "height": 32, "width": 16}
    nodes = [
        [{"op": "sep_conv_3x3", "from": 0}, {"op": "skip_connect", "from": 1}],
        [{"op": "dil_conv_3x3", "from": 1}, {"op": "harmonious", "from": 2}],
    ]
    kinds = {kind: {"nodes": nodes, "attention": "dcs"} for kind in ("normal", "reduce")}
    return fixed_network(Genotype(space=SpaceReference.of(space, "test"), network=NetworkSpec(**spec), cells=kinds))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "cells": (cells, 32, 16),
    "resnet": (lambda: BACKBONES["resnet10_small"](height=32, width=16), 32, 16),
    "osnet": (lambda: BACKBONES["osnet_x1_0"](height=64, width=32), 64, 32),
    "mobilenet": (lambda: BACKBONES["mobilenet_v2"](height=64, width=32), 64, 32),
    "hacnn": (lambda: BACKBONES["hacnn"](height=64, width=32), 64, 32),
    "rga": (lambda: BACKBONES["resnet10_small"](height=32, width=16, attention="rga"), 32, 16),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_leaves_the_features_as_they_are(name: str) -> None:
    make, height, width = NETWORKS[name]
    network = with_statistics(ReidNetwork(make(), 5, height=height, width=width))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    plain, gone = folded(network, height=height, width=width)
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        expected, found = network(images), plain(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)
    left = set(norms(plain))
    assert left == set(norms(network)) - set(gone)
    assert len(gone) > 5
    if name in (
        "resnet",
        "osnet",
        "mobilenet",
        "hacnn",
    ):  # all norms follow a layer but the heads', which follow a mean
        assert left == {f"heads.{i}.neck" for i in range(len(network.heads))}
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not plain.training


def test_a_folded_convolution_is_the_published_formula() -> None:
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, groups=1), nn.BatchNorm2d(4)))
    plain, gone = folded(network, height=8, width=4)
    conv, norm, after = network[0], network[1], plain[0]
    for c in range(4):
        gain = norm.weight[c] / (norm.running_var[c] + norm.eps).sqrt()
        assert torch.allclose(after.weight[c], gain * conv.weight[c])
        assert torch.allclose(after.bias[c], gain * (conv.bias[c] - norm.running_mean[c]) + norm.bias[c])
    assert gone == ["1"]


class Case(nn.Module):
    """Convolution and batch norm, put together by ``use``."""

    def __init__(self, use: Callable[[Case, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.other = nn.Conv2d(3, 3, 1, bias=False)
        self.line, self.tokens = nn.Linear(4, 5), nn.BatchNorm1d(3)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def twice(case: Case, x: Tensor) -> Tensor:
    return case.norm(case.conv(case.norm(case.conv(x))))


def residual(case: Case, x: Tensor) -> Tensor:
    y = case.conv(x)
    return y + case.norm(y)


def returned(case: Case, x: Tensor) -> tuple[Tensor, Tensor]:
    y = case.conv(x)
    return y, case.norm(y)


def activated(case: Case, x: Tensor) -> Tensor:
    return case.norm(torch.relu(case.conv(x)))


def shared_norm(case: Case, x: Tensor) -> Tensor:
    return case.norm(case.conv(x)) + case.norm(case.other(x))


def shared_layer(case: Case, x: Tensor) -> Tensor:
    return case.norm(case.conv(x)) + case.conv(x)


def of_tokens(case: Case, x: Tensor) -> Tensor:
    return case.tokens(case.line(x.mean(2)))


def sized(case: Case, x: Tensor) -> Tensor:
    y = case.conv(x)
    return case.norm(y) * y.shape[2]


@pytest.mark.parametrize(
    ("use", "pairs"),
    [
        (twice, {"norm": "conv"}),
        (sized, {"norm": "conv"}),
        (residual, {}),
        (returned, {}),
        (activated, {}),
        (shared_norm, {}),
        (shared_layer, {}),
        (of_tokens, {}),
    ],
)
def test_a_norm_is_folded_only_into_a_layer_that_nothing_else_reads(use: Callable, pairs: dict[str, str]) -> None:
    case = with_statistics(Case(use))
    assert adjacent_norms(case, height=8, width=4) == pairs
    plain, _ = folded(case, height=8, width=4)
    images = torch.randn(2, 3, 8, 4)
    for found, expected in zip(plain(images), case(images)):
        assert torch.allclose(found, expected, atol=1e-5)


def test_tied_weights_and_norms_without_statistics_are_left_alone() -> None:
    case = with_statistics(Case(lambda case, x: case.norm(case.conv(x)) + case.other(x)))
    case.other.weight = case.conv.weight
    assert adjacent_norms(case, height=8, width=4) == {}
    free = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert adjacent_norms(free, height=8, width=4) == {}
