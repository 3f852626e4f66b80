"""From mixture weights to a genotype. E edges of a cell, O operations, A candidates of attention."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dcs_nas.models.supernet import edge_index
from dcs_nas.space import CellGenotype, CellStructure, Edge, Genotype, NetworkSpec, Origin, reference


def derive(
    weights: Mapping[str, Tensor], structure: CellStructure, network: NetworkSpec, *, name: str, origin: Origin
) -> Genotype:
    """The genotype that mixture weights (E, O) and (1, A) by kind of cell stand for, by DARTS' published rule.

    Of every node the ``edges_per_node`` edges with the strongest operation other than ``none`` stay, each with that
    operation (arXiv 1806.09055, section 2.4); of the candidates of attention the strongest. Equal weights: the first.
    """
    kinds = dict.fromkeys(network.kind(i) for i in range(network.cells))
    cells = {kind: _derive_cell(weights[kind], weights[f"{kind}_attention"], structure) for kind in kinds}
    return Genotype(space=reference(structure, name), network=network, cells=cells, origin=origin)


def _derive_cell(weights: Tensor, attention: Tensor, structure: CellStructure) -> CellGenotype:
    table = weights.tolist()
    candidates = [i for i, op in enumerate(structure.operations) if op != "none"]
    nodes = []
    for node in range(structure.nodes):
        rows = [table[edge_index(node, source)] for source in range(node + 2)]
        best = [max(candidates, key=row.__getitem__) for row in rows]
        strongest = sorted(range(len(rows)), key=lambda s: -rows[s][best[s]])[: structure.edges_per_node]
        nodes.append(tuple(Edge(op=structure.operations[best[s]], source=s) for s in sorted(strongest)))
    return CellGenotype(nodes=tuple(nodes), attention=structure.attention[int(attention[0].argmax())])
