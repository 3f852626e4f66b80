"""Depthwise and pointwise convolutions that are fast and right on a CPU. B images, C channels, H x W map.

The library's backward kernels of depthwise convolutions are written for few channels per group and are several times
slower than its forward ones. The same numbers come from forward kernels: the gradient of the input is the convolution
of the output's gradient with the mirrored kernel, and a dilation of 2 is a plain convolution of the four maps of every
second row and column. Pointwise convolutions of 16 channels or more are matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.nn.functional import conv2d, linear, pad


class DepthwiseConv(nn.Conv2d):
    """k x k, each channel by itself, "same" padding; k odd."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise(x, self.weight, self.dilation[0]) if self.stride == (1, 1) else super().forward(x)


class PointwiseConv(nn.Conv2d):
    """1 x 1 over all channels."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != (1, 1):
            return pointwise(x, self.weight, self.stride[0])
        if self.in_channels < 16 or not _is_worthwhile(x):
            return super().forward(x)
        return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)


def _is_worthwhile(x: Tensor) -> bool:
    """Return whether this is training on a CPU in the layout that its kernels like."""
    training = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return training and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)


_types_of_gpu = False


def is_faulty_in_half(x: Tensor) -> bool:
    """Return whether autocast would hand x to one of a CPU's kernels whose gradients are wrong in bfloat16."""
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not _types_of_gpu


@contextmanager
def as_on_gpu(active: bool = True) -> Iterator[None]:
    """Let autocast on a CPU compute in the types of a GPU: to measure memory, since the values may be wrong."""
    global _types_of_gpu
    before, _types_of_gpu = _types_of_gpu, active
    try:
        yield
    finally:
        _types_of_gpu = before


def pointwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve every ``stride``-th row and column of x (B, C, H, W) with weight (D, C, 1, 1).

    For fewer than 8 channels on a CPU the rows and columns are selected first: torch 2.13 writes past the end of the
    weight's gradient there (stride 2, channels_last), which corrupts the process's memory.
    """
    if x.shape[1] < 8 and x.device.type == "cpu":
        return conv2d(x[:, :, ::stride, ::stride], weight)
    return conv2d(x, weight, stride=stride)


def depthwise(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve x (B, C, H, W) with kernels (C, 1, k, k), stride 1, "same" padding: ``DepthwiseConv`` as a function.

    Under autocast on a CPU it is computed in float32: torch 2.13 computes wrong kernel gradients of dilated depthwise
    convolutions in bfloat16, up to 1e35, for maps such as 64 x 32.
    """
    if is_faulty_in_half(x):
        with torch.autocast("cpu", enabled=False):
            return depthwise(x.float(), weight.float(), dilation)
    if _is_worthwhile(x):
        return cast(Tensor, _Depthwise.apply(x, weight, dilation))
    return conv2d(x, weight, padding=dilation * (weight.shape[2] - 1) // 2, dilation=dilation, groups=x.shape[1])


class _Depthwise(torch.autograd.Function):
    """x (B, C, H, W), weight (C, 1, k, k), dilation to (B, C, H, W). Bilinear: every derivative is one of these two."""

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        padding = dilation * (weight.shape[2] - 1) // 2
        return conv2d(x, weight, padding=padding, dilation=dilation, groups=x.shape[1])

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = _Depthwise.apply(gradient, weight.flip(2, 3), ctx.dilation) if ctx.needs_input_grad[0] else None
        size = weight.shape[2]
        of_weight = _KernelGradient.apply(x, gradient, size, ctx.dilation) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None


class _KernelGradient(torch.autograd.Function):
    """x and the output's gradient (B, C, H, W) to the kernel's gradient (C, 1, k, k)."""

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, gradient: Tensor, size: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, gradient)
        ctx.dilation = dilation
        if dilation == 2:
            x, gradient, dilation = _split_by_parity(x), _split_by_parity(gradient), 1
        padding = dilation * (size - 1) // 2
        shape = x.new_empty(x.shape[1], 1, size, size)
        return torch.ops.aten.convolution_backward(
            gradient, x, shape, None, [1, 1], [padding] * 2, [dilation] * 2, False, [0, 0], x.shape[1],
            [False, True, False],
        )[1]  # fmt: skip

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (kernel,), (x, gradient) = gradients, ctx.saved_tensors
        of_x = _Depthwise.apply(gradient, kernel.flip(2, 3), ctx.dilation) if ctx.needs_input_grad[0] else None
        of_gradient = _Depthwise.apply(x, kernel, ctx.dilation) if ctx.needs_input_grad[1] else None
        return of_x, of_gradient, None, None


def _split_by_parity(x: Tensor) -> Tensor:
    """Return the maps (4 B, C, H / 2, W / 2) of even and odd rows and columns of x (B, C, H, W), padded with zeros."""
    tokens = pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)).permute(0, 2, 3, 1)
    batch, height, width, channels = tokens.shape
    parts = tokens.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(2, 4, 0, 1, 3, 5)
    return parts.reshape(4 * batch, height // 2, width // 2, channels).permute(0, 3, 1, 2)
