"""Harmonious Attention: agreement with deep-person-reid's HarmAttn, regions, and the cell block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.blocks import HardAttention, HarmoniousAttention, SoftAttention, StackRegions
from dcs_nas.models.blocks.harmonious import CropRegion


@pytest.fixture
def published(golden) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in golden("hacnn").items() if "ha2" in name}


def loaded(module: nn.Module, published: dict[str, torch.Tensor], prefix: str) -> nn.Module:
    state = {name[len(prefix) :]: tensor for name, tensor in published.items() if name.startswith(prefix)}
    module.load_state_dict(state)
    return module.eval()


def test_soft_attention_agrees_with_the_published_module(published):
    soft = loaded(SoftAttention(32), published, "state/ha2.soft_attn.")
    torch.testing.assert_close(soft(published["ha2_x"]), published["ha2_soft"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate_start", ["constant", "published"])
def test_the_gates_of_ha_cnn_start_as_asked(gate_start):
    network = BACKBONES["hacnn"](height=160, width=64, gate_start=gate_start)
    x = torch.randn(2, 128, 8, 4)
    assert (network.ha1.soft_attn(x).std() < 1e-6) == (gate_start == "constant")


def test_hard_attention_agrees_with_the_published_module(published):
    hard = loaded(HardAttention(32), published, "state/ha2.hard_attn.")
    torch.testing.assert_close(hard(published["ha2_x"]), published["ha2_theta"], rtol=1e-5, atol=1e-6)


def test_hard_attention_starts_at_stripes_from_top_to_bottom():
    hard = HardAttention(8)
    assert hard.fc.bias.tolist() == [0, -0.75, 0, -0.25, 0, 0.25, 0, 0.75]
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(hard(x), torch.tanh(hard.fc.bias).reshape(1, 4, 2).expand(2, -1, -1))


def test_channel_attention_has_the_weights_that_the_paper_counts():
    soft = SoftAttention(64)
    kernels = [m.weight.numel() for m in soft.spatial_attn.modules() if isinstance(m, nn.Conv2d)]
    assert sum(kernels) == 10
    kernels = [m.weight.numel() for m in soft.channel_attn.modules() if isinstance(m, nn.Conv2d)]
    assert sum(kernels) == 2 * 64**2 / 16


def stack_by_grid_sample(x: Tensor, theta: Tensor) -> Tensor:
    parts, regions = [], theta.shape[1]
    for t in range(regions):
        matrix = x.new_zeros(len(x), 2, 3)
        matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = 1, 1 / regions, theta[:, t]
        size = [*x.shape[:2], x.shape[2] // regions, x.shape[3]]
        parts.append(F.grid_sample(x, F.affine_grid(matrix, size, align_corners=False), align_corners=False))
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize(("height", "regions"), [(8, 4), (6, 2), (3, 3), (4, 1)])
def test_the_stack_holds_each_region_sampled_by_an_affine_grid(height, regions):
    x = torch.randn(2, 3, height, 5, dtype=torch.float64)
    theta = torch.rand(2, regions, 2, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(StackRegions()(x, theta), stack_by_grid_sample(x, theta))


@pytest.mark.parametrize("size", [(8, 5), (3, 2), (11, 7), (1, 1)])
def test_a_region_is_cropped_and_resized_as_by_grid_sample_and_interpolate(size):
    x = torch.randn(2, 3, 8, 5, dtype=torch.float64)
    theta = torch.rand(2, 2, dtype=torch.float64) * 2 - 1
    matrix = torch.zeros(2, 2, 3, dtype=torch.float64)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = 1, 1 / 4, theta
    region = F.grid_sample(x, F.affine_grid(matrix, list(x.shape), align_corners=False), align_corners=False)
    expected = F.interpolate(region, size=size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(CropRegion(4)(x, theta, size), expected)


@pytest.mark.parametrize("moved", [0.0, 0.25, 0.3])
def test_regions_have_the_gradients_of_grid_sample_also_at_pixels(moved):
    x = torch.randn(2, 3, 8, 4, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([[[moved, -0.75], [0, -0.25 + moved], [-moved, 0.25], [0, 0.75]]] * 2, dtype=torch.float64)
    weights, theta = torch.randn(2, 3, 8, 4, dtype=torch.float64), theta.requires_grad_()
    expected, computed = (
        torch.autograd.grad((stack(x, theta) * weights).sum(), [x, theta])
        for stack in (stack_by_grid_sample, StackRegions())
    )
    assert expected[1].abs().min() > 0
    torch.testing.assert_close(computed, expected)


def test_regions_have_second_derivatives():
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    theta = (torch.rand(1, 2, 2, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradgradcheck(StackRegions(), (x, theta))


@pytest.mark.parametrize(("height", "regions"), [(8, 4), (7, 4), (5, 3), (1, 1), (2, 5)])
def test_regions_at_their_stripes_stack_up_to_the_map_itself(height, regions):
    x = torch.randn(2, 3, height, 4, dtype=torch.float64)
    centres = torch.tensor([[0.0, (2 * t + 1) / regions - 1] for t in range(regions)], dtype=torch.float64)
    torch.testing.assert_close(StackRegions()(x, centres.expand(2, -1, -1)), x)


def test_a_region_moved_by_one_row_shows_the_next_row():
    x = torch.arange(4.0).reshape(1, 1, 4, 1)
    theta = torch.tensor([[[0.0, -0.75], [0.0, -0.25 + 0.5], [0.0, 0.25], [0.0, 5.0]]])
    torch.testing.assert_close(StackRegions()(x, theta).flatten(), torch.tensor([0.0, 2.0, 2.0, 0.0]))


def test_a_new_block_is_its_soft_attention():
    block = HarmoniousAttention(8, 4)
    x = torch.randn(2, 8, 4, 4)
    expected = x * block.soft_attn(x)
    torch.testing.assert_close(block(x), expected)
    assert (block.soft_attn(x) >= 0.5).all()


def test_gradients_reach_the_region_offsets():
    block = HarmoniousAttention(4, 8)
    nn.init.ones_(block.norm.weight)
    x, weights = torch.randn(2, 2, 4, 8, 4)
    (block(x) * weights).sum().backward()
    assert block.hard_attn.fc.weight.grad.abs().max() > 0


def test_a_low_map_has_at_most_one_region_for_each_row():
    assert HarmoniousAttention(4, 2).hard_attn.regions == 2
