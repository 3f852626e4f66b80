"""The chain supernet: masks against sums, costs against enumeration, and the fixed network that it turns into."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from dcs_nas.config import CostConfig
from dcs_nas.errors import InputError
from dcs_nas.models.blocks import DCSAttention, WindowAttention, read_kept_shares, set_temperature
from dcs_nas.models.build import build_cost
from dcs_nas.models.chain_kind import ChainKind, ChainSupernet
from dcs_nas.models.chain_space import build_fixed_chain
from dcs_nas.models.flops import count
from dcs_nas.models.relaxation import Gumbel, GumbelSoftmax, Softmax
from dcs_nas.models.super_block import SuperAttention, SuperBlock, Widths, kernel_mask
from dcs_nas.models.supernet import Mixture, one_hot
from dcs_nas.space import ChainGenotype, ChainSpec, Origin
from tests.chains import STAGES, chain_space, random_chain, random_weights


def _supernet(space: ChainSpec, **options: Any) -> ChainSupernet:
    """A supernet with weights, shifts and running statistics that are not those of a new one."""
    supernet = ChainSupernet(space, space.network(32, 16), **options)
    with torch.no_grad():
        for parameter in supernet.weights():
            parameter.add_(0.2 * torch.randn_like(parameter))
    supernet(torch.randn(4, 3, 32, 16))
    return supernet


def _batch_statistics(network: nn.Module) -> None:
    """Training mode, but DCS-Attention without its noise, of which networks of other widths draw other numbers."""
    network.train()
    for module in network.modules():
        if isinstance(module, DCSAttention):
            module.training = False


def _check_equal(supernet: ChainSupernet, genotype: ChainGenotype) -> None:
    fixed = build_fixed_chain(genotype)
    fixed.load_state_dict(supernet.inherit_state(genotype))
    images = torch.randn(4, 3, 32, 16)
    with supernet.fix_to(genotype):
        for prepare in (_batch_statistics, nn.Module.eval):
            prepare(supernet)
            prepare(fixed)
            torch.testing.assert_close(supernet(images), fixed(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_the_fixed_network_equals_the_supernet_with_one_hot_weights(seed: int) -> None:
    torch.manual_seed(seed)
    space = chain_space()
    _check_equal(_supernet(space), random_chain(space, seed))


@pytest.mark.parametrize(
    "attention", ["none", "dcs", "harmonious", "rga", "rga_spatial", "rga_channel", "nonlocal", "part_aware"]
)
def test_every_attention_is_inherited_at_every_width(attention: str) -> None:
    stages = [{"blocks": 1, "stride": 2, "widths": [8, 16], "kernels": [3], "attention": ["none", attention]}]
    space = chain_space(stages if attention != "none" else [{**stages[0], "attention": ["none"]}])
    supernet = _supernet(space)
    for width in (8, 16):
        sample = {
            "stage1_block1_width": width,
            "stage1_block1_expansion": 3,
            "stage1_attention": attention,
        }
        genotype = ChainKind().genotype_of(sample, space, space.network(32, 16), origin=Origin())
        _check_equal(supernet, genotype)


def _pass(supernet: ChainSupernet, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The features of a pass with batch statistics, and the gradients of all weights."""
    _batch_statistics(supernet)
    features = supernet(images)
    supernet.zero_grad(set_to_none=True)
    (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    gradients = {name: p.grad for name, p in supernet.named_parameters() if not name.startswith("mixtures")}
    zeros = {name: torch.zeros_like(p) for name, p in supernet.named_parameters()}
    return features.detach(), {name: zeros[name] if g is None else g.clone() for name, g in gradients.items()}


@pytest.mark.parametrize("seed", range(8))
def test_a_path_computes_what_the_masks_leave(seed: int) -> None:
    """Its features, gradients and statistics; those of other channels stay."""
    torch.manual_seed(seed)
    space = chain_space(head_expansion=2 if seed % 2 else None)
    path, masked = (_supernet(space) for _ in range(2))
    masked.load_state_dict(path.state_dict())
    genotype, images = random_chain(space, seed), torch.randn(4, 3, 32, 16)
    before = {name: buffer.clone() for name, buffer in path.named_buffers()}
    with path.fix_to(genotype), masked.fix_to(genotype):
        for mixture in masked.mixtures.values():
            assert isinstance(mixture, Mixture)
            assert mixture.fixed is not None
            mixture.fixed = mixture.fixed._replace(columns=None)
        (features, gradients), (wanted, all_gradients) = _pass(path, images), _pass(masked, images)
    torch.testing.assert_close(features, wanted, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, all_gradients[name], rtol=1e-4, atol=1e-4, msg=name)
    own, other = path.inherit_state(genotype), masked.inherit_state(genotype)
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
    after = dict(path.named_buffers())
    moved = [int((after[n] != before[n]).sum()) for n in before if n.endswith("expand.norm.running_mean")]
    assert 0 < moved[-1] <= genotype.stages[2].blocks[-1].expansion * 20


@pytest.mark.parametrize("name", ["dcs", "dcs_window"])
def test_passes_of_a_narrow_width_leave_the_statistics_of_other_channels(name: str) -> None:
    attention = SuperAttention((name,), (8, 16), 8, 4).train()
    norm = attention.candidates[name].norm
    torch.nn.init.ones_(norm.weight)
    narrow = Widths((8, 16), torch.tensor([1.0, 0.0]))
    x = torch.randn(4, 8, 8, 4)
    whole = torch.cat([x, torch.zeros_like(x)], 1)
    before = norm.running_var.clone()
    y = attention(x, narrow, torch.ones(1), chosen=0)
    assert (y - x).abs().max() > 0
    assert (norm.running_var[:8] != before[:8]).all()
    torch.testing.assert_close(norm.running_var[8:], before[8:], rtol=0, atol=0)
    if name == "dcs_window":
        fixed = WindowAttention(8).train()
        state = attention.state(name, 8)
        fixed.load_state_dict({key: value[:8] if value.shape[:1] == (16,) else value for key, value in state.items()})
        torch.testing.assert_close(fixed(x), y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(attention(whole, narrow, torch.ones(1))[:, :8], y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm.running_var[8:], before[8:], rtol=0, atol=0)


def test_a_drawn_path_is_computed_alone_unless_the_alphas_learn() -> None:
    supernet = _supernet(chain_space(), relaxation=Gumbel()).train()
    images = torch.randn(4, 3, 32, 16)
    seen: list[int] = []
    for block in supernet.modules():
        if isinstance(block, SuperBlock):
            block.register_forward_hook(lambda module, inputs, output: seen.append(output[0].shape[1] - module.widest))
            block.widest = max(block.stage.widths)  # type: ignore[assignment]
    for _ in range(4):
        supernet(images)
    assert set(seen) == {0}
    seen.clear()
    for alpha in supernet.alphas().values():
        alpha.requires_grad_(False)
    for _ in range(4):
        supernet(images)
    assert min(seen) < 0


def test_the_share_of_channels_kept_counts_no_masked_ones() -> None:
    space = chain_space([{"blocks": 1, "widths": [4, 16], "attention": ["dcs"]}])
    supernet = _supernet(space).eval()
    genotype = random_chain(space, 0)
    fixed = build_fixed_chain(genotype)
    fixed.load_state_dict(supernet.inherit_state(genotype))
    images = torch.randn(2, 3, 32, 16)
    fixed.eval()(images)
    with supernet.fix_to(genotype):
        supernet(images)
    assert torch.allclose(*read_kept_shares(supernet).values(), *read_kept_shares(fixed).values())


def test_a_mask_is_the_weighted_sum_of_the_widths() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3])
    x = torch.randn(2, 6, 3, 3)
    total = torch.zeros_like(x)
    for weight, width in zip(weights, (2, 3, 6)):
        one = x.clone()
        one[:, width:] = 0
        total += weight * one
    mask = Widths((2, 3, 6), weights).mask()
    torch.testing.assert_close(x * mask[:, None, None], total)


