"""RGA: agreement with the published module and with loops over pairs of nodes; statistics, pooling, loading."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas import load_published
from dcs_nas.errors import InputError
from dcs_nas.models.blocks import RGA, rga
from dcs_nas.models.blocks.rga import RelationEmbedding, gram, product, project_relu

PARTS = ["rga_spatial", "rga_channel", "rga_spatial_channel"]


def published(file: dict[str, np.ndarray]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """State, all arrays, and the settings of ``load_published``."""
    arrays = {key: torch.tensor(array) for key, array in file.items()}
    state = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    settings = {key: arrays[key].item() for key in ("height", "width", "use_spatial", "use_channel")}
    return state, arrays, settings


def before_the_pass(block: RGA, x: Tensor) -> RGA:
    """The block with its running statistics before one training pass on ``x`` at momentum 0.1.

    The reference's evaluation was computed before its training pass, its stored statistics (``num_batches_tracked`` 1)
    are those after it.
    """
    reset = copy.deepcopy(block)
    for norm in (module for module in reset.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.reset_running_stats()
        norm.momentum = 1.0  # one pass leaves the batch's own statistics
    reset.train()(x)
    for stored, batch in zip(block.modules(), reset.modules(), strict=True):
        if isinstance(batch, nn.BatchNorm1d):
            batch.running_mean = (stored.running_mean - 0.1 * batch.running_mean) / 0.9
            batch.running_var = (stored.running_var - 0.1 * batch.running_var) / 0.9
    return reset.eval()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.detach() - expected).abs().max() / expected.abs().max())


@pytest.mark.device
@pytest.mark.parametrize("name", PARTS)
def test_the_block_agrees_with_the_published_module(name, golden, device):
    state, reference, settings = published(golden(name))
    block = load_published("rga", state, **settings).to(device)
    reference = {key: value.to(device) for key, value in reference.items()}
    x = reference["x"].requires_grad_()
    assert all(count == 1 for key, count in state.items() if "num_batches" in key)
    evaluated = before_the_pass(block, x)
    y = evaluated(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert relative(y, reference["y_eval"]) < 1e-5
    assert relative(gradient, reference["grad_x_eval"]) < 1e-5
    assert relative(evaluated.train()(x), reference["y_train"]) < 1e-5


def normalised(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """BatchNorm of (B, E, M) by the definition, with the batch's statistics."""
    mean, variance = x.mean((0, 2), keepdim=True), x.var((0, 2), correction=0, keepdim=True)
    return norm.weight[:, None] * (x - mean) / (variance + norm.eps).sqrt() + norm.bias[:, None]


def slow_gate(gate: nn.Module, nodes: Tensor) -> Tensor:
    """Equations 3 to 8 with explicit relations, pair by pair: (B, D, M) to (B, M)."""
    batch, _, count = nodes.shape
    g, theta, phi = F.relu(normalised(gate.features.norm, gate.features.weight @ nodes)).chunk(3, dim=1)
    w_out, w_in = gate.relations.weight
    described = torch.zeros(batch, w_in.shape[0], count, dtype=nodes.dtype)
    for b in range(batch):
        for i in range(count):
            for j in range(count):
                described[b, :, i] += w_in[:, j] * (theta[b, :, i] @ phi[b, :, j])
                described[b, :, i] += w_out[:, j] * (theta[b, :, j] @ phi[b, :, i])
    relations = F.relu(normalised(gate.relations.norm, described))
    stacked = torch.cat([g.mean(1, keepdim=True), relations], dim=1)
    hidden = F.relu(normalised(gate.hidden.norm, gate.hidden.weight @ stacked))
    return normalised(gate.logit.norm, gate.logit.weight @ hidden).squeeze(1)


@pytest.mark.parametrize("size", [(9, 4, 3), (17, 3, 5), (2, 1, 2)])
def test_the_block_equals_a_loop_over_pairs_of_nodes(size):
    block = RGA(*size).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, *size, dtype=torch.float64)
    attended = x * torch.sigmoid(slow_gate(block.spatial, x.flatten(2))).reshape(3, 1, *size[1:])
    weights = torch.sigmoid(slow_gate(block.channel, attended.flatten(2).mT))
    torch.testing.assert_close(block(x), attended * weights[:, :, None, None])


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_the_folded_norm_records_the_statistics_that_batch_norm_records(momentum):
    folded = RelationEmbedding(nodes=6, relations=70).double()
    folded.norm.momentum = momentum
    plain = copy.deepcopy(folded.norm)
    projection = torch.randn(3, 71, dtype=torch.float64)
    for _ in range(3):
        own, theta_phi = torch.rand(4, 1, 6, dtype=torch.float64), torch.randn(4, 8, 6, dtype=torch.float64) + 2
        embedded = F.relu(plain(folded._mixing(theta_phi) @ theta_phi))
        expected = projection @ torch.cat([own, embedded], 1)
        torch.testing.assert_close(folded(own, theta_phi, projection), expected)
    torch.testing.assert_close(folded.norm.state_dict(), plain.state_dict())


def test_the_gram_matrix_has_the_gradients_of_the_product_up_to_the_second() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(gram(x), x @ x.mT)
    assert torch.autograd.gradcheck(gram, x)
    assert torch.autograd.gradgradcheck(gram, x)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("piece", [1, 20, 10**6])
