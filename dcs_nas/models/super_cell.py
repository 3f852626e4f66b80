"""A cell that computes the mixture of all its candidates, and a choice that does.

    node_i = sum over j < i, o of w(alpha)[j -> i, o] * o(state_j)     (DARTS, arXiv 1806.09055, eq. 2)

B batch, C channels, H x W map, E edges of a cell, O operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d, pad

from dcs_nas.models.depthwise import DepthwiseConv, depthwise, pointwise
from dcs_nas.models.nni_imports import BaseSuperNetModule, Cell, LayerChoice
from dcs_nas.models.operations import DilatedConv, FactorizedReduce, ReluFirst, SeparableConv
from dcs_nas.models.supernet import Mixture, run_checkpointed
from dcs_nas.space import edge_index

_MERGEABLE = (SeparableConv, DilatedConv, FactorizedReduce)


class SuperCell(BaseSuperNetModule):
    """A cell with every edge and candidate. It replaces NNI's ``Cell`` and has the same states.

    Operations without parameters (pools, skips) have one output for all readers of a state, so they are built and
    computed once per state, as is the ReLU that begins the convolutions.

    With ``partial`` K > 1 (PC-DARTS, arXiv 1907.05737, section 3.1) the operations read only the first C / K channels
    of a state. The other channels bypass them, weighted by their edge and halved by a max pool where the edge strides,
    and the channels of a node are shuffled so that every K-th comes from the operations.

    ``checkpointed``: drop activations within the cell and compute them again in the backward pass.
    """

    mixture: Mixture

    def __init__(self, cell: Cell, mixture: Mixture, *, partial: int = 1, checkpointed: bool = False) -> None:
        super().__init__()
        self.kind = str(cell.label)
        self.nodes: int = cell.num_nodes
        self.partial, self.checkpointed = partial, checkpointed
        self.preprocessor = cell.preprocessor
        object.__setattr__(self, "mixture", mixture)  # shared by all cells of the kind: the supernet registers it once
        self.edges = nn.ModuleList()
        self.shared = nn.ModuleList(nn.ModuleDict() for _ in range(self.nodes + 1))
        for node in range(2, self.nodes + 2):
            for source in range(node):
                operations_of_edge = {name: make(node, 0, source) for name, make in cell.op_candidates_factory.items()}
                self.edges.append(nn.ModuleDict(self._keep(operations_of_edge, source)))
        self._banks = [self._mergeable(source) for source in range(self.nodes + 2)]
        self._norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]

    def _keep(self, operations_of_edge: Mapping[str, nn.Module], source: int) -> dict[str, nn.Module]:
        own: dict[str, nn.Module] = {}
        for name, operation in operations_of_edge.items():
            if next(operation.parameters(), None) is not None:
                own[name] = operation
            elif name not in self._of_state(source):
                self._of_state(source)[name] = operation
        return own

    def _mergeable(self, source: int) -> dict[str, list[ReluFirst]]:
        """Return the operations of each kind that read a state, where they can be computed side by side."""
        groups: dict[str, list[ReluFirst]] = {}
        for name in self.mixture.names:
            readers = range(max(0, source - 1), self.nodes)
            edges = [cast(nn.ModuleDict, self.edges[edge_index(node, source)]) for node in readers]
            operations = [edge[name] for edge in edges if name in edge]
            if operations and mergeable(operations):
                groups[name] = [cast(ReluFirst, operation) for operation in operations]
        return groups

    def operation(self, node: int, source: int, name: str) -> nn.Module:
        """Return the module that computes ``name`` on the edge from state ``source`` to node ``node`` (from 0)."""
        own = cast(nn.ModuleDict, self.edges[edge_index(node, source)])
        return own[name] if name in own else self._of_state(source)[name]

    def _of_state(self, source: int) -> nn.ModuleDict:
        return cast(nn.ModuleDict, self.shared[source])

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        weights, columns = self.mixture.sample()
        inputs = (before, last, weights, columns)
        return cast(Tensor, run_checkpointed(self, *inputs, active=self.checkpointed, call=self._compute))

    def _compute(
        self, before: Tensor, last: Tensor, weights: Tensor, columns: Sequence[Sequence[int]] | None
    ) -> Tensor:
        scalars = [row.unbind() for row in weights.unbind()]
        dense = columns is None and self.training and all(norm.momentum is not None for norm in self._norms)
        states: list[State] = []
        for x in self.preprocessor([before, last]):
            states.append(self._state(x, len(states), scalars, dense))
        every = range(len(self.mixture.names))
        for node in range(self.nodes):
            total: Tensor | None = None
            for source, state in enumerate(states):
                row = edge_index(node, source)
                if node in state.computed:
                    total = state.computed[node] if total is None else total + state.computed[node]
                for column in every if columns is None else columns[row]:
                    name = self.mixture.names[column]
                    if name != "none" and not (state.computed and name in self._banks[source]):
                        total = self._add(total, scalars[row][column], node, source, name, state)
            if total is None:  # all that was drawn is "none"
                total = self._of_state(0)["none"](states[0].mixed)
            if self.partial > 1:
                total = self._with_bypass(total, states, weights, node)
            states.append(self._state(total, len(states), scalars, dense))
        return torch.cat([state.value for state in states[2:]], dim=1)

    def _state(self, value: Tensor, source: int, scalars: Sequence[Sequence[Tensor]], dense: bool) -> State:
        """Return a state; in a dense pass with the sums of its readers' operations of a kind, computed side by side."""
        state = State(value, self.partial)
        readers = range(max(0, source - 1), self.nodes)
        total: Tensor | None = None
        for name, operations in self._banks[source].items() if dense else ():
            x = state.once("relu", torch.relu)
            wide = state.once("wide", lambda _, x=x: repeat_channels(x, len(readers)))  # type: ignore[misc]
            column = self.mixture.names.index(name)
            term = bank(operations, x, wide, [scalars[edge_index(node, source)][column] for node in readers])
            total = term if total is None else total + term
        if total is not None:
            state.computed = dict(zip(readers, separate(total, len(readers))))
        return state

    def _add(self, total: Tensor | None, weight: Tensor, node: int, source: int, name: str, state: State) -> Tensor:
        operation = self.operation(node, source, name)
        if name in self._of_state(source):
            return add_weighted(total, weight, state.once(name, operation))
        if isinstance(operation, ReluFirst):
            term = operation.after_relu(state.once("relu", torch.relu), weight)
            return term if total is None else total + term
        return add_weighted(total, weight, operation(state.mixed))

    def _with_bypass(self, total: Tensor, states: Sequence[State], weights: Tensor, node: int) -> Tensor:
        passed: Tensor | None = None
        for source, state in enumerate(states):
            # an edge's operations have weights that sum to the edge's own
            passed = add_weighted(passed, weights[edge_index(node, source)].sum(), state.bypass(total.shape[2:]))
        assert passed is not None
        return nn.functional.channel_shuffle(torch.cat([total, passed], dim=1), self.partial)

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return no choices, since nothing is sampled here (NNI's interface)."""
        return {}

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the alphas of this kind of cell (NNI's interface)."""
        yield from self.mixture.parameters()


class SuperChoice(BaseSuperNetModule):
    """The weighted sum of all candidates of a choice: here, of attention blocks on a cell's output."""

    mixture: Mixture

    def __init__(self, choice: LayerChoice, mixture: Mixture) -> None:
        super().__init__()
        self.label = str(choice.label)
        self.candidates = nn.ModuleDict({name: choice[name] for name in choice.names})
        object.__setattr__(self, "mixture", mixture)

    def forward(self, x: Tensor) -> Tensor:
        weights, columns = self.mixture.sample()
        names = list(self.candidates)
        total: Tensor | None = None
        for column in range(len(names)) if columns is None else columns[0]:
            total = add_weighted(total, weights[0, column], self.candidates[names[column]](x))
        assert total is not None
        return total

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return no choices, since nothing is sampled here (NNI's interface)."""
        return {}

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the alphas of this choice (NNI's interface)."""
        yield from self.mixture.parameters()


class State:
    """A state of a cell (B, C, H, W) with a cache of what is computed from it once. Operations read ``mixed``.

    ``computed``: by node, the weighted sum of the operations that were computed side by side.
    """

    def __init__(self, value: Tensor, partial: int) -> None:
        self.value = self.mixed = value
        self._seen = value.shape[1] // partial
        self.computed: dict[int, Tensor] = {}
        self._done: dict[str, Tensor] = {}
        if partial > 1:
            self.mixed = value[:, : self._seen].contiguous(memory_format=torch.channels_last)

    def once(self, name: str, operation: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the operation's output, computed at its first call."""
        if name not in self._done:
            self._done[name] = operation(self.mixed)
        return self._done[name]

    def bypass(self, size: Sequence[int]) -> Tensor:
        """Return the channels that no operation reads, as maps of ``size``."""
        rest = self.value[:, self._seen :]
        return rest if rest.shape[2:] == torch.Size(size) else self.once("bypass", lambda _: _halve(rest))


def add_weighted(total: Tensor | None, weight: Tensor, term: Tensor) -> Tensor:
    """Return total + weight * term, for a scalar weight."""
    return weight * term if total is None else torch.addcmul(total, weight.to(term.dtype), term)


def _halve(x: Tensor) -> Tensor:
    return max_pool2d(x, 2, ceil_mode=True)


def mergeable(operations: Sequence[nn.Module]) -> bool:
    """Return whether operations of one kind can form a bank: two or more, known, without parameters in their norms."""
    first = operations[0]
    return (
        len(operations) > 1
        and type(first) in _MERGEABLE
        and not any(norm.affine for norm in first.modules() if isinstance(norm, nn.BatchNorm2d))
    )


def bank(operations: Sequence[ReluFirst], x: Tensor, wide: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return the outputs of n operations in training mode, each times its scalar weight: (B, n C, H', W').

    The n edges read the same state and are computed as one operation n times as wide: on few channels most of a
    kernel's time is not arithmetic. Values and gradients equal those of separate operations.

    Args:
        operations: of one kind and size, see ``mergeable``.
        x: their input after the ReLU, (B, C, H, W).
        wide: x repeated n times, (B, n C, H, W), see ``repeat_channels``.
        weights: n scalars.
    """
    first = operations[0]
    if isinstance(first, FactorizedReduce):
        return _reduce([cast(FactorizedReduce, op) for op in operations], x, weights)
    if isinstance(first, DilatedConv):
        if first.stride == 2:
            wide = wide[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return _stage([cast(DilatedConv, op).body for op in operations], wide, weights)
    term = [cast(SeparableConv, op) for op in operations]
    hidden = torch.relu(_stage([op.first for op in term], wide, None))
    return _stage([op.second for op in term], hidden, weights)


def repeat_channels(x: Tensor, n: int) -> Tensor:
    """Repeat every channel n times: (B, C, H, W) to (B, n C, H, W), channels_last."""
    tokens = x.permute(0, 2, 3, 1)
    return tokens.unsqueeze(3).expand(-1, -1, -1, n, -1).flatten(3).permute(0, 3, 1, 2)


def separate(wide: Tensor, n: int) -> list[Tensor]:
    """Split (B, n C, H, W) into n maps (B, C, H, W), channels_last."""
    parts = wide.permute(0, 2, 3, 1).unflatten(3, (n, -1)).movedim(3, 0).contiguous()
    return [part.permute(0, 3, 1, 2) for part in parts.unbind()]


def _stage(bodies: Sequence[nn.Sequential], x: Tensor, weights: Sequence[Tensor] | None) -> Tensor:
    """Compute depthwise, 1x1, batch norm."""
    convs, points, norms = zip(*bodies)
    first = cast(DepthwiseConv, convs[0])
    kernels = _join(convs)
    if first.stride == (1, 1):
        y = depthwise(x, kernels, first.dilation[0])
    else:
        y = conv2d(x, kernels, None, first.stride, first.padding, first.dilation, x.shape[1])
    return _norm(norms, conv2d(y, _join(points), groups=len(points)), weights)


def _reduce(operations: Sequence[FactorizedReduce], x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    n = len(operations)
    halves = [pointwise(x, _join([op.even for op in operations]), 2).unflatten(1, (n, -1))]
    if operations[0].odd is not None:
        shifted = pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        odd = pointwise(shifted, _join([cast(nn.Module, op.odd) for op in operations]), 2)
        halves.append(odd.unflatten(1, (n, -1)))
    return _norm([op.norm for op in operations], torch.cat(halves, dim=2).flatten(1, 2), weights)


def _norm(norms: Sequence[nn.Module], x: Tensor, weights: Sequence[Tensor] | None) -> Tensor:
    batch_norms = [cast(nn.BatchNorm2d, norm) for norm in norms]
    statistics = [
        [cast(Tensor, getattr(norm, name)) for norm in batch_norms] for name in ("running_mean", "running_var")
    ]
    mean, variance = (torch.cat(each) for each in statistics)
    channels = x.shape[1] // len(batch_norms)
    scale = torch.ones_like(mean) if weights is None else torch.stack(list(weights)).repeat_interleave(channels)
    y = batch_norm(
        x, mean, variance, scale, torch.zeros_like(scale), True, batch_norms[0].momentum or 0.0, batch_norms[0].eps
    )
    with torch.no_grad():
        for kept, moved in zip(statistics, (mean, variance)):
            torch._foreach_copy_(kept, list(moved.split(channels)))
        torch._foreach_add_([cast(Tensor, norm.num_batches_tracked) for norm in batch_norms], 1)
    return y


def _join(convs: Sequence[nn.Module]) -> Tensor:
    return torch.cat([cast(Tensor, conv.weight) for conv in convs])
