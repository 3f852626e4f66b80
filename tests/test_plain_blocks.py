"""The plain blocks of the benchmarks compute what ours do: values and gradients."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dcs_nas.models.blocks import build_attention

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from _plain_blocks import write_out


@pytest.mark.parametrize("name", ["dcs", "harmonious", "rga", "rga_spatial", "rga_channel"])
def test_a_plain_block_computes_what_ours_does(name: str) -> None:
    ours = build_attention(name, 16, 8, 4).double()
    for key, parameter in ours.named_parameters():
        if parameter.dim() == 1:  # no scale of a batch norm is 0; every channel is selected, whatever the noise
            nn.init.constant_(parameter, 1e3) if key == "selector.bias" else nn.init.uniform_(parameter, 0.5, 1.5)
    plain = copy.deepcopy(ours)
    write_out(plain)
    x = torch.randn(3, 16, 8, 4).double().requires_grad_()
    direction = torch.randn_like(x)
    outputs = [block(x) for block in (ours, plain)]
    torch.testing.assert_close(outputs[1], outputs[0])
    gradients = [
        torch.autograd.grad(y, [x, *block.parameters()], direction) for y, block in zip(outputs, (ours, plain))
    ]
    torch.testing.assert_close(*gradients)
