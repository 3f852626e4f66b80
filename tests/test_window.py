"""Attention on a window of channels: a slow formula, gradients of its start and length, bounds, a fixed window."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.blocks import WindowAttention, build_attention
from dcs_nas.models.flops import count_map


def opened(channels: int, start: float, length: float) -> WindowAttention:
    block = WindowAttention(channels).double()
    nn.init.ones_(block.norm.weight)
    with torch.no_grad():
        block.window.copy_(torch.tensor([start, length - channels], dtype=torch.float64))
    return block


def slowly(x: Tensor, start: float, length: float) -> Tensor:
    """The sum over the channels of the window and over pairs of positions of one image (C, N), as the code has it:
    a window of floor(length) channels and one of a channel more, weighted by the rest of the length."""
    channels, positions = x.shape
    first, share = math.floor(start), start - math.floor(start)
    total = torch.zeros_like(x)
    for size, weight in ((math.floor(length), 1 - length % 1), (math.floor(length) + 1, length % 1)):
        for k in range(size):
            one, two = x[(first + k) % channels], x[(first + k + 1) % channels]
            seen = (1 - share) * one + share * two
            for i in range(positions):
                for j in range(positions):
                    total[:, i] += weight * seen[i] * seen[j] * x[:, j] / positions
    return total


@pytest.mark.parametrize(("start", "length"), [(0.0, 7.0), (2.497, 3.239), (5.6, 6.5), (-1.25, 4.0)])
def test_a_window_is_the_sum_over_its_channels_and_pairs_of_positions(start: float, length: float) -> None:
    x = torch.randn(2, 7, 2, 3, dtype=torch.float64)
    block = opened(7, start, length).eval()
    expected = torch.stack([slowly(image.flatten(1), start, length).view(7, 2, 3) for image in x])
    torch.testing.assert_close(block.attend_window(x), expected)
    torch.testing.assert_close(block(x), x + block.norm(block.local(expected)))


@pytest.mark.parametrize(("start", "length"), [(2.497, 4.239), (0.3, 6.9), (-3.5, 2.2)])
def test_start_and_length_have_the_gradients_of_finite_differences(start: float, length: float) -> None:
    x, upstream = torch.randn(2, 1, 7, 2, 3, dtype=torch.float64)
    block = opened(7, start, length)

    def value() -> Tensor:
        return (block.attend_window(x) * upstream).sum()

    (gradient,) = torch.autograd.grad(value(), block.window)
    for i in range(2):
        moved = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                block.window[i] += step
            moved.append(value().item())
            with torch.no_grad():
                block.window[i] -= step
        assert gradient[i].item() == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-5)
        assert gradient[i].abs() > 1e-6


def test_all_channels_of_a_new_block_can_become_fewer() -> None:
    block = opened(6, 0.0, 6.0)
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(block.attend_window(x).square().sum(), block.window)
    assert gradient[1].abs() > 0


def test_a_window_stays_between_a_quarter_and_all_of_the_channels() -> None:
    x = torch.randn(2, 8, 2, 2, dtype=torch.float64)
    for length, kept in ((-3.0, 2.0), (11.0, 8.0), (5.5, 5.5)):
        block = opened(8, 1.0, length)
        assert block.at_width(8) == (1.0, kept)
        block(x)
        assert block.window[1].item() == kept - 8
    assert opened(8, 9.5, 5.0).at_width(4) == (1.5, 2.5)
    assert opened(8, -1e-20, 5.0).at_width(8) == (0.0, 5.0)


def test_a_fixed_window_is_the_learned_one_without_parameters_and_costs_its_channels() -> None:
    learned = opened(7, 2.497, 3.239)
    fixed = WindowAttention(7, window=(2.497, 3.239)).double()
    fixed.load_state_dict({k: v for k, v in learned.state_dict().items() if k != "window"})
    x = torch.randn(2, 7, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(fixed(x), learned(x))
    cost, _ = count_map(WindowAttention(7, window=(2.497, 3.239)), (7, 4, 2))
    assert cost.macs == 2 * 8 * 4 * 7 + 8 * 7 * 9
    assert cost.parameters == 9 * 7 + 2 * 7
    assert count_map(WindowAttention(7), (7, 4, 2))[0].macs == 2 * 8 * 7 * 7 + 8 * 7 * 9


def test_the_relations_of_many_positions_stay_in_the_range_of_half_precision() -> None:
    block = WindowAttention(4, window=(0, 4))
    x = 8 * torch.randn(1, 4, 64, 48)
    found = block.attend_window(x.half())
    assert found.isfinite().all()
    torch.testing.assert_close(found.float(), block.attend_window(x), rtol=0.02, atol=1)


@pytest.mark.parametrize("window", [(7, 3), (-1, 3), (0, 0), (0, 8)])
def test_a_window_that_does_not_fit_is_one_clear_line(window: object) -> None:
    with pytest.raises(
        InputError, match=r"window is .*; expected its start, from 0 to below 7, and its length, above 0"
    ):
        build_attention("dcs_window", 7, 4, 2, window=window)
