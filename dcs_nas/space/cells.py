"""Spaces of cells (DARTS, arXiv 1806.09055) and their genotypes: YAML, NNI sample, networkx graph. No torch here.

States of a cell: 0 and 1 are its inputs, 2 is its first node.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings, parse
from dcs_nas.space.kinds import (
    BY_POSITIONS,
    GENOTYPES,
    SPACES,
    AnyGenotype,
    Name,
    Origin,
    Reference,
    Rows,
    Space,
    Sparse,
    check_weights,
    require_member,
    require_unique,
    row_graph,
    short_hash,
)

if TYPE_CHECKING:
    import networkx

Stem = Literal["conv", "stride2", "stride4"]
CELL_KINDS = ("normal", "reduce")
INPUTS = ("c_{k-2}", "c_{k-1}")
_REORDERED = 5  # nodes, of which all orders are compared
_STEM_STRIDE = {"conv": 1, "stride2": 2, "stride4": 4}


class CellStructure(Sparse):
    """The candidates of a cell, which alone decide whether a genotype fits a space.

    Maps of more than ``max_nodes`` positions are average-pooled for attention with such a setting (RGA).
    """

    optional = ("max_nodes",)
    nodes: int = Field(ge=1, le=16)
    edges_per_node: int = Field(default=2, ge=1, le=2)
    operations: tuple[Name, ...] = Field(min_length=1, max_length=64)
    attention: tuple[Name, ...] = Field(default=("none",), min_length=1, max_length=32)
    max_nodes: int | None = Field(default=None, ge=1, le=4096)

    @model_validator(mode="after")
    def _check(self) -> CellStructure:
        require_unique(self.operations, "operations")
        require_unique(self.attention, "attention")
        if set(self.operations) == {"none"}:
            raise ValueError("operations holds 'none' alone; name at least one that computes something")
        return self

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything a genotype depends on."""
        return short_hash(self.model_dump(mode="json", include=set(CellStructure.model_fields)))

    @property
    def computing(self) -> list[str]:
        """The operations that compute something: all but ``none``, which no derived genotype holds."""
        return [name for name in self.operations if name != "none"]


class NetworkSpec(Settings):
    """The stack of cells: width, depth, stem, input size (pixels)."""

    channels: int = Field(ge=1, le=2048)
    cells: int = Field(ge=1, le=100)
    reductions: tuple[int, ...] = ()
    stem: Stem = "stride2"
    stem_multiplier: int = Field(default=3, ge=1, le=16)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _check(self) -> NetworkSpec:
        wrong = [r for r in self.reductions if not 0 <= r < self.cells]
        if wrong:
            raise ValueError(f"reductions names cell {wrong[0]}; expected cells from 0 to {self.cells - 1}")
        if len(set(self.reductions)) > 10:
            raise ValueError(
                f"reductions names {len(set(self.reductions))} cells, which double the width each; expected at most 10"
            )
        return self

    def kind(self, cell: int) -> str:
        """Return ``reduce`` where a cell halves the map and doubles the width, else ``normal``."""
        return "reduce" if cell in self.reductions else "normal"

    @property
    def kinds(self) -> list[str]:
        """The kinds of cell, in the order of the cells."""
        return list(dict.fromkeys(self.kind(i) for i in range(self.cells)))


