"""The parts of a cell network that cost anything, each with its place, its costs and what to time.

Shapes are (C, H, W), without the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from dcs_nas.models.cell_space import CellInputs, CellSpace
from dcs_nas.models.flops import count_map
from dcs_nas.models.latency import Work
from dcs_nas.models.nni_imports import Cell, LayerChoice
from dcs_nas.space import CellStructure, NetworkSpec

Shape = tuple[int, ...]
Weight = tuple[str, int, int]
"""Mixture, row and column of a mixture weight."""


@dataclass(frozen=True)
class Part:
    """A module of a cell network.

    Attributes:
        name: its place, such as "cells.3 node 0 <- 1 sep_conv_3x3".
        weight: the mixture weight that says how much of it is there; None: it always is.
        macs: multiply-adds for one image.
        parameters: numbers that training may change.
        work: what to time.
    """

    name: str
    weight: Weight | None
    macs: int
    parameters: int
    work: Work


def cell_parts(structure: CellStructure, network: NetworkSpec) -> list[Part]:
    """Stem, preprocessing and every candidate of a space, in order of computation, as in a fixed network.

    The random generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        space = CellSpace(structure, network, affine=True)
        walk = _Walk(network)
        shape = (3, network.height, network.width)
        before = last = walk.note("stem", "stem", lambda: cast(nn.Module, space.stem), shape)
        for i, (cell, attention) in enumerate(zip(space.cells, space.attention)):
            given = walk.cell(i, cast(Cell, cell), before, last)
            before, last = last, walk.attention(i, cast(LayerChoice, attention), given)
        return walk.parts


class _Walk:
    """Goes through a space with the shapes of its maps and notes the modules; equal ones are counted once."""

    def __init__(self, network: NetworkSpec) -> None:
        self.network = network
        self.parts: list[Part] = []
        self._known: dict[object, tuple[int, int, Shape]] = {}

    def cell(self, number: int, cell: Cell, before: Shape, last: Shape) -> Shape:
        """Notes what cell ``number`` may hold; the shape of its output."""
        place, kind = f"cells.{number}", self.network.kind(number)
        inputs = cast(CellInputs, cell.preprocessor)
        states = [
            self.note(f"{place} {which} input", type(module).__name__, partial(_same, module), shape)
            for which, module, shape in (("older", inputs.before, before), ("newer", inputs.last, last))
        ]
        row = 0
        for node in range(cell.num_nodes):
            for source in range(len(states)):
                stride = 2 if kind == "reduce" and source < 2 else 1
                for column, (name, factory) in enumerate(cell.op_candidates_factory.items()):
                    given = self.note(
                        f"{place} node {node} <- {source} {name}",
                        f"{name} stride {stride}",
                        partial(factory, node + 2, 0, source),
                        states[source],
                        (str(cell.label), row, column),
                    )
                row += 1
            states.append(given)
        return (given[0] * cell.num_nodes, *given[1:])

    def attention(self, number: int, choice: LayerChoice, shape: Shape) -> Shape:
        """Notes the candidates after cell ``number``; the shape that they all give."""
        for column, name in enumerate(choice.names):
            weight = (str(choice.label), 0, column)
            self.note(f"attention.{number} {name}", f"attention {name}", partial(_same, choice[name]), shape, weight)
        return shape

    def note(
        self, name: str, what: str, make: Callable[[], nn.Module], shape: Shape, weight: Weight | None = None
    ) -> Shape:
        """Notes one module that reads maps of ``shape``; the shape that it gives."""
        same = None if weight is None else (what, shape)  # candidates of one name and stride keep the width
        macs, parameters, given = self._known.get(same) or _count(make(), shape)
        if same is not None:
            self._known[same] = macs, parameters, given
        key = f"{what} {_times(shape)} to {_times(given)}"
        self.parts.append(Part(name, weight, macs, parameters, Work(key, shape, make)))
        return given


def _count(module: nn.Module, shape: Shape) -> tuple[int, int, Shape]:
    cost, given = count_map(module, shape)
    return cost.macs, cost.parameters, given


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _same(module: nn.Module) -> nn.Module:
    return module
