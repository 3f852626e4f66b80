"""Depthwise and pointwise convolutions: the library's values and derivatives, of second order too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from dcs_nas.models.depthwise import DepthwiseConv, PointwiseConv


def _images(*shape: int) -> Tensor:
    return torch.randn(*shape).double().contiguous(memory_format=torch.channels_last).requires_grad_()


def _plain(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 1)])
def test_depthwise_values_and_gradients_equal_the_library_s(kernel: int, dilation: int, size: tuple[int, int]) -> None:
    conv = DepthwiseConv(4, kernel, dilation=dilation).double()
    x = _images(3, 4, *size)
    direction = torch.randn(3, 4, *size).double()
    found, expected = conv(x), _plain(conv, x)
    assert "_Depthwise" in type(found.grad_fn).__name__
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y.sin() * direction).sum(), (x, conv.weight)) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dilation", [1, 2])
def test_second_derivatives_equal_the_library_s(dilation: int) -> None:
    conv = DepthwiseConv(2, 3, dilation=dilation).double()
    x = _images(2, 2, 5, 4)
    found = []
    for y in (conv(x), _plain(conv, x)):
        first = torch.autograd.grad(y.sin().sum(), (x, conv.weight), create_graph=True)
        found.append(torch.autograd.grad(sum(g.pow(2).sum() for g in first), (x, conv.weight)))
    torch.testing.assert_close(*found)


def test_pointwise_values_and_gradients_equal_the_library_s() -> None:
    conv = PointwiseConv(16, 8).double()
    x = _images(3, 16, 5, 4)
    found, expected = conv(x), _plain(conv, x)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    gradients = [torch.autograd.grad(y.sin().sum(), (x, conv.weight)) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("conv", [DepthwiseConv(16, 3), PointwiseConv(16, 16)])
def test_what_computes_no_gradients_is_left_to_the_library(conv: nn.Conv2d) -> None:
    x = torch.randn(2, 16, 6, 6).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(conv(x), _plain(conv, x))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(64, 32), (16, 8)])
def test_gradients_under_autocast_are_near_those_in_float32(
    kernel: int, dilation: int, stride: int, size: tuple[int, int]
) -> None:
    conv = DepthwiseConv(16, kernel, stride, dilation)
    gradients = []
    x = torch.randn(8, 16, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    direction = torch.randn_like(conv(x))
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = (conv(x) * direction).sum()
        gradients.append(torch.autograd.grad(loss, (x, conv.weight)))
    for exact, near in zip(*gradients):
        assert (near - exact).abs().max() < 0.02 * exact.abs().max()
