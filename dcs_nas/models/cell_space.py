"""A space of cells as an NNI ModelSpace; freezing it returns the fixed network of a genotype.

Images (B, 3, H, W) to the feature map (B, D, h, w) of the last cell, D = nodes * channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dcs_nas.models.nni_imports import Cell, LayerChoice, ModelSpace, freeze_in_place
from dcs_nas.models.operations import FactorizedReduce, ReluConvBn, build_cell_attention, build_operation
from dcs_nas.space import CellStructure, Genotype, NetworkSpec


class CellSpace(ModelSpace):
    """Stem and a stack of cells; each cell reads the two outputs before it (DARTS, arXiv 1806.09055).

    An attention block may follow each output: a ``LayerChoice`` labelled ``normal_attention`` or ``reduce_attention``.
    All cells of a kind share their choices.

    Args:
        structure: the candidates of a cell.
        network: how the cells are stacked.
        affine: scale and shift in the batch norms inside operations: as in DARTS, off in a supernet, on in a network
            to train.
        partial: K, the operations are 1/K as wide as the cell, for a supernet with partial channels.

    Attributes:
        num_features: D, channels of the output map.
    """

    num_features: int

    def __init__(self, structure: CellStructure, network: NetworkSpec, affine: bool = False, partial: int = 1) -> None:
        super().__init__()
        height, width = network.height, network.width
        self.stem = Stem(network)
        height, width = self.stem.output_size(height, width)
        before, last = self.stem.channels, self.stem.channels
        channels, halved = network.channels, False
        self.cells, self.attention = nn.ModuleList(), nn.ModuleList()
        for i in range(network.cells):
            kind = network.kind(i)
            inputs = CellInputs(before, last, channels * 2 if kind == "reduce" else channels, halved, affine)
            if kind == "reduce":
                channels, height, width = 2 * channels, -(-height // 2), -(-width // 2)
            size: Any = {"height": height, "width": width, "max_nodes": structure.max_nodes}
            build = functools.partial(build_operation, affine=affine, **size)
            narrow = channels // partial
            factories = {op: _edge_factory(kind, functools.partial(build, op, narrow)) for op in structure.operations}
            self.cells.append(
                Cell(factories, structure.nodes, structure.edges_per_node, 2, preprocessor=inputs, label=kind)
            )
            before, last, halved = last, structure.nodes * channels, kind == "reduce"
            blocks = {name: build_cell_attention(name, last, **size) for name in structure.attention}
            self.attention.append(LayerChoice(blocks, label=f"{kind}_attention"))
        self.num_features = last

    def forward(self, images: Tensor) -> Tensor:
        before = last = self.stem(images)
        for cell, attention in zip(self.cells, self.attention):
            before, last = last, attention(cell(before, last))
        return last


class Stem(nn.Module):
    """The first convolutions: ``conv`` keeps the size, ``stride2`` halves it, ``stride4`` quarters it.

    Its width is ``stem_multiplier`` (3 in DARTS) times the width of the first cell.
    """

    def __init__(self, network: NetworkSpec) -> None:
        super().__init__()
        self.channels = network.stem_multiplier * network.channels
        self.strides = {"conv": [1], "stride2": [2], "stride4": [2, 2]}[network.stem]
        layers: list[nn.Module] = []
        c_in = 3
        for i, stride in enumerate(self.strides):
            layers += [nn.ReLU()] if i else []
            layers += [nn.Conv2d(c_in, self.channels, 3, stride, 1, bias=False), nn.BatchNorm2d(self.channels)]
            c_in = self.channels
        self.layers = nn.Sequential(*layers)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the output for images of ``height`` x ``width``."""
        for stride in self.strides:
            height, width = -(-height // stride), -(-width // stride)
        return height, width

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class CellInputs(nn.Module):
    """Both inputs of a cell at its width, and the older one at the size of the newer one after a reduction."""

    def __init__(self, before: int, last: int, channels: int, halved: bool, affine: bool) -> None:
        super().__init__()
        older = FactorizedReduce if halved else ReluConvBn
        self.before = older(before, channels, affine=affine)
        self.last = ReluConvBn(last, channels, affine=affine)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        before, last = inputs
        return [self.before(before), self.last(last)]


def build_fixed_network(genotype: Genotype) -> nn.Module:
    """Return the network of a genotype: its space with the choices made, trainable from scratch.

    Raises ``InputError`` for an unreasonably large one.
    """
    genotype.check_size()
    network = CellSpace(genotype.space, genotype.network, affine=True)
    freeze_in_place(network, genotype.to_sample())
    return network


def _edge_factory(kind: str, build: Callable[[int], nn.Module]) -> Callable[[int, int, int | None], nn.Module]:
    """Return NNI's factory of one candidate: an edge of a reduction cell strides where it reads the cell's inputs."""

    def make(node: int, index: int, source: int | None) -> nn.Module:
        return build(2 if kind == "reduce" and (source is None or source < 2) else 1)

    return make
