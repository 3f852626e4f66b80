"""Genotype <-> YAML <-> NNI sample <-> networkx graph. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from dcs_nas.errors import InputError
from dcs_nas.settings import Settings, parse, plain_yaml, read_yaml
from dcs_nas.space.published import is_published, read_published
from dcs_nas.space.size import cells_weights, check_weights
from dcs_nas.space.spec import CellStructure, Name, NetworkSpec, SpaceSpec

if TYPE_CHECKING:
    import networkx

    from dcs_nas.space.chain import ChainStructure

FORMAT = 1
INPUTS = ("c_{k-2}", "c_{k-1}")


class Edge(Settings):
    """One kept operation and the state it reads: 0 and 1 are the cell's inputs, 2 is its first node."""

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
                    raise ValueError(f"node {i} reads state {edge.source}, but only 0 to {i + 1} exist before it")
        return self


class SpaceReference(CellStructure):
    """The space that a genotype belongs to: its name, its hash and what its cells may hold."""

    name: Name
    declared_hash: str = Field(alias="hash")

    @model_validator(mode="after")
    def _check_hash(self) -> SpaceReference:
        if self.declared_hash != self.hash:
            raise ValueError(f"hash {self.declared_hash} does not fit the space listed beside it ({self.hash})")
        return self


class Origin(Settings):
    """Where a genotype came from."""

    data: str = ""
    seed: int | None = None
    epoch: int | None = None
    method: str = ""
    version: str = ""


class Genotype(Settings):
    """An architecture: plain data that builds the same network anywhere.

    ``cells`` maps the kinds of cell (``normal``, ``reduce``) to what is kept in them; ``network`` says how they
    are stacked; ``space`` what they were chosen from.
    """

    format: int = FORMAT
    space: SpaceReference
    network: NetworkSpec
    cells: dict[Name, CellGenotype]
    origin: Origin = Origin()

    @model_validator(mode="after")
    def _fits_its_space(self) -> Genotype:
        needed = {self.network.kind(i) for i in range(self.network.cells)}
        if not needed <= set(self.cells):
            raise ValueError(f"cells of kind {', '.join(sorted(needed - set(self.cells)))} are missing")
        for kind, cell in self.cells.items():
            _check_cell(kind, cell, self.space)
        self.check_size()
        return self

    def check_size(self) -> None:
        """``ValueError`` where the network is absurdly large; nothing is allocated to find out."""
        edges = self.space.nodes * self.space.edges_per_node
        check_weights(cells_weights(self.space, self.network, edges=edges), "the network of this genotype")

    def to_sample(self) -> dict[str, Any]:
        """The choices under NNI's labels: ``{'normal/op_2_0': 'dcs', 'normal/input_2_0': [1], ...}``."""
        sample: dict[str, Any] = {}
        for kind, cell in self.cells.items():
            for i, edges in enumerate(cell.nodes, start=2):
                for k, edge in enumerate(edges):
                    sample[f"{kind}/op_{i}_{k}"] = edge.op
                    sample[f"{kind}/input_{i}_{k}"] = [edge.source]
            sample[f"{kind}_attention"] = cell.attention
        return sample

    def graph(self, kind: str) -> networkx.MultiDiGraph:
        """One cell as a graph from ``c_{k-2}`` and ``c_{k-1}`` through the nodes 0, 1, ... to ``c_{k}``.

        Nodes carry ``role`` (input, node, concat, attention, output) and ``label``, edges ``op`` (empty where
        nothing is computed).
        """
        import networkx

        if kind not in self.cells:
            raise InputError(f"this genotype has no cell '{kind}'; it has {', '.join(self.cells)}")
        cell = self.cells[kind]
        graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=f"{self.space.name} {kind}", kind=kind)
        states = list(INPUTS) + [str(i) for i in range(len(cell.nodes))]
        for i, state in enumerate(states):
            graph.add_node(state, role="input" if i < 2 else "node", label=state)
        graph.add_node("concat", role="concat", label="concat")
        for i, edges in enumerate(cell.nodes):
            for edge in edges:
                graph.add_edge(states[edge.source], str(i), op=edge.op)
            graph.add_edge(str(i), "concat", op="")
        last = "concat"
        if cell.attention != "none":
            graph.add_node("attention", role="attention", label=cell.attention)
            graph.add_edge("concat", "attention", op="")
            last = "attention"
        graph.add_node("c_{k}", role="output", label="c_{k}")
        graph.add_edge(last, "c_{k}", op="")
        return graph

    def to_yaml(self) -> str:
        return plain_yaml(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def read(cls, path: Path) -> Genotype:
        """A genotype file or the record of an epoch; refuses a newer format and what does not describe a network."""
        data = genotype_data(path)
        if data.get("kind") == "chain":
            raise InputError(f"{path} is a genotype of a chain space, expected one of cells; name a cells genotype")
        return parse(cls, data, source=str(path))

    def require_space(self, structure: CellStructure | ChainStructure, *, name: str, source: str) -> None:
        """Raise ``InputError`` unless this genotype was chosen from the space given."""
        if self.space.hash != structure.hash:
            raise InputError(
                f"{source} belongs to space '{self.space.name}' ({self.space.hash}), not to '{name}' "
                f"({structure.hash}); search that space or name the genotype's own"
            )


def genotype_data(path: Path, space: SpaceSpec | None = None) -> dict[str, Any]:
    """Return what a genotype file, the record of an epoch or DARTS' text holds, the last put into ``space`` if it fits.

    Raises ``InputError`` where it is none of them or of a newer format.
    """
    if is_published(path):
        return read_published(path, space)
    data = read_yaml(path)
    if isinstance(data.get("genotype"), dict):  # the record of an epoch
        data = data["genotype"]
    found = data.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(f"{path} is not a genotype: it has no 'format' number")
    if found > FORMAT:
        raise InputError(f"{path} has genotype format {found}, this version reads up to {FORMAT}; update dcs_nas")
    return data


def reference(structure: CellStructure, name: str) -> SpaceReference:
    """What a genotype keeps of its space."""
    fields = {field: getattr(structure, field) for field in CellStructure.model_fields}
    return SpaceReference(**fields, name=name, declared_hash=structure.hash)


def _check_cell(kind: str, cell: CellGenotype, space: CellStructure) -> None:
    if len(cell.nodes) != space.nodes:
        raise ValueError(f"cell '{kind}' has {len(cell.nodes)} nodes, its space has {space.nodes}")
    for i, edges in enumerate(cell.nodes):
        if len(edges) != space.edges_per_node:
            raise ValueError(f"cell '{kind}', node {i}: {len(edges)} edges, its space has {space.edges_per_node}")
        for edge in edges:
            if edge.op not in space.operations:
                raise ValueError(
                    f"cell '{kind}', node {i}: operation '{edge.op}' is not in its space; "
                    f"known: {', '.join(space.operations)}"
                )
    if cell.attention not in space.attention:
        raise ValueError(
            f"cell '{kind}': attention '{cell.attention}' is not in its space; known: {', '.join(space.attention)}"
        )
