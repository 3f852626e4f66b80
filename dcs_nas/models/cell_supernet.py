"""The supernet of a space of cells: every choice is a mixture, weighted by the architecture parameters.

E edges of a cell, O candidate operations, A candidates of attention; alphas (E, O) and (1, A) for each kind of cell.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.cell_costs import CellCosts
from dcs_nas.models.cell_space import CellSpace
from dcs_nas.models.nni_imports import Cell, LayerChoice, OneShotStrategy
from dcs_nas.models.relaxation import Softmax
from dcs_nas.models.super_cell import SuperCell, SuperChoice
from dcs_nas.models.supernet import CostKind, ExpectedCost, Mixture, Supernet
from dcs_nas.space import CellStructure, Genotype, NetworkSpec


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
        self.structure, self.network, self.partial = structure, network, partial
        strategy = _MixtureStrategy(relaxation or Softmax(), partial=partial, edges=edges, checkpointed=checkpointed)
        self.space = strategy.mutate_model(CellSpace(structure, network, partial=partial))
        self.mixtures = nn.ModuleDict(strategy.mixtures)
        self.num_features: int = self.space.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Feature map (B, D, h, w) of images (B, 3, H, W); all cells use one draw of the mixture weights."""
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
                    state.update(_prefix(operation, f"cells.{i}.ops.{node}.{k}."))
            state.update(_prefix(attention.candidates[kept.attention], f"attention.{i}."))
        return state


class _MixtureStrategy(OneShotStrategy):
    """NNI's walk over a space, with our cells; the mixtures it makes are shared by label."""

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
        mixture = self._mixture(module.label, list(module.op_candidates_factory), edges)
        return SuperCell(module, mixture, partial=self.partial, checkpointed=self.checkpointed)

    def _super_choice(self, module: nn.Module, name: str, memo: dict, kwargs: dict) -> nn.Module | None:
        if not isinstance(module, LayerChoice):
            return None
        return SuperChoice(module, self._mixture(module.label, list(module.names), None))

    def _mixture(self, label: object, names: list[str], edges: list[int] | None) -> Mixture:
        label = str(label)  # NNI's labels are strings of their own class
        if label not in self.mixtures:
            rows = sum(edges) if edges else 1
            self.mixtures[label] = Mixture(names, rows, self.relaxation, edges if self.edges else None)
        return self.mixtures[label]


def _prefix(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in module.state_dict().items()}
