"""Operations of one kind side by side: n edges that read the same state, computed as one operation n times as wide.

A supernet's cell has many small operations; on few channels most of a kernel's time is not arithmetic. B images, C
channels of an edge, H x W map. Values and gradients are those of the operations one by one (tests/test_banks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, pad

from dcs_nas.models.depthwise import DepthwiseConv, depthwise
from dcs_nas.models.operations import DilatedConv, FactorizedReduce, ReluFirst, SeparableConv

Parts = Sequence[nn.Module]


def mergeable(operations: Sequence[nn.Module]) -> bool:
    """Whether these operations of one kind have a bank: at least two, known, and without parameters in their norms."""
    first = operations[0]
    return (
        len(operations) > 1
        and type(first) in _KNOWN
        and not any(norm.affine for norm in first.modules() if isinstance(norm, nn.BatchNorm2d))
    )


def bank(operations: Sequence[ReluFirst], x: Tensor, wide: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The outputs of n operations in training mode, each times its scalar weight: (B, n C, H', W').

    Args:
        operations: of one kind and size, see ``mergeable``.
        x: what they read, behind its ReLU, (B, C, H, W).
        wide: the same n times, (B, n C, H, W), see ``repeated``.
        weights: n scalars.
    """
    first = operations[0]
    if isinstance(first, FactorizedReduce):
        return _reduced([cast(FactorizedReduce, op) for op in operations], x, weights)
    if isinstance(first, DilatedConv):
        if first.stride == 2:
            wide = wide[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return _stage([cast(DilatedConv, op).body for op in operations], wide, weights)
    found = [cast(SeparableConv, op) for op in operations]
    hidden = torch.relu(_stage([op.first for op in found], wide, None))
    return _stage([op.second for op in found], hidden, weights)


def repeated(x: Tensor, n: int) -> Tensor:
    """(B, C, H, W) to (B, n C, H, W), channels_last."""
    tokens = x.permute(0, 2, 3, 1)
    return tokens.unsqueeze(3).expand(-1, -1, -1, n, -1).flatten(3).permute(0, 3, 1, 2)


def separated(wide: Tensor, n: int) -> list[Tensor]:
    """(B, n C, H, W) to n maps (B, C, H, W), channels_last."""
    parts = wide.permute(0, 2, 3, 1).unflatten(3, (n, -1)).movedim(3, 0).contiguous()
    return [part.permute(0, 3, 1, 2) for part in parts.unbind()]


def _stage(bodies: Sequence[nn.Sequential], x: Tensor, weights: Sequence[Tensor] | None) -> Tensor:
    """Depthwise, 1x1, batch norm."""
    convs, points, norms = zip(*bodies)
    first = cast(DepthwiseConv, convs[0])
    kernels = _joined(convs)
    if first.stride == (1, 1):
        y = depthwise(x, kernels, first.dilation[0])
    else:
        y = conv2d(x, kernels, None, first.stride, first.padding, first.dilation, x.shape[1])
    return _normed(norms, conv2d(y, _joined(points), groups=len(points)), weights)


def _reduced(operations: Sequence[FactorizedReduce], x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    n = len(operations)
    halves = [conv2d(x, _joined([op.even for op in operations]), stride=2).unflatten(1, (n, -1))]
    if operations[0].odd is not None:
        shifted = pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        odd = conv2d(shifted, _joined([cast(nn.Module, op.odd) for op in operations]), stride=2)
        halves.append(odd.unflatten(1, (n, -1)))
    return _normed([op.norm for op in operations], torch.cat(halves, dim=2).flatten(1, 2), weights)


def _normed(norms: Parts, x: Tensor, weights: Sequence[Tensor] | None) -> Tensor:
    found = [cast(nn.BatchNorm2d, norm) for norm in norms]
    statistics = [[cast(Tensor, getattr(norm, name)) for norm in found] for name in ("running_mean", "running_var")]
    mean, variance = (torch.cat(each) for each in statistics)
    channels = x.shape[1] // len(found)
    scale = torch.ones_like(mean) if weights is None else torch.stack(list(weights)).repeat_interleave(channels)
    y = batch_norm(x, mean, variance, scale, torch.zeros_like(scale), True, found[0].momentum or 0.0, found[0].eps)
    with torch.no_grad():
        for kept, moved in zip(statistics, (mean, variance)):
            torch._foreach_copy_(kept, list(moved.split(channels)))
        torch._foreach_add_([cast(Tensor, norm.num_batches_tracked) for norm in found], 1)
    return y


def _joined(convs: Parts) -> Tensor:
    return torch.cat([cast(Tensor, conv.weight) for conv in convs])


_KNOWN = (SeparableConv, DilatedConv, FactorizedReduce)
