"""Operations side by side: the values, gradients and statistics of the operations one by one."""

from __future__ import annotations

import copy

import pytest
import torch

from dcs_nas.models.operations import OPERATIONS
from dcs_nas.models.super_cell import bank, mergeable, repeat_channels, separate


@pytest.mark.parametrize("name", ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "skip_connect"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 4), (7, 5)])
def test_a_bank_computes_what_its_operations_do(name: str, stride: int, size: tuple[int, int]) -> None:
    if name == "skip_connect" and stride == 1:
        return  # the identity has no parameters and is computed once for all
    height, width = (-(-s // stride) for s in size)
    made = [OPERATIONS[name](4, stride, height=height, width=width, affine=False).double() for _ in range(3)]
    assert mergeable(made)
    alone = copy.deepcopy(made)
    x = torch.randn(2, 4, *size).double().relu().contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = torch.rand(3).double().requires_grad_()
    wide = bank(made, x, repeat_channels(x, 3), list(weights.unbind()))
    expected = [op.after_relu(x, weight) for op, weight in zip(alone, weights)]
    torch.testing.assert_close(separate(wide, 3), expected)
    direction = torch.randn_like(wide)
    leaves = [[x, weights, *(p for op in ops for p in op.parameters())] for ops in (made, alone)]
    found = torch.autograd.grad((wide * direction).sum(), leaves[0])
    again = torch.autograd.grad((torch.cat(expected, 1) * direction).sum(), leaves[1])
    torch.testing.assert_close(found, again)
    for one, other in zip(made, alone):
        torch.testing.assert_close(dict(one.named_buffers()), dict(other.named_buffers()))


def test_what_has_no_bank_is_not_merged() -> None:
    dcs = [OPERATIONS["dcs"](4, 1, height=4, width=4, affine=False) for _ in range(2)]
    scaled = [OPERATIONS["sep_conv_3x3"](4, 1, height=4, width=4, affine=True) for _ in range(2)]
    assert not mergeable(dcs)
    assert not mergeable(scaled)
    assert not mergeable([OPERATIONS["sep_conv_3x3"](4, 1, height=4, width=4, affine=False)])
