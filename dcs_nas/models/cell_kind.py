"""Spaces of cells: supernet, networks, derivation, random genotypes.

E edges of a cell, O operations, A candidates of attention; alphas (E, O) and (1, A) for each kind of cell.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dcs_nas.config import SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models.cell_costs import CellCosts
from dcs_nas.models.cell_space import CellSpace, build_fixed_network
from dcs_nas.models.flops import CostKind
from dcs_nas.models.nni_imports import Cell, LayerChoice, OneShotStrategy
from dcs_nas.models.relaxation import Softmax
from dcs_nas.models.space_kinds import SPACE_KINDS, SpaceKind, build_relaxation
from dcs_nas.models.super_cell import SuperCell, SuperChoice
from dcs_nas.models.supernet import ExpectedCost, Mixture, Supernet
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


class CellSupernet(Supernet):
    """A CellSpace in which every choice has become a mixture. ``num_features`` as in the space.

    Args:
        relaxation: from alphas to mixture weights; DARTS' softmax by default.
        partial: K, the operations of a cell see 1/K of its channels (PC-DARTS).
        edges: weigh the edges into a node as well, by alphas of their own (PC-DARTS' edge normalisation).
        checkpointed: trade time for memory, see ``SuperCell``.
    """

    def __init__(
        self,
        structure: CellStructure,
        network: NetworkSpec,
        *,
        relaxation: Softmax | None = None,
        partial: int = 1,
        edges: bool = False,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        if network.channels % partial:
            raise InputError(
                f"search.relaxation.partial_channels is {partial}; expected a divisor of the {network.channels} "
                "channels of a cell (search.channels)"
            )
        self.structure, self.network, self.partial = structure, network, partial
        strategy = _MixtureStrategy(relaxation or Softmax(), partial=partial, edges=edges, checkpointed=checkpointed)
        self.space = strategy.mutate_model(CellSpace(structure, network, partial=partial))
        self.mixtures = nn.ModuleDict(strategy.mixtures)
        self.num_features: int = self.space.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to features (B, D, h, w); all cells use one draw of the mixture weights."""
        if any(mixture.drawn is not None for _, mixture in self._mixtures()):
            return self.space(images)
        with self.hold_draw():
            return self.space(images)

    def alphas(self) -> dict[str, nn.Parameter]:
        """Return architecture parameters by name: ``normal``, ``normal_attention``, ``reduce``, ``reduce_attention``.

        With edge normalisation also ``normal_edges`` and ``reduce_edges`` (E,).
        """
        edges = {f"{name}_edges": m.edge_alpha for name, m in self._mixtures() if m.edge_alpha is not None}
        return {**super().alphas(), **edges}

    def part_costs(self) -> CellCosts:
        edges = any(mixture.edge_alpha is not None for _, mixture in self._mixtures())
        return CellCosts(self.structure, self.network, edge_normalized=edges)

    def cost(self, kind: CostKind) -> ExpectedCost:
        return self.part_costs().compute_expected_cost(kind)

    def inherit_state(self, genotype: Genotype) -> dict[str, Tensor]:
        if self.partial > 1:
            raise InputError(
                f"a supernet whose operations see 1/{self.partial} of the channels has no weights for a whole network; "
                "search with relaxation.partial_channels: 1, or retrain from scratch"
            )
        state = {k: v for k, v in self.space.state_dict().items() if k.startswith("stem.") or ".preprocessor." in k}
        for i, (cell, attention) in enumerate(zip(self.space.cells, self.space.attention)):
            kept = genotype.cells[cell.kind]
            for node, edges in enumerate(kept.nodes):
                for k, edge in enumerate(edges):
                    operation = cell.operation(node, edge.source, edge.op) if edge.op != "none" else nn.Identity()
                    state.update(_add_prefix(operation, f"cells.{i}.ops.{node}.{k}."))
            state.update(_add_prefix(attention.candidates[kept.attention], f"attention.{i}."))
        return state


class _MixtureStrategy(OneShotStrategy):
    """NNI's mutation of a space, with our cells; mixtures are shared by label."""

    def __init__(self, relaxation: Softmax, *, partial: int, edges: bool, checkpointed: bool) -> None:
        super().__init__()
        self.relaxation, self.partial, self.edges, self.checkpointed = relaxation, partial, edges, checkpointed
        self.mixtures: dict[str, Mixture] = {}

    def default_mutation_hooks(self) -> list[Any]:
        return [self._super_cell, self._super_choice, *super().default_mutation_hooks()]

    def _super_cell(self, module: nn.Module, name: str, memo: dict, kwargs: dict) -> nn.Module | None:
        if not isinstance(module, Cell):
            return None
        edges = [node + 2 for node in range(module.num_nodes)]
        mixture = self._get_mixture(module.label, list(module.op_candidates_factory), edges)
        return SuperCell(module, mixture, partial=self.partial, checkpointed=self.checkpointed)

    def _super_choice(self, module: nn.Module, name: str, memo: dict, kwargs: dict) -> nn.Module | None:
        if not isinstance(module, LayerChoice):
            return None
        return SuperChoice(module, self._get_mixture(module.label, list(module.names), None))

    def _get_mixture(self, label: object, names: list[str], edges: list[int] | None) -> Mixture:
        label = str(label)  # NNI's labels are strings of their own class
        if label not in self.mixtures:
            rows = sum(edges) if edges else 1
            self.mixtures[label] = Mixture(names, rows, self.relaxation, edges if self.edges else None)
        return self.mixtures[label]


def _add_prefix(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in module.state_dict().items()}


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
        """Return the genotype of weights (E, O) and (1, A) by kind of cell, by DARTS' published rule.

        Every node keeps the ``edges_per_node`` edges with the strongest operation other than ``none``, each with that
        operation (arXiv 1806.09055, section 2.4); every output keeps the strongest attention. Of equal weights the
        first counts.

        With ``max_skips`` a cell keeps at most that many skip connections: the weakest is removed and the cell derived
        again until this holds (P-DARTS, arXiv 1904.12760, section 3.2).
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

    def fit_width(self, genotype: Genotype, parameters: int) -> Genotype:
        def at(channels: int) -> Genotype:
            return genotype.resize(genotype.network.height, genotype.network.width, channels=channels)

        @functools.cache
        def count(channels: int) -> int:
            with torch.device("meta"):
                return sum(p.numel() for p in build_fixed_network(at(channels)).parameters())

        below, above = 0, genotype.network.channels
        while count(above) < parameters:
            below, above = above, 2 * above
        above = below + 1 + bisect.bisect_left(range(below + 1, above), parameters, key=count)
        return at(min((max(1, above - 1), above), key=lambda channels: abs(count(channels) - parameters)))

    def costs(self, structure: CellStructure, network: NetworkSpec) -> CellCosts:
        return CellCosts(structure, network)


def _derive_cell(weights: Tensor, attention: Tensor, structure: CellStructure, max_skips: int | None) -> CellGenotype:
    table = weights.tolist()
    nodes = _keep_strongest(table, structure)
    if max_skips is not None and set(structure.operations) - {"none", "skip_connect"}:
        skip = structure.operations.index("skip_connect") if "skip_connect" in structure.operations else -1
        while len(skips := _find_skips(nodes)) > max_skips:
            weakest = min(skips, key=lambda row: table[row][skip])
            table[weakest][skip] = -1.0
            nodes = _keep_strongest(table, structure)
    return CellGenotype(nodes=tuple(nodes), attention=structure.attention[int(attention[0].argmax())])


def _keep_strongest(table: list[list[float]], structure: CellStructure) -> list[tuple[Edge, ...]]:
    candidates = [i for i, op in enumerate(structure.operations) if op != "none"]
    nodes = []
    for node in range(structure.nodes):
        rows = [table[edge_index(node, source)] for source in range(node + 2)]
        best = [max(candidates, key=row.__getitem__) for row in rows]
        strongest = sorted(range(len(rows)), key=lambda s: -rows[s][best[s]])[: structure.edges_per_node]
        nodes.append(tuple(Edge(op=structure.operations[best[s]], source=s) for s in sorted(strongest)))
    return nodes


def _find_skips(nodes: list[tuple[Edge, ...]]) -> list[int]:
    """Return the rows of the edges that are skip connections."""
    return [edge_index(i, e.source) for i, edges in enumerate(nodes) for e in edges if e.op == "skip_connect"]
