"""Spaces of cells: networks, derivation, random genotypes.

E edges of a cell, O operations, A candidates of attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from dcs_nas.config import SearchConfig
from dcs_nas.models.cell_costs import CellCosts
from dcs_nas.models.cell_space import build_fixed_network
from dcs_nas.models.cell_supernet import CellSupernet
from dcs_nas.models.space_kinds import SPACE_KINDS, SpaceKind, build_relaxation
from dcs_nas.space import (
    CellGenotype,
    CellStructure,
    Edge,
    Genotype,
    NetworkSpec,
    Origin,
    SpaceReference,
    SpaceSpec,
    edge_index,
)

Named = SpaceSpec | SpaceReference


@SPACE_KINDS.register("cells")
class CellKind(SpaceKind):
    """DARTS' cells (arXiv 1806.09055)."""

    def supernet(self, space: SpaceSpec, network: NetworkSpec, settings: SearchConfig) -> CellSupernet:
        wanted = settings.relaxation
        partial = wanted.partial_channels
        return CellSupernet(
            space,
            network,
            relaxation=build_relaxation(wanted),
            partial=partial,
            edges=partial > 1 if wanted.edge_normalization is None else wanted.edge_normalization,
            checkpointed=settings.checkpoint_activations,
        )

    def build_fixed_network(self, genotype: Genotype) -> nn.Module:
        return build_fixed_network(genotype)

    def derive(
        self,
        weights: Mapping[str, Tensor],
        space: Named,
        network: NetworkSpec,
        *,
        origin: Origin,
        max_skips: int | None = None,
    ) -> Genotype:
        """Return the genotype that weights (E, O) and (1, A) by kind of cell stand for, by DARTS' published rule.

        Of every node the ``edges_per_node`` edges with the strongest operation other than ``none`` stay, each with that
        operation (arXiv 1806.09055, section 2.4); of the candidates of attention the strongest. Equal weights: the
        first.

        With ``max_skips`` a cell keeps that many skip connections at most: the weakest is removed and the cell derived
        again until it does (P-DARTS, arXiv 1904.12760, section 3.2).
        """
        cells = {
            kind: _derive_cell(weights[kind], weights[f"{kind}_attention"], space, max_skips) for kind in network.kinds
        }
        return Genotype(space=SpaceReference.of(space, space.name), network=network, cells=cells, origin=origin)

    def random_genotype(
        self, space: Named, network: NetworkSpec, random: np.random.Generator, *, origin: Origin
    ) -> Genotype:
        """See ``SpaceKind``.

        Every node reads ``edges_per_node`` different states, every edge holds any operation but ``none`` (as in Li,
        Talwalkar, arXiv 1902.07638, section 4), every output any candidate of attention.
        """
        operations = space.computing

        def node(states: int) -> tuple[Edge, ...]:
            sources = sorted(random.choice(states, space.edges_per_node, replace=False).tolist())
            return tuple(Edge(op=operations[random.integers(len(operations))], source=s) for s in sources)

        cells = {
            kind: CellGenotype(
                nodes=tuple(node(i + 2) for i in range(space.nodes)),
                attention=space.attention[random.integers(len(space.attention))],
            )
            for kind in network.kinds
        }
        return Genotype(space=SpaceReference.of(space, space.name), network=network, cells=cells, origin=origin)

    def genotype_of(self, sample: Mapping[str, Any], space: Named, network: NetworkSpec, *, origin: Origin) -> Genotype:
        def edge(kind: str, node: int, k: int) -> Edge:
            (source,) = sample[f"{kind}/input_{node}_{k}"]
            return Edge(op=str(sample[f"{kind}/op_{node}_{k}"]), source=int(source))

        cells = {
            kind: CellGenotype(
                nodes=tuple(
                    tuple(edge(kind, node, k) for k in range(space.edges_per_node))
                    for node in range(2, space.nodes + 2)
                ),
                attention=str(sample[f"{kind}_attention"]),
            )
            for kind in network.kinds
        }
        return Genotype(space=SpaceReference.of(space, space.name), network=network, cells=cells, origin=origin)

    def costs(self, structure: CellStructure, network: NetworkSpec) -> CellCosts:
        return CellCosts(structure, network)


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
    """Return the rows of the edges that are skip connections."""
    return [edge_index(i, e.source) for i, edges in enumerate(nodes) for e in edges if e.op == "skip_connect"]
