"""From mixture weights to a genotype. E edges of a cell, O operations, A candidates of attention."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dcs_nas.space import CellGenotype, CellStructure, Edge, Genotype, NetworkSpec, Origin, edge_index, reference


def derive(
    weights: Mapping[str, Tensor],
    structure: CellStructure,
    network: NetworkSpec,
    *,
    name: str,
    origin: Origin,
    max_skips: int | None = None,
) -> Genotype:
    """The genotype that mixture weights (E, O) and (1, A) by kind of cell stand for, by DARTS' published rule.

    Of every node the ``edges_per_node`` edges with the strongest operation other than ``none`` stay, each with that
    operation (arXiv 1806.09055, section 2.4); of the candidates of attention the strongest. Equal weights: the first.

    With ``max_skips`` a cell keeps that many skip connections at most: the weakest is given up and the cell derived
    anew until it does (P-DARTS, arXiv 1904.12760, section 3.2).
    """
    kinds = dict.fromkeys(network.kind(i) for i in range(network.cells))
    cells = {kind: _derive_cell(weights[kind], weights[f"{kind}_attention"], structure, max_skips) for kind in kinds}
    return Genotype(space=reference(structure, name), network=network, cells=cells, origin=origin)


def _derive_cell(
    weights: Tensor, attention: Tensor, structure: CellStructure, max_skips: int | None = None
) -> CellGenotype:
    table = weights.tolist()
    nodes = _strongest(table, structure)
    if max_skips is not None and set(structure.operations) - {"none", "skip_connect"}:
        skip = structure.operations.index("skip_connect") if "skip_connect" in structure.operations else -1
        while len(skips := _skips(nodes)) > max_skips:
            weakest = min(skips, key=lambda row: table[row][skip])
            table[weakest][skip] = -1.0
            nodes = _strongest(table, structure)
    return CellGenotype(nodes=tuple(nodes), attention=structure.attention[int(attention[0].argmax())])


def _strongest(table: list[list[float]], structure: CellStructure) -> list[tuple[Edge, ...]]:
    candidates = [i for i, op in enumerate(structure.operations) if op != "none"]
    nodes = []
    for node in range(structure.nodes):
        rows = [table[edge_index(node, source)] for source in range(node + 2)]
        best = [max(candidates, key=row.__getitem__) for row in rows]
        strongest = sorted(range(len(rows)), key=lambda s: -rows[s][best[s]])[: structure.edges_per_node]
        nodes.append(tuple(Edge(op=structure.operations[best[s]], source=s) for s in sorted(strongest)))
    return nodes


def _skips(nodes: list[tuple[Edge, ...]]) -> list[int]:
    """Rows of the edges that are skip connections."""
    return [edge_index(i, e.source) for i, edges in enumerate(nodes) for e in edges if e.op == "skip_connect"]
