"""The cost of a mixture of architectures: multiply-adds, parameters or latency, exactly and differentiably.

Symbols: E edges of a cell, O operations, A candidates of attention, k edges that a node keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.cell_space import CellInputs, CellSpace
from dcs_nas.models.flops import Cost, count_map
from dcs_nas.models.latency import LatencyTable, Work
from dcs_nas.models.nni_imports import Cell, LayerChoice
from dcs_nas.space import CellStructure, NetworkSpec

Kind = Literal["flops", "parameters", "latency"]
Shape = tuple[int, ...]
Weight = tuple[str, int, int]
"""Mixture, row and column of a mixture weight."""


@dataclass(frozen=True)
class Part(Work):
    """A module of a cell network, to be timed.

    Attributes:
        name: its place, such as "cells.3 node 0 <- 1 sep_conv_3x3".
        weight: the mixture weight of the module; None: every network has it.
        macs: multiply-adds for one image.
        parameters: numbers, frozen ones too.
    """

    name: str
    weight: Weight | None
    macs: int
    parameters: int

    def cost(self, kind: Kind, latency: LatencyTable | None) -> float:
        """Return the cost; a missing edge takes no time."""
        if kind != "latency":
            return self.macs if kind == "flops" else self.parameters
        if latency is None:
            raise InputError("the expected latency needs a latency table; measure one with dcs-nas profile")
        return 0.0 if self.key.startswith("none ") else latency[self.key]


class CellCosts:
    """The costs of the fixed networks of a space of cells (batch norms with scale and shift), without a head.

    Args:
        structure: the candidates of the cells.
        network: how the cells are stacked, and the size of the images.
        edge_normalized: the weights of all edges into a node sum to 1 (PC-DARTS), see ``CellCost``.
    """

    def __init__(self, structure: CellStructure, network: NetworkSpec, *, edge_normalized: bool = False) -> None:
        self.structure, self.network, self.edge_normalized = structure, network, edge_normalized

    @cached_property
    def parts(self) -> list[Part]:
        """All modules with a cost, in order of computation."""
        return cell_parts(self.structure, self.network)

    def cost_space(self) -> str:
        """Return the text that identifies the space in a latency table: hash of the cells, and the network."""
        n = self.network
        places = f", {'-'.join(map(str, n.reductions))} reduce" if n.reductions else ""
        stem = f"stem {n.stem} of {n.stem_multiplier}x the width, images {n.height} x {n.width}"
        return f"cells {self.structure.hash}: {n.cells} cells of width {n.channels}{places}, {stem}"

    def works(self) -> list[Part]:
        """Return the parts to time: all but ``none``, which takes no time in a derived cell."""
        return [part for part in self.parts if not part.key.startswith("none ")]

    def compute_expected_cost(self, kind: Kind, latency: LatencyTable | None = None) -> CellCost:
        """Return the expected cost of mixtures ``normal``, ``normal_attention``, ``reduce``, ``reduce_attention``."""
        base, tables = self.tables(kind, latency)
        kept = self.structure.edges_per_node
        return CellCost(base, tables, self._edges, kept=kept, edge_normalized=self.edge_normalized)

    def tables(self, kind: Kind, latency: LatencyTable | None = None) -> tuple[float, dict[str, Tensor]]:
        """Return the cost that all networks share, and the cost (E, O) or (1, A) of each candidate by mixture.

        Costs are summed over all cells that share the mixture, in float64.
        """
        base, tables = 0.0, self._zeros()
        for part in self.parts:
            cost = part.cost(kind, latency)
            if part.weight is None:
                base += cost
            else:
                mixture, row, column = part.weight
                tables[mixture][row, column] += cost
        return base, tables

    def extremes(self, kind: Kind, latency: LatencyTable | None = None) -> tuple[float, float]:
        """Return the least and the largest cost of a derived network: k edges a node, none of them ``none``."""
        least, tables = self.tables(kind, latency)
        most, kept = least, self.structure.edges_per_node
        real = [i for i, name in enumerate(self.structure.operations) if name != "none"]
        for name, table in tables.items():
            attention = name.endswith("_attention")
            groups = [table] if attention else table[:, real].split(self._edges)
            for group in groups:
                count = 1 if attention else kept
                least += float(group.amin(1).topk(count, largest=False).values.sum())
                most += float(group.amax(1).topk(count).values.sum())
        return least, most

    @property
    def _edges(self) -> list[int]:
        """The number of edges into each node."""
        return list(range(2, self.structure.nodes + 2))

    def _zeros(self) -> dict[str, Tensor]:
        shapes = {
            "": (sum(self._edges), len(self.structure.operations)),
            "_attention": (1, len(self.structure.attention)),
        }
        kinds = self.network.kinds
        return {k + part: torch.zeros(shape, dtype=torch.float64) for k in kinds for part, shape in shapes.items()}


class CellCost:
    """Expected cost of mixtures of cells: base + sum over mixtures, rows, columns of weight * cost, a 0-d tensor.

    A mixture weighs all edges, of which a derived cell keeps k a node. So the edges into a node count k / m, where m is
    the sum of their weights, if m is above k: softmax weights of n edges (m = n) cost k times their mean edge, and a
    genotype's one-hot rows (m <= k) cost exactly as much as its fixed network. Edge-normalized weights (m = 1,
    PC-DARTS) always count k / m.

    float64 (float32 on MPS, which has no float64), on the weights' device. Names of other mixtures are ignored.

    Args:
        base: the cost that all networks share.
        tables: by mixture, the cost (E, O) or (1, A) of each candidate.
        edges: the number of edges into each node.
        kept: k.
        edge_normalized: the weights of all edges into a node sum to 1.
    """

    def __init__(
        self, base: float, tables: Mapping[str, Tensor], edges: Sequence[int], *, kept: int, edge_normalized: bool
    ) -> None:
        self.base, self.tables, self.edges = base, tables, list(edges)
        self.kept, self.least_mass = kept, 1e-12 if edge_normalized else kept

    def __call__(self, weights: Mapping[str, Tensor]) -> Tensor:
        total: float | Tensor = self.base
        for name, table in self.tables.items():
            if name not in weights:
                raise InputError(f"weights of mixture '{name}' are missing; found: {', '.join(weights) or 'none'}")
            device = weights[name].device
            table = table.to(torch.float32 if device.type == "mps" else torch.float64).to(device)
            rows = weights[name].to(table)
            spent = rows * table
            if not name.endswith("_attention"):
                mass = torch.stack([part.sum() for part in rows.split(self.edges)])
                spent = torch.stack([part.sum() for part in spent.split(self.edges)])
                spent = spent * self.kept / mass.clamp_min(self.least_mass)
            total = total + spent.sum()
        assert isinstance(total, Tensor)
        return total


def cell_parts(structure: CellStructure, network: NetworkSpec) -> list[Part]:
    """Return stem, preprocessing and every candidate of a space, in order of computation, as in a fixed network.

    The random generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        space = CellSpace(structure, network, affine=True)
        walk = _Walk(network)
        shape = (3, network.height, network.width)
        before = last = walk.note("stem", "stem", lambda: cast(nn.Module, space.stem), shape)
        for i, (cell, attention) in enumerate(zip(space.cells, space.attention)):
            output = walk.cell(i, cast(Cell, cell), before, last)
            before, last = last, walk.attention(i, cast(LayerChoice, attention), output)
        return walk.parts


