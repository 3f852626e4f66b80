"""Relaxations and mixtures: against loops, means of many draws, and the formulas that they are named for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dcs_nas.config import RelaxationConfig
from dcs_nas.errors import InputError
from dcs_nas.models.cell_kind import CellKind, CellSupernet
from dcs_nas.models.relaxation import DirichletMixture, Gumbel, Sample, Softmax, normalize_edges
from dcs_nas.models.super_cell import SuperCell, edge_index
from dcs_nas.models.supernet import Mixture
from dcs_nas.space import CellStructure, NetworkSpec, Origin, SpaceReference

OPERATIONS = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3")


def _supernet(**options: Any) -> CellSupernet:
    structure = CellStructure(nodes=2, operations=OPERATIONS, attention=("none", "rga_channel"))
    network = NetworkSpec(channels=8, cells=2, reductions=(1,), height=16, width=8)
    return CellSupernet(structure, network, **options)


def test_softmax_divides_by_its_temperature() -> None:
    alpha = torch.tensor([[1.0, 2.0, 4.0]])
    relaxation = Softmax()
    relaxation.temperature = 0.5
    expected = [math.exp(a / 0.5) for a in (1.0, 2.0, 4.0)]
    torch.testing.assert_close(relaxation.compute_expected(alpha)[0], torch.tensor(expected) / sum(expected))


def test_gumbel_draws_one_operation_as_often_as_softmax_says() -> None:
    alpha = torch.tensor([[0.0, 1.0, 2.0]]).repeat(20_000, 1)
    weights, columns = Gumbel().sample(alpha)
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert columns is not None
    assert [row.index(1.0) for row in weights[:50].tolist()] == [c[0] for c in columns[:50]]
    torch.testing.assert_close(weights.mean(0), torch.softmax(alpha[0], 0), atol=0.01, rtol=0)


def test_gumbel_passes_the_gradient_of_the_relaxed_sample() -> None:
    alpha = torch.randn(3, 4, requires_grad=True)
    relaxation = Gumbel()
    relaxation.temperature = 2.0
    direction = torch.randn(3, 4)
    torch.manual_seed(1)
    (found,) = torch.autograd.grad((relaxation.sample(alpha).weights * direction).sum(), alpha)
    torch.manual_seed(1)
    noise = -torch.empty(3, 4).exponential_().log()
    soft = torch.softmax((torch.log_softmax(alpha, -1) + noise) / 2.0, -1)
    (expected,) = torch.autograd.grad((soft * direction).sum(), alpha)
    torch.testing.assert_close(found, expected)


def test_dirichlet_draws_have_the_expected_mean_and_narrow_as_the_temperature_falls() -> None:
    alpha = torch.tensor([[0.5, -0.5, 2.0]]).repeat(20_000, 1)
    relaxation = DirichletMixture()
    spreads = []
    for temperature in (1.0, 0.1):
        relaxation.temperature = temperature
        drawn = relaxation.sample(alpha).weights
        torch.testing.assert_close(drawn.mean(0), relaxation.compute_expected(alpha)[0], atol=0.01, rtol=0)
        spreads.append(float(drawn.std(0).mean()))
    assert spreads[1] < spreads[0] / 2


def test_the_anchor_is_the_divergence_from_a_flat_dirichlet() -> None:
    alpha = torch.tensor([[0.5, -0.5, 2.0]], dtype=torch.float64)
    beta = [1.5, math.exp(-0.5), 3.0]
    total = sum(beta)
    expected = math.lgamma(total) - sum(map(math.lgamma, beta)) - math.lgamma(3)
    digamma = torch.digamma(torch.tensor([total, *beta], dtype=torch.float64)).tolist()
    expected += sum((b - 1) * (d - digamma[0]) for b, d in zip(beta, digamma[1:]))
    found = DirichletMixture(anchor=0.1).penalty(alpha)
    assert found is not None
    assert float(found) == pytest.approx(0.1 * expected)
    assert DirichletMixture().penalty(alpha) is None


def test_edges_into_a_node_are_normalized_among_themselves() -> None:
    alpha = torch.randn(5)
    found = normalize_edges(alpha, [2, 3])
    torch.testing.assert_close(found[:2], alpha[:2].exp() / alpha[:2].exp().sum())
    torch.testing.assert_close(found[2:], alpha[2:].exp() / alpha[2:].exp().sum())


@pytest.mark.parametrize(
    ("settings", "temperatures"),
    [
        ({"temperature": 10, "temperature_end": 1}, [10, 5.5, 1]),
        ({"temperature": 8, "temperature_end": 2, "schedule": "exponential"}, [8, 4, 2]),
        ({"temperature": 3}, [3, 3, 3]),
    ],
)
def test_the_temperature_moves_as_configured(settings: dict[str, Any], temperatures: list[float]) -> None:
    config = RelaxationConfig(**settings)
    assert [config.at(epoch, 3) for epoch in range(3)] == pytest.approx(temperatures)


def test_all_cells_of_a_pass_use_one_draw_and_the_next_pass_another() -> None:
    mixture = Mixture(["a", "b", "c"], 50, Gumbel())
    first, second = mixture(), mixture()
    assert not torch.equal(first, second)
    supernet = _supernet(relaxation=Gumbel())
    with supernet.hold_draw():
        drawn = supernet.mixtures["normal"].sample()
        assert supernet.mixtures["normal"].sample() is drawn
        supernet(torch.randn(2, 3, 16, 8))
        assert supernet.mixtures["normal"].sample() is drawn
    assert supernet.mixtures["normal"].drawn is None


def test_a_sampled_relaxation_computes_only_what_it_draws() -> None:
    supernet = _supernet(relaxation=Gumbel())
    computed: list[str] = []
    for name, module in supernet.named_modules():
        if name.rsplit(".", 1)[-1] in OPERATIONS:
            module.register_forward_hook(lambda *_, n=name: computed.append(n))
    for _, module in supernet.named_modules():
        for operation in OPERATIONS[3:]:  # these begin with a shared ReLU and are entered behind it
            if isinstance(module, torch.nn.ModuleDict) and operation in module:
                body = module[operation]
                body.after_relu = _counted(body.after_relu, operation, computed)
    with supernet.hold_draw():
        supernet(torch.randn(2, 3, 16, 8))
        drawn = [supernet.mixtures[kind].sample().weights for kind in ("normal", "reduce")]
    wanted = sum(int((weights.argmax(1) >= 3).sum()) for weights in drawn)
    assert sum(name in OPERATIONS[3:] for name in computed) == wanted


def _counted(function: Any, name: str, calls: list[str]) -> Any:
    def run(*given: Tensor) -> Tensor:
        calls.append(name)
        return function(*given)

    return run


def test_a_sampled_pass_equals_the_dense_one_with_the_same_weights() -> None:
    supernet = _supernet(relaxation=Gumbel())
    images = torch.randn(4, 3, 16, 8)
    with supernet.hold_draw():
        sparse = supernet(images)
        weights = {name: mixture.sample().weights.detach() for name, mixture in supernet.mixtures.items()}
    for name, mixture in supernet.mixtures.items():
        mixture.fixed = Sample(weights[name])
    torch.testing.assert_close(supernet(images), sparse)


def test_in_evaluation_nothing_is_drawn() -> None:
    supernet = _supernet(relaxation=Gumbel()).eval()
    images = torch.randn(2, 3, 16, 8)
    assert torch.equal(supernet(images), supernet(images))


def _plain_partial_cell(cell: SuperCell, before: Tensor, last: Tensor) -> Tensor:
    """PC-DARTS' cell as published: on every edge, the mixture of a part of the channels beside the rest, shuffled."""
    states = list(cell.preprocessor([before, last]))
    weights, k = cell.mixture(), cell.partial
    for node in range(cell.nodes):
        total: Tensor | int = 0
        for source in range(node + 2):
            row = weights[edge_index(node, source)]
            edge = row.sum()
            seen = states[source].shape[1] // k
            x, rest = states[source][:, :seen], states[source][:, seen:]
            mixed = sum(
                w / edge * cell.operation(node, source, name)(x)
                for w, name in zip(row, cell.mixture.names)
                if name != "none"
            )
            if rest.shape[2:] != mixed.shape[2:]:
                rest = torch.nn.functional.max_pool2d(rest, 2, ceil_mode=True)
            joined = torch.cat([mixed, rest], dim=1)
            b, c, h, w = joined.shape
            shuffled = joined.view(b, k, c // k, h, w).transpose(1, 2).reshape(b, c, h, w)
            total = total + edge * shuffled
        states.append(total)
    return torch.cat(states[2:], dim=1)


@pytest.mark.parametrize("kind", [0, 1])
def test_partial_channels_equal_the_published_cell_edge_by_edge(kind: int) -> None:
    supernet = _supernet(partial=4, edges=True).double()
    cell = supernet.space.cells[kind]
    size = [(24, 7, 5), (24, 7, 5)] if kind == 0 else [(24, 7, 5), (16, 7, 5)]
    before, last = (torch.randn(3, *s).double() for s in size)
    found, expected = cell(before, last), _plain_partial_cell(cell, before, last)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    leaves = [*cell.mixture.parameters(), *cell.parameters()]
    gradients = [torch.autograd.grad((y * direction).sum(), leaves) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_partial_channels_that_do_not_divide_a_cell_are_refused() -> None:
    with pytest.raises(InputError, match=r"partial_channels is 3; expected a divisor of the \d+ channels"):
        _supernet(partial=3)


def test_edge_weights_count_in_what_is_derived() -> None:
    supernet = _supernet(partial=2, edges=True)
    with torch.no_grad():
        supernet.mixtures["normal"].edge_alpha.copy_(torch.tensor([0.0, 0.0, -9.0, 5.0, 5.0]))
        supernet.mixtures["normal"].alpha[2, 3] = 9.0  # a decided operation on an edge that hardly counts
    found = CellKind().derive(
        supernet.mixture_weights(), SpaceReference.of(supernet.structure, "x"), supernet.network, origin=Origin()
    )
    assert [edge.source for edge in found.cells["normal"].nodes[1]] == [1, 2]
    assert "normal_edges" in supernet.alphas()


def test_a_supernet_with_partial_channels_has_no_weights_to_inherit() -> None:
    supernet = _supernet(partial=2)
    genotype = CellKind().derive(
        supernet.mixture_weights(), SpaceReference.of(supernet.structure, "x"), supernet.network, origin=Origin()
    )
    with pytest.raises(InputError, match=r"operations see 1/2 of the channels .* retrain from scratch"):
        supernet.inherit_state(genotype)


@pytest.mark.parametrize("relaxation", [Softmax, Gumbel, DirichletMixture])
def test_checkpointed_cells_give_the_same_values_gradients_and_statistics(relaxation: type[Softmax]) -> None:
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        supernet = _supernet(relaxation=relaxation(), checkpointed=checkpointed)
        images = torch.randn(4, 3, 16, 8)
        supernet(images).pow(2).mean().backward()
        gradients = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
        running = {name: b for name, b in supernet.named_buffers() if "running" in name}
        found.append((gradients, running))
    torch.testing.assert_close(*found)


def test_an_anchor_without_dirichlet_is_refused() -> None:
    with pytest.raises(ValueError, match="anchor is 0.1, but kind is 'softmax'; only dirichlet has an anchor"):
        RelaxationConfig(anchor=0.1)