def test_projected_relus_equal_the_plain_product_in_value_and_two_derivatives(piece, frozen, monkeypatch):
    monkeypatch.setattr(rga, "_PIECE", piece)
    shapes = {"projection": (2, 4), "own": (3, 1, 5), "mixing": (3, 3, 2), "shift": (3, 1), "x": (3, 2, 5)}
    leaves = [torch.rand(shape, dtype=torch.float64).sub_(0.4).requires_grad_() for shape in shapes.values()]
    leaves[1] = leaves[1].detach().abs().requires_grad_()
    leaves[0].requires_grad_(not frozen)
    moved = leaves[int(frozen) :]

    def plain(projection, own, mixing, shift, x):
        return projection @ torch.cat([own, F.relu(mixing @ x + shift)], 1)

    values, gradients, again = [], [], []
    for form in (project_relu, plain):
        values.append(form(*leaves))
        direction = torch.linspace(-1, 1, values[-1].numel(), dtype=torch.float64).view_as(values[-1])
        gradients.append(torch.autograd.grad((values[-1] * direction).sum(), moved, create_graph=True))
        again.append(torch.autograd.grad(sum(g.square().sum() for g in gradients[-1]), moved, materialize_grads=True))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(*again)
    with torch.no_grad():
        torch.testing.assert_close(project_relu(*leaves), values[1])


def test_a_product_of_either_kind_is_that_of_each_image():
    for rows, nodes in [(2, 7), (7, 2)]:
        weight = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
        x = torch.randn(4, 3, nodes, dtype=torch.float64, requires_grad=True)
        expected = torch.einsum("ed,bdm->bem", weight, x)
        torch.testing.assert_close(product(weight, x), expected)
        found = [torch.autograd.grad(y.square().sum(), (weight, x)) for y in (product(weight, x), expected)]
        torch.testing.assert_close(*found)


def test_statistics_stay_exact_when_the_mean_dwarfs_the_spread():
    folded = RelationEmbedding(nodes=60, relations=5)
    plain = copy.deepcopy(folded.norm).double()
    theta_phi = torch.randn(4, 8, 60) * 0.01 + 10
    folded(torch.zeros(4, 1, 60), theta_phi, torch.ones(1, 6))
    plain(copy.deepcopy(folded).double()._mixing(theta_phi.double()) @ theta_phi.double())
    torch.testing.assert_close(folded.norm.running_var.double(), plain.running_var, rtol=1e-3, atol=1e-6)


def test_another_kind_of_norm_is_applied_to_the_relations_themselves():
    block = RGA(16, 4, 4, gate_start="published")
    block(torch.randn(4, 16, 4, 4))
    x = torch.randn(2, 16, 4, 4)
    expected = block.eval()(x)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    assert isinstance(synchronised.spatial.relations.norm, nn.SyncBatchNorm)
    torch.testing.assert_close(synchronised(x), expected)


def test_a_frozen_norm_keeps_its_statistics_in_training():
    block = RGA(16, 4, 4).train()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    before = copy.deepcopy(block.state_dict())
    block(torch.randn(2, 16, 4, 4))
    torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "max_nodes", "pooled"), [((8, 4), 8, (4, 2)), ((7, 5), 12, (4, 3)), ((8, 4), 32, (8, 4))]
)
def test_large_maps_are_pooled_for_the_gates_alone(size, max_nodes, pooled):
    block = RGA(16, *size, use_channel=False, max_nodes=max_nodes, gate_start="published").eval()
    assert block.spatial.relations.weight.shape[2] == pooled[0] * pooled[1] <= max_nodes
    x = torch.randn(2, 16, *size)
    small = x
    if pooled != size:
        small = torch.stack([x[:, :, i : i + 2].mean(2) for i in range(0, size[0], 2)], dim=2)
        small = torch.stack([small[..., j : j + 2].mean(3) for j in range(0, size[1], 2)], dim=3)
    logits = block.spatial(small.flatten(2)).reshape(2, 1, *pooled)
    logits = F.interpolate(logits, size=size, mode="bilinear")
    torch.testing.assert_close(block(x), x * torch.sigmoid(logits))


def test_pooling_shortens_the_descriptors_of_channels():
    block = RGA(16, 8, 4, use_spatial=False, max_nodes=8)
    assert block.channel.features.weight.shape[1] == 8
    assert block(torch.randn(2, 16, 8, 4)).shape == (2, 16, 8, 4)


def test_a_map_of_another_size_is_refused():
    with pytest.raises(InputError, match="RGA got a map of 4 x 8; expected 8 x 4, which its weights fit"):
        RGA(16, 8, 4)(torch.randn(2, 16, 4, 8))
    with pytest.raises(InputError, match="use_spatial and use_channel both false"):
        RGA(16, 8, 4, use_spatial=False, use_channel=False)


def test_a_state_that_does_not_fit_is_refused_by_name_and_shape(golden):
    state, _, settings = published(golden("rga_spatial"))
    with pytest.raises(InputError, match=r"names missing: W_channel.0.weight, .* and 33 more"):
        load_published("rga", state, **{**settings, "use_channel": True})
    with pytest.raises(InputError, match=r"names missing: .*; names not expected: rga.W_spatial"):
        load_published("rga", {f"rga.{name}": tensor for name, tensor in state.items()}, **settings)
    with pytest.raises(InputError, match=r"'spatial.relations.weight' has shape \(2, 16, 128\); expected \(2, 8, 64\)"):
        load_published("rga", state, **{**settings, "height": 8})
