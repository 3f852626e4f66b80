"""The supernet: the published values, the plain formulation, and the fixed network that it turns into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, cross_entropy

from dcs_nas.errors import InputError
from dcs_nas.models.blocks import RGA
from dcs_nas.models.cell_kind import CellKind, CellSupernet
from dcs_nas.models.cell_space import CellSpace, build_fixed_network
from dcs_nas.models.operations import OPERATIONS
from dcs_nas.models.supernet import one_hot
from dcs_nas.space import CellStructure, Genotype, NetworkSpec, Origin, SpaceReference, edge_index
from tests.darts import golden_network, logits, plain_cell

Golden = Callable[[str], dict[str, np.ndarray]]


def _structure(**changes: Any) -> CellStructure:
    names = ["none", "skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "dcs"]
    return CellStructure(**{"nodes": 2, "operations": names, "attention": ["none", "dcs", "rga"], **changes})


def _network(**changes: Any) -> NetworkSpec:
    return NetworkSpec(**{"channels": 4, "cells": 3, "reductions": (1,), "height": 16, "width": 8, **changes})


def _random_genotype(structure: CellStructure, network: NetworkSpec, seed: int) -> Genotype:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for kind in ("normal", "reduce"):
        weights[kind] = torch.rand(edge_index(structure.nodes, 0), len(structure.operations), generator=generator)
        weights[f"{kind}_attention"] = torch.rand(1, len(structure.attention), generator=generator)
    return CellKind().derive(weights, SpaceReference.of(structure, "test"), network, origin=Origin())


def test_loss_and_first_order_gradients_equal_those_of_the_published_network(golden: Golden) -> None:
    values = golden("darts_supernet")
    supernet, classifier = golden_network(values)
    scores = logits(supernet, classifier, torch.from_numpy(values["x_val"]))
    np.testing.assert_allclose(scores.detach().numpy(), values["logits_val"], rtol=1e-8)
    loss = cross_entropy(scores, torch.from_numpy(values["y_val"]))
    np.testing.assert_allclose(loss.item(), values["loss_val"], rtol=1e-10)
    loss.backward()
    for kind in ("normal", "reduce"):
        gradient = supernet.alphas()[kind].grad
        assert gradient is not None
        np.testing.assert_allclose(gradient.numpy(), values[f"first_order_{kind}"], rtol=1e-8, atol=1e-12)


def test_the_derived_genotype_equals_the_published_one(golden: Golden) -> None:
    values = golden("darts_supernet")
    supernet, _ = golden_network(values)
    found = CellKind().derive(
        supernet.mixture_weights(), SpaceReference.of(supernet.structure, "darts"), supernet.network, origin=Origin()
    )
    for kind in ("normal", "reduce"):
        edges = [(e.op, e.source) for node in found.cells[kind].nodes for e in node]
        published = [str(text).split("<-") for text in values[f"genotype_{kind}"]]
        per_node = [sorted((op, int(j)) for op, j in published[i : i + 2]) for i in range(0, len(published), 2)]
        assert [sorted(edges[i : i + 2]) for i in range(0, len(edges), 2)] == per_node


def test_sharing_within_a_cell_changes_neither_values_nor_gradients() -> None:
    operations = [name for name in _structure().operations if name != "dcs"]  # whose noise depends on the order
    supernet = CellSupernet(_structure(operations=operations), _network()).double()
    images = torch.randn(3, 3, 16, 8).double()
    inputs: dict[int, tuple[torch.Tensor, ...]] = {}

    def remember(i: int, _: Any, given: tuple[torch.Tensor, ...]) -> None:
        inputs[i] = tuple(x.detach() for x in given)

    for i, cell in enumerate(supernet.space.cells):
        cell.register_forward_pre_hook(partial(remember, i))
    supernet(images)
    for i, cell in enumerate(supernet.space.cells):
        leaves = [cell.mixture.alpha, *cell.parameters()]
        shared, plain = (forward(*inputs[i]) for forward in (cell, partial(plain_cell, cell)))
        torch.testing.assert_close(shared, plain)
        direction = torch.randn_like(shared)
        gradients = [torch.autograd.grad((y * direction).sum(), leaves) for y in (shared, plain)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("seed", "max_nodes"), [(0, None), (1, None), (2, None), (3, None), (0, 8), (3, 8)])
def test_the_fixed_network_equals_the_supernet_with_one_hot_weights_and_its_parameters(
    seed: int, max_nodes: int | None
) -> None:
    operations = [*_structure().operations, "rga_spatial"]
    structure, network = _structure(operations=operations, max_nodes=max_nodes), _network()
    supernet = CellSupernet(structure, network)
    images = torch.randn(4, 3, 16, 8)
    for _ in range(2):  # running statistics that are not those of a new network
        supernet(torch.randn(8, 3, 16, 8))
    genotype = _random_genotype(structure, network, seed)
    fixed = build_fixed_network(genotype)
    loaded = fixed.load_state_dict(supernet.inherit_state(genotype), strict=False)
    assert not loaded.unexpected_keys
    assert {key.split(".")[-1] for key in loaded.missing_keys} <= {"weight", "bias"}  # batch norms: 1 and 0
    supernet.eval()
    fixed.eval()
    with torch.no_grad(), supernet.fix_to(genotype):
        torch.testing.assert_close(supernet(images), fixed(images), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(supernet(images), fixed(images), atol=1e-3)


def test_one_hot_weights_mark_what_is_kept_and_nothing_else() -> None:
    structure, network = _structure(), _network()
    genotype = _random_genotype(structure, network, 0)
    weights = one_hot(genotype)["normal"]
    kept = {(i, e.source, e.op) for i, edges in enumerate(genotype.cells["normal"].nodes) for e in edges}
    marked = {
        (node, source, structure.operations[column])
        for node in range(2)
        for source in range(node + 2)
        for column in weights[edge_index(node, source)].nonzero()[:, 0].tolist()
    }
    assert marked == kept


def test_cells_of_a_kind_share_their_alphas_and_all_of_them_are_in_the_state() -> None:
    supernet = CellSupernet(_structure(), _network())
    alphas = supernet.alphas()
    assert set(alphas) == {"normal", "reduce", "normal_attention", "reduce_attention"}
    assert {f"mixtures.{name}.alpha" for name in alphas} <= set(supernet.state_dict())
    assert supernet.space.cells[0].mixture is supernet.space.cells[2].mixture
    identities = {id(p) for p in supernet.weights()}
    assert not identities & {id(a) for a in alphas.values()}
    assert len(identities) + len(alphas) == len(list(supernet.parameters()))


def test_every_alpha_and_weight_gets_a_gradient() -> None:
    supernet = CellSupernet(_structure(), _network())
    with torch.no_grad():  # zero-started blocks hide what is before them
        for name, parameter in supernet.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
    supernet(torch.randn(4, 3, 16, 8)).pow(2).mean().backward()
    missing = [name for name, p in supernet.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 4), (7, 5)])
def test_every_operation_keeps_the_width_and_divides_the_map(name: str, stride: int, size: tuple[int, int]) -> None:
    height, width = (-(-s // stride) for s in size)
    operation = OPERATIONS[name](6, stride, height=height, width=width, affine=True)
    x = torch.randn(2, 6, *size, requires_grad=True)
    y = operation(x)
    assert y.shape == (2, 6, height, width)
    assert torch.isfinite(y).all()
    if name != "none":
        y.pow(2).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0


def test_rga_of_a_space_pools_maps_of_more_than_max_nodes_on_edges_and_outputs() -> None:
    structure = _structure(operations=["rga_spatial", "dcs"], attention=["harmonious", "rga"], max_nodes=8)
    blocks = [m for m in CellSpace(structure, _network()).modules() if isinstance(m, RGA)]
    # two edges a node and the output of a cell; one cell has maps of 8 x 4, two of 4 x 2
    assert Counter((b.height * b.width, b.stride) for b in blocks) == {(32, 2): 5, (8, 1): 10}
    assert {b.spatial.relations.weight.shape[2] for b in blocks if b.spatial is not None} == {8}
    free = CellSpace(structure.model_copy(update={"max_nodes": None}), _network())
    assert {m.stride for m in free.modules() if isinstance(m, RGA)} == {1}


def test_an_unknown_operation_lists_the_choices() -> None:
    with pytest.raises(InputError, match="unknown operation 'sep_conv_4x4'; did you mean sep_conv_"):
        CellSpace(_structure(operations=["sep_conv_4x4"]), _network())


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_a_strided_dilated_convolution_equals_the_published_one(kernel: int, size: tuple[int, int]) -> None:
    operation = OPERATIONS[f"dil_conv_{kernel}x{kernel}"](6, 2, height=4, width=3, affine=True)
    x = torch.randn(2, 6, *size, requires_grad=True)
    depthwise, pointwise, norm = operation.body
    plain = conv2d(torch.relu(x), depthwise.weight, stride=2, padding=kernel - 1, dilation=2, groups=6)
    expected, found = norm(pointwise(plain)), operation(x)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    leaves = [x, *operation.parameters()]
    gradients = [torch.autograd.grad((y * direction).sum(), leaves) for y in (found, expected)]
    torch.testing.assert_close(*gradients)
