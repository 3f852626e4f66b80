"""DARTS' search network as published, written out plainly: every operation on every edge, weighted and summed.

Liu, Simonyan, Yang, arXiv 1806.09055, section 2 and the operations of section 3.1: ReLU-Conv-BN order, separable
convolutions applied twice, batch norms without scale and shift, stem of three times the width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


class PlainNetwork(nn.Module):
    """Images (B, 3, H, W) to scores (B, classes); ``alphas`` (E, 8) for normal and for reduction cells."""

    def __init__(self, *, width: int, cells: int, nodes: int, classes: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * width, 3, padding=1, bias=False), nn.BatchNorm2d(3 * width))
        older, last, reduced = 3 * width, 3 * width, False
        self.cells = nn.ModuleList()
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            width *= 2 if reduction else 1
            self.cells.append(_Cell(nodes, older, last, width, reduction, reduced))
            older, last, reduced = last, nodes * width, reduction
        self.classifier = nn.Linear(last, classes)
        edges = sum(range(2, nodes + 2))
        self.alphas = nn.ParameterList(nn.Parameter(1e-3 * torch.randn(edges, len(OPERATIONS))) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        normal, reduction = (torch.softmax(alpha, dim=-1) for alpha in self.alphas)
        older = last = self.stem(images)
        for cell in self.cells:
            older, last = last, cell(older, last, reduction if cell.reduction else normal)
        return self.classifier(last.mean(dim=(2, 3)))


class _Cell(nn.Module):
    def __init__(self, nodes: int, older: int, last: int, width: int, reduction: bool, reduced: bool) -> None:
        super().__init__()
        self.reduction, self.nodes = reduction, nodes
        self.before = _FactorizedReduce(older, width) if reduced else _relu_conv_bn(older, width)
        self.last = _relu_conv_bn(last, width)
        self.edges = nn.ModuleList(
            _MixedOperation(width, 2 if reduction and source < 2 else 1)
            for node in range(nodes)
            for source in range(node + 2)
        )

    def forward(self, older: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        states, offset = [self.before(older), self.last(last)], 0
        for _ in range(self.nodes):
            mixed = [self.edges[offset + j](state, weights[offset + j]) for j, state in enumerate(states)]
            offset += len(states)
            states.append(sum(mixed[1:], mixed[0]))
        return torch.cat(states[2:], dim=1)


class _MixedOperation(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(_operation(name, width, stride) for name in OPERATIONS)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        terms = [weight * operation(x) for weight, operation in zip(weights, self.operations)]
        return sum(terms[1:], terms[0])


class _Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class _FactorizedReduce(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(c_out, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


def _operation(name: str, width: int, stride: int) -> nn.Module:
    if name == "none":
        return _Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else _FactorizedReduce(width, width)
    if "pool" in name:
        pool = (
            nn.MaxPool2d(3, stride, padding=1)
            if name.startswith("max")
            else nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        )
        return nn.Sequential(pool, nn.BatchNorm2d(width, affine=False))
    kernel, dilation = int(name[-1]), 2 if name.startswith("dil") else 1
    layers = _depthwise(width, kernel, stride, dilation)
    return nn.Sequential(*layers, *(_depthwise(width, kernel, 1, 1) if name.startswith("sep") else []))


def _depthwise(width: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(width, width, kernel, stride, padding, dilation, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width, affine=False),
    ]


def _relu_conv_bn(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out, affine=False))
