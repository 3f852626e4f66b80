"""Genotypes that no gradient chose: drawn at random, or the samples of NNI's strategies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dcs_nas.space import CellGenotype, CellStructure, Edge, Genotype, NetworkSpec, Origin, reference


def random_genotype(
    structure: CellStructure, network: NetworkSpec, random: np.random.Generator, *, name: str, origin: Origin
) -> Genotype:
    """A genotype drawn uniformly from those that a search may derive.

    Every node reads ``edges_per_node`` different states, every edge holds any operation but ``none`` (as in Li,
    Talwalkar, arXiv 1902.07638, section 4), every output any candidate of attention.
    """
    operations = computing(structure)

    def node(states: int) -> tuple[Edge, ...]:
        sources = sorted(random.choice(states, structure.edges_per_node, replace=False).tolist())
        return tuple(Edge(op=operations[random.integers(len(operations))], source=s) for s in sources)

    cells = {
        kind: CellGenotype(
            nodes=tuple(node(i + 2) for i in range(structure.nodes)),
            attention=structure.attention[random.integers(len(structure.attention))],
        )
        for kind in kinds(network)
    }
    return Genotype(space=reference(structure, name), network=network, cells=cells, origin=origin)


def genotype_of_sample(
    sample: Mapping[str, Any], structure: CellStructure, network: NetworkSpec, *, name: str, origin: Origin
) -> Genotype:
    """The genotype of one of NNI's samples: the inverse of ``Genotype.to_sample``."""

    def edge(kind: str, node: int, k: int) -> Edge:
        (source,) = sample[f"{kind}/input_{node}_{k}"]
        return Edge(op=str(sample[f"{kind}/op_{node}_{k}"]), source=int(source))

    cells = {
        kind: CellGenotype(
            nodes=tuple(
                tuple(edge(kind, node, k) for k in range(structure.edges_per_node))
                for node in range(2, structure.nodes + 2)
            ),
            attention=str(sample[f"{kind}_attention"]),
        )
        for kind in kinds(network)
    }
    return Genotype(space=reference(structure, name), network=network, cells=cells, origin=origin)


def computing(structure: CellStructure) -> list[str]:
    """The operations that compute something: all but ``none``, which no derived genotype holds."""
    return [name for name in structure.operations if name != "none"]


def kinds(network: NetworkSpec) -> list[str]:
    """The kinds of cell that a network has, in the order of its cells."""
    return list(dict.fromkeys(network.kind(i) for i in range(network.cells)))
