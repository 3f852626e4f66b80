"""The candidate operations on an edge of a cell. Maps (B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride)).

Those of DARTS are as published (Liu, Simonyan, Yang, arXiv 1806.09055; quark0/darts, cnn/operations.py); attention
blocks keep the map's size and follow a strided projection where an edge strides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from dcs_nas.errors import InputError
from dcs_nas.models.blocks import ATTENTION, attention_settings, build_attention
from dcs_nas.models.custom import build_custom
from dcs_nas.models.depthwise import DepthwiseConv, PointwiseConv
from dcs_nas.registry import Registry

Operation = Callable[..., nn.Module]
OPERATIONS: Registry[Operation] = Registry("operation")
"""Name to ``factory(channels, stride, *, height, width, affine)``; ``height`` and ``width`` are those of the output."""


class ReluFirst(nn.Module):
    """An operation that begins with a ReLU and ends with a batch norm.

    A supernet computes that ReLU once for all readers of a state, and has the batch norm apply the mixture's weight.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.after_relu(torch.relu(x))

    def after_relu(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the operation on a map that has passed the ReLU, times a scalar ``weight``."""
        raise AssertionError(f"{type(self).__name__} does not say what follows its ReLU")


class ReluConvBn(ReluFirst):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, c_in: int, c_out: int, *, affine: bool = True) -> None:
        super().__init__()
        self.conv = PointwiseConv(c_in, c_out)
        self.norm = nn.BatchNorm2d(c_out, affine=affine)

    def after_relu(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return weighted_norm(self.norm, self.conv(x), weight)


class FactorizedReduce(ReluFirst):
    """ReLU, then two strided 1x1 convolutions, the second shifted by one pixel, side by side; batch norm.

    Odd maps get a row and a column of zeros at the end, so that both halves have ceil(H / 2) x ceil(W / 2).
    """

    def __init__(self, c_in: int, c_out: int, *, affine: bool = True) -> None:
        super().__init__()
        self.even = PointwiseConv(c_in, c_out - c_out // 2, stride=2)
        self.odd = PointwiseConv(c_in, c_out // 2, stride=2) if c_out > 1 else None
        self.norm = nn.BatchNorm2d(c_out, affine=affine)

    def after_relu(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        if self.odd is None:
            return weighted_norm(self.norm, self.even(x), weight)
        shifted = nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        return weighted_norm(self.norm, torch.cat([self.even(x), self.odd(shifted)], dim=1), weight)


class SeparableConv(ReluFirst):
    """Twice: ReLU, depthwise k x k, 1x1, batch norm; the first depthwise convolution strides."""

    def __init__(self, channels: int, kernel: int, stride: int, *, affine: bool) -> None:
        super().__init__()
        self.first = _depthwise_pointwise(channels, kernel, stride, 1, affine)
        self.second = _depthwise_pointwise(channels, kernel, 1, 1, affine)

    def after_relu(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return _norm(self.second, torch.relu(self.first(x)), weight)


class DilatedConv(ReluFirst):
    """ReLU, depthwise k x k with dilation 2, 1x1, batch norm.

    With stride 2 all taps fall on even rows and columns: the same numbers come from a plain convolution of every
    second one, whose backward pass is several times faster.
    """

    def __init__(self, channels: int, kernel: int, stride: int, *, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.body = _depthwise_pointwise(channels, kernel, 1, 1 if stride == 2 else 2, affine)

    def after_relu(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        if self.stride == 2:
            x = x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return _norm(self.body, x, weight)


class PoolBn(nn.Module):
    """3x3 max or average pooling (padding not counted in the mean), batch norm without parameters."""

    def __init__(self, kind: str, channels: int, stride: int) -> None:
        super().__init__()
        pools: dict[str, nn.Module] = {
            "max": nn.MaxPool2d(3, stride, padding=1),
            "avg": nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
        }
        self.pool = pools[kind]
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pool(x))


class Zero(nn.Module):
    """No connection: zeros of the size that the edge would give."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def build_operation(
    name: str, channels: int, stride: int, *, height: int, width: int, affine: bool, max_nodes: int | None = None
) -> nn.Module:
    """Return the operation ``name``, or the attention block of that name, for which see ``build_cell_attention``.

    Raises:
        InputError: an unknown name, or an operation of a user's own that does not do what ``Operation`` says.
    """
    if name in ATTENTION and not OPERATIONS.is_extension(name):
        return _attention(name, channels, stride, height=height, width=width, affine=affine, max_nodes=max_nodes)
    make = partial(OPERATIONS[name], channels, stride, height=height, width=width, affine=affine)
    if not OPERATIONS.is_extension(name):
        return make()
    what = f"operation '{name}' of {OPERATIONS.owner(name)}"
    shape, expected = (channels, height * stride, width * stride), (channels, height, width)
    operation = build_custom(what, make, shape, expected, call="factory(channels, stride, height=, width=, affine=)")
    if isinstance(operation, ReluFirst) and type(operation).forward is not ReluFirst.forward:
        raise InputError(f"{what} is a ReluFirst with a forward of its own; write after_relu, or derive from nn.Module")
    return operation


