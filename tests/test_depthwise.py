"""Depthwise and pointwise convolutions: the library's values and derivatives, of second order too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from dcs_nas.models.depthwise import DepthwiseConv, PointwiseConv

_MALLOC = next(Path("/usr/lib").glob("*/libc_malloc_debug.so.0"), None)  # stops a process whose heap is damaged


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


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("size", [(8, 6), (7, 5), (2, 1)])
def test_strided_pointwise_values_and_gradients_equal_the_library_s(channels: int, size: tuple[int, int]) -> None:
    conv = PointwiseConv(channels, 6, stride=2).double()
    x = _images(3, channels, *size)
    found, expected = conv(x), _plain(conv, x)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(y.sin().sum(), (x, conv.weight)) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


_REPEATED = """
import torch
from dcs_nas.models.operations import FactorizedReduce
torch.manual_seed(0)
skip = FactorizedReduce(4, 8)
kept = []
for i in range(60):
    x = torch.randn(8, 4, 16, 8).contiguous(memory_format=torch.channels_last)
    skip(x).sum().backward()
    kept.append([torch.empty(7 * j + 1) for j in range(i % 9)])  # neighbours in memory, some of them freed again
    kept = kept[::2] if i % 3 == 0 else kept
"""


@pytest.mark.skipif(_MALLOC is None, reason="the C library's checking allocator is not installed")
def test_a_strided_skip_of_few_channels_writes_into_no_other_memory() -> None:
    """As in partial channels: torch 2.13 writes past the weight's gradient of a 1 x 1 convolution of stride 2."""
    checking = {"LD_PRELOAD": str(_MALLOC), "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _REPEATED], env={**os.environ, **checking}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-500:]


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
