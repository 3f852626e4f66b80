"""DCS-Attention: the channel mask, its straight-through gradient, the attention, temperature and metrics."""

from __future__ import annotations

import math

import pytest
import torch
import yaml
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dcs_nas.config import DataConfig, DcsConfig, RetrainConfig, load_config
from dcs_nas.errors import InputError
from dcs_nas.models.blocks import DCSAttention, read_kept_shares, select_channels, set_scale, set_temperature
from dcs_nas.models.blocks.dcs import attend
from dcs_nas.models.build import build_fixed
from dcs_nas.runs import RunFolder
from dcs_nas.space import find_shipped_file


def opened(channels: int, **settings) -> DCSAttention:
    block = DCSAttention(channels, **settings)
    nn.init.ones_(block.norm.weight)
    return block


def relaxed(logits: torch.Tensor, tau: float, seed: int) -> torch.Tensor:
    """sigmoid((T + noise) / tau) with the noise that ``select_channels`` draws after the same seed."""
    torch.manual_seed(seed)
    uniform = torch.rand_like(logits)
    return torch.sigmoid((logits + torch.log(uniform) - torch.log1p(-uniform)) / tau)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.05, 1.0, 5.0])
def test_the_training_mask_is_exactly_binary_and_is_the_rounded_relaxed_mask(tau, dtype):
    logits = (3 * torch.randn(40, 50)).to(dtype)
    torch.manual_seed(7)
    mask = select_channels(logits, tau, True)
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    wide = logits.float() if dtype == torch.bfloat16 else logits
    assert torch.equal(mask == 1, relaxed(wide, tau, seed=7) > 0.5)


def test_the_mask_has_the_gradient_of_the_relaxed_mask():
    tau, logits, upstream = 1.7, torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    logits.requires_grad_()
    torch.manual_seed(3)
    (gradient,) = torch.autograd.grad((select_channels(logits, tau, True) * upstream).sum(), logits)
    soft = relaxed(logits.detach(), tau, seed=3)
    torch.testing.assert_close(gradient, upstream * soft * (1 - soft) / tau)
    step = 1e-6
    above, below = (relaxed(logits.detach() + sign * step, tau, seed=3) for sign in (1, -1))
    torch.testing.assert_close(gradient, upstream * (above - below) / (2 * step), rtol=1e-7, atol=1e-9)


def test_the_noise_is_a_difference_of_two_gumbels():
    share = select_channels(torch.full((200_000,), 0.8), 5.0, True).mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.005)


def test_the_evaluation_mask_keeps_positive_logits_without_noise():
    logits = torch.tensor([-1.0, 0.0, 1e-7, 2.0])
    assert select_channels(logits, 5.0, False).tolist() == [0, 0, 1, 1]


def test_gradients_reach_input_weight_and_bias_through_the_mask():
    block = opened(4).double()
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(block(x).square().sum(), [x, block.selector.weight, block.selector.bias])
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("scale", ["mean", "sqrt", "literal"])
@pytest.mark.parametrize("training", [True, False])
def test_the_block_equals_a_loop_over_tokens(training, scale):
    block = opened(5, scale=scale).double().train(training)
    x = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    s = {"mean": 1 / 5, "sqrt": 5**-0.5, "literal": 1.0}[scale]
    tokens = x.flatten(2).transpose(1, 2)
    logits = block.selector(tokens)
    mask = (relaxed(logits, 5.0, seed=2) > 0.5 if training else logits > 0).double()
    rows = torch.zeros_like(tokens)
    for b in range(2):
        for i in range(6):
            q = tokens[b, i] * mask[b, i]
            weights = torch.stack([torch.exp(s * (q * tokens[b, j] * mask[b, j]).sum()) for j in range(6)])
            rows[b, i] = sum(weights[j] / weights.sum() * tokens[b, j] for j in range(6))
    expected = x + block.norm(block.local(rows.transpose(1, 2).reshape(2, 5, 3, 2)))
    torch.manual_seed(2)
    torch.testing.assert_close(block(x), expected)


def test_fused_attention_equals_the_affinity_matrix_in_float32():
    q, v = torch.randn(2, 2, 300, 32)
    expected = torch.softmax(0.2 * q @ q.mT, dim=-1) @ v
    torch.testing.assert_close(attend(q, q, v, scale=0.2), expected, rtol=1e-5, atol=1e-5)


def test_evaluation_is_deterministic_and_training_is_not():
    block = opened(8)
    x = torch.randn(2, 8, 4, 4)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_the_share_of_kept_channels_is_that_of_the_last_pass():
    block = opened(8).eval()
    assert block.kept.isnan()
    x = torch.randn(2, 8, 4, 4)
    block(x)
    assert block.kept.item() == pytest.approx(block.mask(x).float().mean().item())
    assert 0 < block.kept < 1
    with torch.no_grad():
        block.selector.weight.zero_()
        block.selector.bias.fill_(50.0)
    block.train()(x)
    assert block.kept == 1
    assert not block.kept.requires_grad