@SPACES.register("cells")
class SpaceSpec(CellStructure, Space):
    """A space of cells whose outputs may pass an attention block."""

    supports: ClassVar[frozenset[str]] = frozenset(
        {
            "channels",
            "cells",
            "checkpoint_activations",
            "derivation",
            "guard.max_skips",
            "latency",
            "relaxation.edge_normalization",
            "relaxation.partial_channels",
            "strategy",
            "trials.parameters",
        }
    )
    name: Name
    kind: Literal["cells"] = "cells"
    cells: int = Field(ge=1, le=100)
    channels: int = Field(ge=1, le=2048)
    reductions: tuple[int, ...] | Literal["thirds"] = "thirds"
    stem: Stem = "stride2"
    stem_multiplier: int = Field(default=3, ge=1, le=16)

    def network(self, height: int, width: int, **changes: Any) -> NetworkSpec:
        """Return the network searched on images of ``height`` x ``width``; ``changes`` replace width, depth or stem."""
        own = {name: getattr(self, name) for name in NetworkSpec.model_fields if hasattr(self, name)}
        fields = own | {"height": height, "width": width} | {k: v for k, v in changes.items() if v is not None}
        if fields["reductions"] == "thirds":
            fields["reductions"] = thirds(fields["cells"])
        source = f"network of space '{self.name}'"
        network = parse(NetworkSpec, fields, source=source)
        weights = cells_weights(self, network, edges=self.nodes * (self.nodes + 3) // 2)
        check_weights(weights, f"{source}: its supernet")
        return network

    def names(self) -> dict[str, list[Any]]:
        return {"operations": list(self.operations), "attention": list(self.attention)}


class Edge(Settings):
    """One kept operation and the state it reads."""

    op: Name
    source: int = Field(alias="from", ge=0)


class CellGenotype(Settings):
    """The kept edges of every node, in order, and the attention on the cell's output."""

    nodes: tuple[tuple[Edge, ...], ...] = Field(min_length=1, max_length=16)
    attention: Name = "none"

    @model_validator(mode="after")
    def _acyclic(self) -> CellGenotype:
        for i, edges in enumerate(self.nodes):
            for edge in edges:
                if edge.source >= i + 2:
                    raise ValueError(f"node {i} reads state {edge.source}; expected an earlier one, 0 to {i + 1}")
        return self


class SpaceReference(Reference, CellStructure):
    """The space that a genotype belongs to: its name, its hash and the candidates of its cells."""


@GENOTYPES.register("cells")
class Genotype(AnyGenotype):
    """An architecture of a space of cells.

    Attributes:
        cells: kind of cell (``normal``, ``reduce``) to the edges and the attention kept.
        network: how the cells are stacked.
        space: the candidates that they were chosen from.
    """

    kind: Literal["cells"] = Field(default="cells", exclude=True, repr=False)  # files of cells need not name it
    space: SpaceReference
    network: NetworkSpec
    cells: dict[Name, CellGenotype]
    origin: Origin = Origin()

    @model_validator(mode="after")
    def _fits_its_space(self) -> Genotype:
        missing = set(self.network.kinds) - set(self.cells)
        if missing:
            raise ValueError(f"cells of kind {', '.join(sorted(missing))} are missing; expected one of each kind")
        for kind, cell in self.cells.items():
            _check_cell(kind, cell, self.space)
        self.check_size()
        return self

    def check_size(self) -> None:
        """Raise ``InputError`` for an unreasonably large network, before anything is allocated."""
        edges = self.space.nodes * self.space.edges_per_node
        check_weights(cells_weights(self.space, self.network, edges=edges), "the network of this genotype")

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.cells)

    def part(self, name: str) -> CellGenotype:
        return self.cells[name]

    def summary(self) -> str:
        network = self.network
        return f"{network.cells} cells of space {self.space.name}, width {network.channels}, stem {network.stem}"

    def tables(self) -> list[Rows]:
        columns = ["node", *(f"edge {k + 1}" for k in range(self.space.edges_per_node))]
        return [
            Rows(
                f"{kind} cell, attention: {cell.attention}",
                columns,
                [[str(i), *(f"{e.op} <- {e.source}" for e in edges)] for i, edges in enumerate(cell.nodes)],
            )
            for kind, cell in self.cells.items()
        ]

    def to_sample(self) -> dict[str, Any]:
        """Return the choices under NNI's labels: ``{'normal/op_2_0': 'dcs', 'normal/input_2_0': [1], ...}``."""
        sample: dict[str, Any] = {}
        for kind, cell in self.cells.items():
            for i, edges in enumerate(cell.nodes, start=2):
                for k, edge in enumerate(edges):
                    sample[f"{kind}/op_{i}_{k}"] = edge.op
                    sample[f"{kind}/input_{i}_{k}"] = [edge.source]
            sample[f"{kind}_attention"] = cell.attention
        return sample

    def one_hot(self) -> dict[str, list[list[float]]]:
        """Return mixture weights (E, O) and (1, A) by name; an edge kept twice counts twice, ``none`` not at all."""
        space, weights = self.space, {}
        for kind, cell in self.cells.items():
            rows = [[0.0] * len(space.operations) for _ in range(edge_index(space.nodes, 0))]
            for node, edges in enumerate(cell.nodes):
                for edge in edges:
                    if edge.op != "none":
                        rows[edge_index(node, edge.source)][space.operations.index(edge.op)] += 1
            weights[kind] = rows
            weights[f"{kind}_attention"] = [[float(name == cell.attention) for name in space.attention]]
        return weights

    def identity(self) -> str:
        """See ``AnyGenotype``; cells of few nodes that differ in the order of their nodes alone are the same."""
        from dcs_nas.space.architectures import encode

        return encode(self) if self.space.nodes <= _REORDERED else super().identity()

    def skips(self) -> dict[str, int]:
        """Return the number of skip connections of each kind of cell."""
        return {
            kind: sum(edge.op == "skip_connect" for edges in cell.nodes for edge in edges)
            for kind, cell in self.cells.items()
        }

    def resize(self, height: int, width: int, *, channels: int | None = None, cells: int | None = None) -> Genotype:
        """Return the genotype at another width, depth and image size.

        Reductions stay at thirds of the depth where they are, as in DARTS, otherwise at their shares of the depth.
        """
        old = self.network
        cells = cells or old.cells
        shares = tuple(sorted({min(cells - 1, r * cells // old.cells) for r in old.reductions}))
        at_thirds = old.reductions and old.reductions == thirds(old.cells)
        return self._with_network(
            channels=channels or old.channels,
            cells=cells,
            reductions=thirds(cells) if at_thirds else shares,
            height=height,
            width=width,
        )

    def graph(self, part: str | None = None) -> networkx.MultiDiGraph:
        """Return one cell as a graph from ``c_{k-2}`` and ``c_{k-1}`` through the nodes 0, 1, ... to ``c_{k}``.

        Nodes carry ``role`` (input, node, concat, attention, output) and ``label``, edges ``op`` (empty where
        nothing is computed).
        """
        import networkx

        self.require_part(part)
        kind = part or self.parts[0]
        cell = self.cells[kind]
        graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=f"{self.space.name} {kind}", kind=kind)
        states = list(INPUTS) + [str(i) for i in range(len(cell.nodes))]
        for i, state in enumerate(states):
            graph.add_node(state, role="input" if i < 2 else "node", label=state)
        graph.add_node("concat", role="concat", label="concat")
        for i, edges in enumerate(cell.nodes):
            graph.add_edges_from((states[edge.source], str(i), {"op": edge.op}) for edge in edges)
            graph.add_edge(str(i), "concat", op="")
        if cell.attention != "none":
            graph.add_node("attention", role="attention", label=cell.attention)
        graph.add_node("c_{k}", role="output", label="c_{k}")
        graph.add_edges_from(pairwise(list(graph)[len(states) :]), op="")
        return graph

    def overview(self) -> networkx.MultiDiGraph:
        """Return image, stem, runs of equal cells with their width and attention, and head in a row."""
        network, width = self.network, self.network.channels
        cells: list[tuple[str, int]] = []
        for kind in map(network.kind, range(network.cells)):
            width *= 2 if kind == "reduce" else 1
            cells.append((kind, width))
        nodes: list[dict[str, Any]] = [
            {"label": "image", "size": f"{network.height}×{network.width}"},
            {"label": "stem", "size": network.stem},
        ]
        for (kind, channels), run in groupby(cells):
            count = len(list(run))
            label = kind if count == 1 else f"{kind} ×{count}"
            nodes.append({"label": label, "width": channels, "attention": self.cells[kind].attention})
        nodes.append({"label": "head"})
        named = [(f"stage_{i}", {"role": "stage", **data}) for i, data in enumerate(nodes)]
        return row_graph(named, name=f"{self.space.name} network", kind="network")

    def to_darts_text(self) -> str:
        from dcs_nas.space.darts_text import to_darts_text

        return to_darts_text(self)


def thirds(cells: int) -> tuple[int, ...]:
    """Return the indices of DARTS' reduction cells: at one and two thirds of the depth.

    >>> thirds(8)
    (2, 5)
    """
    return tuple(sorted({cells // 3, 2 * cells // 3})) if cells > 2 else ()


def edge_index(node: int, source: int) -> int:
    """Return the row of the edge from state ``source`` to node ``node`` (from 0): edges are listed node by node.

    >>> tuple(edge_index(1, s) for s in range(3))
    (2, 3, 4)
    """
    return node * (node + 3) // 2 + source


def cells_weights(structure: CellStructure, network: NetworkSpec, *, edges: int) -> int:
    """Return a lower bound of the number of weights of cells with every candidate on each of ``edges`` edges.

    Counted are the 1x1 convolutions before a cell, two C x C maps for each candidate, and relations of positions on
    maps that are not pooled.
    """
    channels, stride = network.channels, _STEM_STRIDE[network.stem]
    positions = -(-network.height // stride) * -(-network.width // stride)
    before = last = network.stem_multiplier * channels
    total = 27 * last
    for i in range(network.cells):
        if network.kind(i) == "reduce":
            channels, positions = 2 * channels, -(-positions // 4)
        pooled = structure.max_nodes is not None and positions > structure.max_nodes
        related = 0 if pooled else positions
        total += (before + last) * channels
        total += edges * _count_candidate_weights(structure.operations, channels, related)
        before, last = last, structure.nodes * channels
        total += _count_candidate_weights(structure.attention, last, related)
    return total


def _count_candidate_weights(names: Iterable[str], channels: int, positions: int) -> int:
    return sum(2 * channels**2 + (positions**2 // 4 if name in BY_POSITIONS else 0) for name in names if name != "none")


def _check_cell(kind: str, cell: CellGenotype, space: CellStructure) -> None:
    if len(cell.nodes) != space.nodes:
        raise ValueError(f"cell '{kind}' has {len(cell.nodes)} nodes; expected {space.nodes}, as in its space")
    for i, edges in enumerate(cell.nodes):
        if len(edges) != space.edges_per_node:
            raise ValueError(
                f"cell '{kind}', node {i} has {len(edges)} edges; expected {space.edges_per_node}, as in its space"
            )
        for edge in edges:
            require_member(edge.op, space.operations, f"cell '{kind}', node {i}: operation '{edge.op}'")
    require_member(cell.attention, space.attention, f"cell '{kind}': attention '{cell.attention}'")
