"""The supernet: every edge computes the mixture of all its candidates, weighted by the architecture parameters.

    node_i = sum over j < i, o of w(alpha)[j -> i, o] * o(state_j)     (DARTS, arXiv 1806.09055, eq. 2)

E edges of a cell, O candidate operations, A candidates of attention; alphas (E, O) and (1, A) for each kind of cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from dcs_nas.models.cell_space import CellSpace
from dcs_nas.models.nni_imports import BaseSuperNetModule, Cell, LayerChoice, OneShotStrategy
from dcs_nas.models.operations import ReluFirst
from dcs_nas.space import CellStructure, Genotype, NetworkSpec

Relaxation = Callable[[Tensor], Tensor]


def softmax(alpha: Tensor) -> Tensor:
    """DARTS' relaxation: each row's weights are positive and sum to 1."""
    return torch.softmax(alpha, dim=-1)


class Mixture(nn.Module):
    """Architecture parameters of one kind of cell and the mixture weights they stand for.

    ``alpha`` (rows, len(names)) starts at 1e-3 * N(0, 1), as DARTS does. ``fixed`` replaces the weights, e.g. by a
    genotype's one-hot rows.
    """

    def __init__(self, names: list[str], rows: int, relaxation: Relaxation) -> None:
        super().__init__()
        self.names = names
        self.alpha = nn.Parameter(1e-3 * torch.randn(rows, len(names)))
        self.relaxation = relaxation
        self.fixed: Tensor | None = None

    def forward(self) -> Tensor:
        return self.relaxation(self.alpha) if self.fixed is None else self.fixed


class SuperCell(BaseSuperNetModule):
    """A cell with every edge and candidate. Its states are those of NNI's ``Cell``, which it replaces.

    Operations without parameters (pools, skips) give all readers of a state the same: they are made and computed once
    per state, and so is the ReLU that begins the convolutions.
    """

    mixture: Mixture

    def __init__(self, cell: Cell, mixture: Mixture) -> None:
        super().__init__()
        self.kind = str(cell.label)
        self.nodes: int = cell.num_nodes
        self.preprocessor = cell.preprocessor
        object.__setattr__(self, "mixture", mixture)  # shared by all cells of the kind: the supernet registers it once
        self.edges = nn.ModuleList()
        self.shared = nn.ModuleList(nn.ModuleDict() for _ in range(self.nodes + 1))
        for node in range(2, self.nodes + 2):
            for source in range(node):
                made = {name: make(node, 0, source) for name, make in cell.op_candidates_factory.items()}
                self.edges.append(nn.ModuleDict(self._keep(made, source)))

    def _keep(self, made: Mapping[str, nn.Module], source: int) -> dict[str, nn.Module]:
        own: dict[str, nn.Module] = {}
        for name, operation in made.items():
            if name == "none":
                continue
            if next(operation.parameters(), None) is not None:
                own[name] = operation
            elif name not in self._of_state(source):
                self._of_state(source)[name] = operation
        return own

    def operation(self, node: int, source: int, name: str) -> nn.Module:
        """The module that computes ``name`` on the edge from state ``source`` to node ``node`` (from 0)."""
        own = cast(nn.ModuleDict, self.edges[edge_index(node, source)])
        return own[name] if name in own else self._of_state(source)[name]

    def _of_state(self, source: int) -> nn.ModuleDict:
        return cast(nn.ModuleDict, self.shared[source])

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        states = [_State(x) for x in self.preprocessor([before, last])]
        weights = self.mixture()
        for node in range(self.nodes):
            total: Tensor | None = None
            for source, state in enumerate(states):
                for column, name in enumerate(self.mixture.names):
                    if name != "none":
                        weight = weights[edge_index(node, source), column]
                        term = weight * self._compute(node, source, name, state)
                        total = term if total is None else total + term
            assert total is not None
            states.append(_State(total))
        return torch.cat([state.value for state in states[2:]], dim=1)

    def _compute(self, node: int, source: int, name: str, state: _State) -> Tensor:
        operation = self.operation(node, source, name)
        if name in self._of_state(source):
            return state.once(name, operation)
        if isinstance(operation, ReluFirst):
            return operation.after_relu(state.once("relu", torch.relu))
        return operation(state.value)

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Nothing is sampled: NNI's interface."""
        return {}

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """The alphas of this kind of cell: NNI's interface."""
        yield self.mixture.alpha


class SuperChoice(BaseSuperNetModule):
    """The weighted sum of all candidates of a choice: here, of attention blocks on a cell's output."""

    mixture: Mixture

    def __init__(self, choice: LayerChoice, mixture: Mixture) -> None:
        super().__init__()
        self.label = str(choice.label)
        self.candidates = nn.ModuleDict({name: choice[name] for name in choice.names})
        object.__setattr__(self, "mixture", mixture)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mixture()[0]
        terms = (weights[i] * candidate(x) for i, candidate in enumerate(self.candidates.values()))
        return reduce(torch.add, terms)

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Nothing is sampled: NNI's interface."""
        return {}

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """The alphas of this choice: NNI's interface."""
        yield self.mixture.alpha