def test_the_masks_of_a_picture_say_which_channels_each_position_keeps():
    block = opened(3)
    x = torch.randn(2, 3, 4, 5)
    mask = block.mask(x)
    assert (mask.shape, mask.dtype) == (x.shape, torch.bool)
    assert torch.equal(mask[1, :, 2, 3], block.selector(x[1, :, 2, 3]) > 0)


def test_temperature_follows_the_published_schedule_down_to_a_floor_that_can_be_taken_away():
    assert DcsConfig().temperature(0) == 5.0
    assert DcsConfig().temperature(10) == pytest.approx(5.0 * 0.956**10)
    assert DcsConfig().temperature(119) == 0.5
    assert DcsConfig(tau_min=0).temperature(119) == pytest.approx(5.0 * 0.956**119)
    with pytest.raises(ValueError, match="tau_min is 0.5, above tau 0.1; set tau_min to tau or below"):
        DcsConfig(tau=0.1)


def dead_share(tau: float) -> float:
    """The share of logits of unit spread whose gradient, that of the relaxed mask, is below 1e-6 in a training pass."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(100_000, generator=generator, dtype=torch.float64)
    logits = torch.randn(100_000, generator=generator, dtype=torch.float64) + torch.logit(uniform)
    soft = torch.sigmoid(logits / tau)
    return float((soft * (1 - soft) / tau < 1e-6).double().mean())


JOBS = [
    (path.stem, section)
    for path in sorted(find_shipped_file("configs", "demo").parent.glob("*.yaml"))
    for section in ("search", "pretrain", "retrain")
    if getattr(load_config(path), section) is not None
]


@pytest.mark.parametrize(("name", "section"), JOBS)
def test_logits_keep_a_gradient_over_the_whole_of_every_shipped_configuration(name, section):
    config = load_config(find_shipped_file("configs", name))
    taus = {config.dcs.temperature(epoch) for epoch in range(config.section(section).epochs)}
    assert dead_share(min(taus)) < 0.01
    assert 0.25 / min(taus) <= 0.5, "the steepest gradient of a mask"


def test_without_a_floor_most_logits_die_in_a_long_training():
    assert dead_share(DcsConfig(tau_min=0).temperature(119)) > 0.8


def test_temperature_is_set_in_every_block_and_shares_are_read_by_name():
    network = nn.Sequential(opened(3), nn.Sequential(nn.ReLU(), opened(3)))
    set_temperature(network, 0.3)
    assert [block.tau.item() for block in (network[0], network[1][1])] == pytest.approx([0.3, 0.3])
    network(torch.randn(2, 3, 2, 2))
    shares = read_kept_shares(network)
    assert list(shares) == ["0", "1.1"]
    assert all(0 <= share <= 1 for share in shares.values())
    with pytest.raises(InputError, match="temperature tau is -1; expected a number above 0"):
        set_temperature(network, -1)


def test_the_scale_is_set_in_every_block_that_was_built_without_one():
    network = nn.Sequential(opened(4), opened(4, scale="literal"))
    x = torch.randn(2, 4, 3, 2)
    network.eval()
    first, second = network[0](x), network[1](x)
    set_scale(network, "sqrt")
    torch.testing.assert_close(network[1](x), second)
    assert not torch.allclose(network[0](x), first)
    with pytest.raises(InputError, match="unknown attention scale 'square'"):
        set_scale(network, "square")


@pytest.mark.parametrize("recorded", [None, {"tau": 0.3, "decay": 0.956}])
def test_runs_of_before_keep_the_scale_and_the_temperature_that_they_did_not_record(recorded, tmp_path):
    settings = load_config(find_shipped_file("configs", "dcs_fb_resnet50")).model_dump(mode="json")
    settings["dcs"] = recorded
    settings["trainer"]["precision"] = "bf16"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    config = RunFolder(tmp_path).config()
    assert (config.dcs.scale, config.dcs.tau_min, config.trainer.precision) == ("sqrt", 0.0, "bf16-mixed")
    network = build_fixed(RetrainConfig(backbone="resnet10_small", backbone_options={"attention": "dcs"}),
                          DataConfig(height=64, width=32), 2, None, config.dcs)  # fmt: skip
    blocks = [block for block in network.modules() if isinstance(block, DCSAttention)]
    assert blocks
    assert {block.scale_kind for block in blocks} == {"sqrt"}


def test_temperature_and_shares_stay_out_of_saved_weights():
    assert set(DCSAttention(2).state_dict()) == {
        *("selector.weight", "selector.bias", "local.weight"),
        *(f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    }


def test_second_derivatives_come_with_the_unfused_kernel():
    block = opened(4)
    x = torch.randn(2, 4, 3, 2, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert second.isfinite().all()
    assert second.abs().max() > 0