class _Walk:
    """A walk through a space that records modules and shapes of maps; equal modules are counted once."""

    def __init__(self, network: NetworkSpec) -> None:
        self.network = network
        self.parts: list[Part] = []
        self._known: dict[object, tuple[Cost, Shape]] = {}

    def cell(self, number: int, cell: Cell, before: Shape, last: Shape) -> Shape:
        """Record the candidates of cell ``number``; return the shape of its output."""
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
                    output = self.note(
                        f"{place} node {node} <- {source} {name}",
                        f"{name} stride {stride}",
                        partial(factory, node + 2, 0, source),
                        states[source],
                        (str(cell.label), row, column),
                    )
                row += 1
            states.append(output)
        return (output[0] * cell.num_nodes, *output[1:])

    def attention(self, number: int, choice: LayerChoice, shape: Shape) -> Shape:
        """Record the attention after cell ``number``; return the shape of its output."""
        for column, name in enumerate(choice.names):
            weight = (str(choice.label), 0, column)
            self.note(f"attention.{number} {name}", f"attention {name}", partial(_same, choice[name]), shape, weight)
        return shape

    def note(
        self, name: str, what: str, make: Callable[[], nn.Module], shape: Shape, weight: Weight | None = None
    ) -> Shape:
        """Record one module that reads maps of ``shape``; return the shape of its output."""
        same = None if weight is None else (what, shape)  # candidates of one name and stride keep the width
        cost, output = self._known.get(same) or count_map(make(), shape)
        if same is not None:
            self._known[same] = cost, output
        key = f"{what} {'x'.join(map(str, shape))} to {'x'.join(map(str, output))}"
        self.parts.append(Part(key, shape, make, name, weight, cost.macs, cost.parameters))
        return output


def _same(module: nn.Module) -> nn.Module:
    return module