class Supernet(nn.Module):
    """A CellSpace in which every choice has become a mixture. ``num_features`` as in the space."""

    def __init__(self, structure: CellStructure, network: NetworkSpec, *, relaxation: Relaxation = softmax) -> None:
        super().__init__()
        self.structure, self.network = structure, network
        strategy = _MixtureStrategy(relaxation)
        self.space = strategy.mutate_model(CellSpace(structure, network))
        self.mixtures = nn.ModuleDict(strategy.mixtures)
        self.num_features: int = self.space.num_features

    def forward(self, images: Tensor) -> Tensor:
        return self.space(images)

    def alphas(self) -> dict[str, nn.Parameter]:
        """Architecture parameters by name: ``normal``, ``normal_attention``, ``reduce``, ``reduce_attention``."""
        return {name: mixture.alpha for name, mixture in self.mixtures.items()}  # type: ignore[misc]

    def weights(self) -> list[nn.Parameter]:
        """All parameters but the alphas."""
        alphas = {id(alpha) for alpha in self.alphas().values()}
        return [p for p in self.parameters() if id(p) not in alphas]

    def mixture_weights(self) -> dict[str, Tensor]:
        """Detached mixture weights by name, as the next forward pass would use them."""
        return {name: mixture().detach() for name, mixture in self.mixtures.items()}

    @contextmanager
    def fixed_to(self, genotype: Genotype) -> Iterator[None]:
        """Within it, the mixture weights are the genotype's: 1 for what it keeps, 0 for the rest."""
        for name, weights in one_hot(genotype, self.structure).items():
            if name in self.mixtures:
                alpha = self.mixtures[name].alpha
                self.mixtures[name].fixed = weights.to(alpha)  # type: ignore[arg-type]
        try:
            yield
        finally:
            for mixture in self.mixtures.values():
                mixture.fixed = None  # type: ignore[assignment]

    def inherited_state(self, genotype: Genotype) -> dict[str, Tensor]:
        """The parameters and statistics that the genotype's fixed network takes over, under that network's names."""
        state = {k: v for k, v in self.space.state_dict().items() if k.startswith("stem.") or ".preprocessor." in k}
        for i, (cell, attention) in enumerate(zip(self.space.cells, self.space.attention)):
            kept = genotype.cells[cell.kind]
            for node, edges in enumerate(kept.nodes):
                for k, edge in enumerate(edges):
                    operation = cell.operation(node, edge.source, edge.op) if edge.op != "none" else nn.Identity()
                    state.update(_prefixed(operation, f"cells.{i}.ops.{node}.{k}."))
            state.update(_prefixed(attention.candidates[kept.attention], f"attention.{i}."))
        return state


def edge_index(node: int, source: int) -> int:
    """Row of the edge from state ``source`` to node ``node`` (from 0): edges are listed node by node.

    >>> [edge_index(1, s) for s in range(3)]
    [2, 3, 4]
    """
    return node * (node + 3) // 2 + source


def one_hot(genotype: Genotype, structure: CellStructure) -> dict[str, Tensor]:
    """Mixture weights (E, O) and (1, A) by name that compute what the genotype computes."""
    weights: dict[str, Tensor] = {}
    for kind, cell in genotype.cells.items():
        rows = torch.zeros(edge_index(structure.nodes, 0), len(structure.operations))
        for node, edges in enumerate(cell.nodes):
            for edge in edges:
                if edge.op != "none":
                    rows[edge_index(node, edge.source), structure.operations.index(edge.op)] += 1
        weights[kind] = rows
        attention = torch.tensor([[float(name == cell.attention) for name in structure.attention]])
        weights[f"{kind}_attention"] = attention
    return weights


class _MixtureStrategy(OneShotStrategy):
    """NNI's walk over a space, with our cells; the mixtures it makes are shared by label."""

    def __init__(self, relaxation: Relaxation) -> None:
        super().__init__()
        self.relaxation = relaxation
        self.mixtures: dict[str, Mixture] = {}

    def default_mutation_hooks(self) -> list[Any]:
        return [self._super_cell, self._super_choice, *super().default_mutation_hooks()]

    def _super_cell(self, module: nn.Module, name: str, memo: dict, kwargs: dict) -> nn.Module | None:
        if not isinstance(module, Cell):
            return None
        mixture = self._mixture(module.label, list(module.op_candidates_factory), edge_index(module.num_nodes, 0))
        return SuperCell(module, mixture)

    def _super_choice(self, module: nn.Module, name: str, memo: dict, kwargs: dict) -> nn.Module | None:
        if not isinstance(module, LayerChoice):
            return None
        return SuperChoice(module, self._mixture(module.label, list(module.names), 1))

    def _mixture(self, label: object, names: list[str], rows: int) -> Mixture:
        label = str(label)  # NNI's labels are strings of their own class
        if label not in self.mixtures:
            self.mixtures[label] = Mixture(names, rows, self.relaxation)
        return self.mixtures[label]


class _State:
    """A state of a cell and what has been computed of it once."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._done: dict[str, Tensor] = {}

    def once(self, name: str, operation: Callable[[Tensor], Tensor]) -> Tensor:
        if name not in self._done:
            self._done[name] = operation(self.value)
        return self._done[name]


def _prefixed(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in module.state_dict().items()}