def weighted_norm(norm: nn.BatchNorm2d, x: Tensor, weight: Tensor | None) -> Tensor:
    """Return weight * norm(x) for a scalar weight, in one pass: it scales the norm's own scale and shift."""
    if weight is None or not norm.training or norm.momentum is None:
        y = norm(x)
        return y if weight is None else weight * y
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    # A contiguous scale together with a shift: the library's CPU kernel is half as fast with anything else.
    scale = weight.expand(x.shape[1]).contiguous() if norm.weight is None else weight * norm.weight
    shift = torch.zeros_like(scale) if norm.bias is None else weight * norm.bias
    return batch_norm(x, norm.running_mean, norm.running_var, scale, shift, True, norm.momentum, norm.eps)


def _norm(body: nn.Sequential, x: Tensor, weight: Tensor | None) -> Tensor:
    depthwise, pointwise, norm = body
    return weighted_norm(cast(nn.BatchNorm2d, norm), pointwise(depthwise(x)), weight)


def _depthwise_pointwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> nn.Sequential:
    return nn.Sequential(
        DepthwiseConv(channels, kernel, stride, dilation),
        PointwiseConv(channels, channels),
        nn.BatchNorm2d(channels, affine=affine),
    )


@OPERATIONS.register("none")
def _none(channels: int, stride: int, **_: Any) -> nn.Module:
    return Zero(stride)


@OPERATIONS.register("skip_connect")
def _skip_connect(channels: int, stride: int, *, affine: bool, **_: Any) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)


def _pool(kind: str, channels: int, stride: int, **_: Any) -> nn.Module:
    return PoolBn(kind, channels, stride)


def _convolve(
    kind: type[SeparableConv | DilatedConv], kernel: int, channels: int, stride: int, *, affine: bool, **_: Any
) -> nn.Module:
    return kind(channels, kernel, stride, affine=affine)


def build_cell_attention(name: str, channels: int, *, height: int, width: int, max_nodes: int | None) -> nn.Module:
    """Return the attention block ``name``, which pools larger maps to ``max_nodes`` positions if it can."""
    pools = max_nodes is not None and "max_nodes" in attention_settings(name)
    return build_attention(name, channels, height, width, **({"max_nodes": max_nodes} if pools else {}))


def _attention(
    name: str, channels: int, stride: int, *, height: int, width: int, affine: bool, max_nodes: int | None = None
) -> nn.Module:
    block = build_cell_attention(name, channels, height=height, width=width, max_nodes=max_nodes)
    return block if stride == 1 else nn.Sequential(FactorizedReduce(channels, channels, affine=affine), block)


for _kind in ("max", "avg"):
    OPERATIONS.register(f"{_kind}_pool_3x3")(partial(_pool, _kind))
for _kernel in (3, 5):
    OPERATIONS.register(f"sep_conv_{_kernel}x{_kernel}")(partial(_convolve, SeparableConv, _kernel))
    OPERATIONS.register(f"dil_conv_{_kernel}x{_kernel}")(partial(_convolve, DilatedConv, _kernel))
for _name in ATTENTION:
    OPERATIONS.register(_name)(partial(_attention, _name))