def test_a_kernel_mask_is_the_weighted_sum_of_the_convolutions() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3])
    x, kernel = torch.randn(2, 4, 9, 8), torch.randn(4, 1, 7, 7)
    for stride in (1, 2):
        total = torch.zeros(())
        for weight, size in zip(weights, (3, 5, 7)):
            middle = kernel[:, :, 3 - size // 2 : 4 + size // 2, 3 - size // 2 : 4 + size // 2]
            total = total + weight * conv2d(x, middle, None, stride, size // 2, groups=4)
        masked = conv2d(x, kernel * kernel_mask((3, 5, 7), weights), None, stride, 3, groups=4)
        torch.testing.assert_close(masked, total, rtol=1e-5, atol=1e-5)


def test_gumbel_softmax_mixes_all_and_falls_to_one_as_it_cools() -> None:
    alpha = torch.tensor([[0.0, 1.0, 2.0]])
    hot, cold = GumbelSoftmax(100.0), GumbelSoftmax(0.01)
    assert torch.allclose(hot.sample(alpha).weights, torch.full((1, 3), 1 / 3), atol=0.05)
    draws = torch.cat([cold.sample(alpha).weights for _ in range(4000)])
    torch.testing.assert_close(draws.sum(1), torch.ones(4000))
    torch.testing.assert_close(draws.mean(0, keepdim=True), cold.compute_expected(alpha), rtol=0, atol=0.03)


def _networks(space: ChainSpec) -> list[tuple[dict[str, Any], ChainGenotype]]:
    """Every combination of the choices, and the genotype it gives."""
    choices = list(space.choices())
    samples = [
        dict(zip([c.label for c in choices], picked)) for picked in itertools.product(*(c.options for c in choices))
    ]
    network = space.network(16, 8)
    return [(s, ChainKind().genotype_of(s, space, network, origin=Origin())) for s in samples]


_SMALL = {"kernels": [3], "expansions": [2], "widths": [4, 8]}
ENUMERATED = [
    [{**_SMALL, "blocks": 1, "widths": [4, 6]}, {**_SMALL, "blocks": 2, "stride": 2, "skip": True}],
    [{"blocks": 1, "widths": [4], "kernels": [3, 7], "expansions": [1, 3], "squeeze_excite": [False, True]}],
    [{**_SMALL, "blocks": 1, "attention": ["none", "dcs"]}],
]
COSTED = [STAGES[0], {**STAGES[1], "attention": ["none", "dcs"]}, STAGES[2]]


@pytest.mark.parametrize("stages", ENUMERATED)
def test_the_expected_cost_is_that_of_all_networks_by_probability(stages: list[dict[str, Any]]) -> None:
    space = chain_space(stages)
    supernet = ChainSupernet(space, space.network(16, 8))
    weights = random_weights(space, 3, torch.float64)
    expected, costs, total = {"flops": 0.0, "parameters": 0.0}, {}, 0.0
    for sample, genotype in _networks(space):
        probability = 1.0
        for choice in space.choices():
            probability *= float(weights[choice.label][0, choice.options.index(sample[choice.label])])
        key = genotype.model_dump_json()
        if key not in costs:
            costs[key] = count(build_fixed_chain(genotype), 16, 8)
        total += probability
        expected["flops"] += probability * costs[key].macs
        expected["parameters"] += probability * costs[key].parameters
    assert total == pytest.approx(1)
    for kind in ("flops", "parameters"):
        assert float(supernet.compute_expected_cost(kind, weights)) == pytest.approx(expected[kind], rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_with_one_hot_weights_the_cost_is_that_of_the_fixed_network(seed: int) -> None:
    space = chain_space(COSTED)
    genotype = random_chain(space, seed)
    found = count(build_fixed_chain(genotype), 32, 16)
    supernet = ChainSupernet(space, space.network(32, 16))
    assert int(supernet.compute_expected_cost("flops", one_hot(genotype))) == found.macs
    assert int(supernet.compute_expected_cost("parameters", one_hot(genotype))) == found.parameters


def test_the_cost_pulls_on_every_alpha() -> None:
    space = chain_space(COSTED)
    supernet = ChainSupernet(space, space.network(32, 16))
    supernet.compute_expected_cost("flops", supernet.compute_expected_weights()).backward()
    for name, alpha in supernet.alphas().items():
        assert alpha.grad is not None, name
        assert alpha.grad.abs().sum() > 0, name
    for width in [name for name in supernet.mixtures if name.endswith(("_width", "_kernel", "_expansion"))]:
        gradient = supernet.alphas()[width].grad
        assert gradient is not None
        assert gradient[0, -1] > 0 > gradient[0, 0], width


def test_the_cost_of_a_chain_is_the_one_that_a_search_asks_for() -> None:
    space = chain_space(STAGES[:1])
    supernet = ChainSupernet(space, space.network(32, 16))
    cost = build_cost(CostConfig(kind="flops", target=1e6), supernet)
    assert cost is not None
    assert cost(supernet.mixture_weights()) == supernet.compute_expected_cost("flops", supernet.mixture_weights())
    with pytest.raises(InputError, match="weights of mixture 'stage1_block1_kernel' are missing; found: none"):
        supernet.compute_expected_cost("flops", {})


@pytest.mark.parametrize("relaxation", [GumbelSoftmax, Softmax, Gumbel])
def test_training_moves_alphas_and_weights(relaxation: type[Softmax]) -> None:
    supernet = ChainSupernet(chain_space(), chain_space().network(32, 16), relaxation=relaxation())
    supernet.set_temperature(2.0)
    set_temperature(supernet, 2.0)
    out = supernet(torch.randn(4, 3, 32, 16))
    assert out.shape == (4, 24, 8, 4)
    (out * torch.randn_like(out)).sum().backward()
    for name, alpha in supernet.alphas().items():
        assert alpha.grad is not None, name
        assert alpha.grad.isfinite().all(), name
    idle = [name for name, parameter in supernet.named_parameters() if parameter.grad is None]
    assert all(".attention.candidates." in name and ".blocks." in name for name in idle)  # of other widths


def test_alphas_are_stored_once_and_weights_are_all_the_rest() -> None:
    supernet = ChainSupernet(chain_space(), chain_space().network(32, 16))
    stored = [name for name in supernet.state_dict() if "alpha" in name]
    assert stored == [f"mixtures.{choice.label}.alpha" for choice in chain_space().choices()]
    assert len(supernet.weights()) + len(stored) == len(list(supernet.parameters()))


def test_evaluation_draws_nothing_and_a_draw_can_be_held() -> None:
    supernet = _supernet(chain_space(STAGES[:1])).eval()
    images = torch.randn(2, 3, 32, 16)
    assert torch.equal(supernet(images), supernet(images))
    for norm in [m for m in supernet.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.momentum = 0.0
    supernet.train()
    assert not torch.equal(supernet(images), supernet(images))
    with supernet.hold_draw():
        assert torch.equal(supernet(images), supernet(images))


def test_the_supernet_is_counted_without_computing() -> None:
    space = chain_space([{"blocks": 1, "widths": [4, 8], "kernels": [3], "attention": ["none", "rga"]}])
    assert count(ChainSupernet(space, space.network(16, 8)), 16, 8).macs > 0
