"""A supernet of any kind: mixtures by name, their draws and fixed weights; running statistics of batch norms.

R rows (edges), O operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dcs_nas.models.flops import CostKind
from dcs_nas.models.relaxation import Sample, Softmax, normalize_edges
from dcs_nas.space import AnyGenotype, Choice

if TYPE_CHECKING:
    from dcs_nas.models.cell_costs import CellCosts

ExpectedCost = Callable[[Mapping[str, Tensor]], Tensor]
"""From mixture weights by name to the expected cost, a differentiable scalar."""

_BatchNorm = nn.modules.batchnorm._BatchNorm


class Mixture(nn.Module):
    """Alphas and their mixture weights.

    ``alpha`` (R, O) starts at 1e-3 * N(0, 1), as DARTS does. With ``edges`` (the number of edges into each node) there
    is also ``edge_alpha`` (R,), and each row is weighted by ``normalize_edges`` of it (PC-DARTS).

    Attributes:
        fixed: replaces the weights in every pass, e.g. by a genotype's one-hot rows.
        drawn: the draw that all cells share in a pass of the network.
    """

    def __init__(self, names: list[str], rows: int, relaxation: Softmax, edges: Sequence[int] | None = None) -> None:
        super().__init__()
        self.names, self.edges, self.relaxation = names, edges, relaxation
        self.alpha = nn.Parameter(1e-3 * torch.randn(rows, len(names)))
        self.edge_alpha = nn.Parameter(1e-3 * torch.randn(rows)) if edges else None
        self.fixed: Sample | None = None
        self.drawn: Sample | None = None

    def forward(self) -> Tensor:
        """Return the weights (R, O) of the current pass."""
        return self.sample().weights

    def sample(self) -> Sample:
        """Return the weights of the current pass: fixed, drawn before, drawn now, or the expected ones (evaluation)."""
        if self.fixed is not None:
            return self.fixed
        if self.drawn is not None:
            return self.drawn
        if not self.training:
            return Sample(self.compute_expected())
        weights, columns = self.relaxation.sample(self.alpha)
        return Sample(self._by_edge(weights), columns)

    def compute_expected(self) -> Tensor:
        """Return the expected weights (R, O), differentiable and without the noise of a draw."""
        return self._by_edge(self.relaxation.compute_expected(self.alpha))

    def fix(self, weights: Tensor | None) -> None:
        """Use these weights (R, O) in every pass and skip candidates of weight 0; None returns to the alphas."""
        if weights is None:
            self.fixed = None
        else:
            self.fixed = Sample(weights.to(self.alpha), [row.nonzero()[:, 0].tolist() for row in weights])

    def penalty(self) -> Tensor | None:
        """Return the relaxation's regulariser, or None."""
        return self.relaxation.penalty(self.alpha)

    def _by_edge(self, weights: Tensor) -> Tensor:
        if self.edge_alpha is None or self.edges is None:
            return weights
        return weights * normalize_edges(self.edge_alpha, self.edges)[:, None]


class Supernet(nn.Module):
    """A network that computes with the weights of ``mixtures``, its only place for architecture parameters (alphas)."""

    mixtures: nn.ModuleDict
    structure: Any
    network: Any
    num_features: int

    @property
    def reads_weights(self) -> bool:
        """True if a pass chooses modules by the values of the mixture weights, as of the strongest width."""
        return False

    @property
    def shares_weights(self) -> bool:
        """True if candidates are parts of the same weights, so that the sum of all bounds what any path keeps."""
        return False

    def inherit_state(self, genotype: Any) -> dict[str, Tensor]:
        """Return the parameters and statistics that the genotype's fixed network takes over, under its names."""
        raise NotImplementedError

    def complete(self, genotype: Any) -> Any:
        """Return a genotype derived from this supernet, with choices that no mixture makes (windows of channels)."""
        return genotype

    def cost(self, kind: CostKind) -> ExpectedCost:
        """Return the expected multiply-adds or parameters as a differentiable function of mixture weights by name."""
        raise NotImplementedError

    def part_costs(self) -> CellCosts | None:
        """Return the costs of all candidates, where they can be separated."""
        return None

    @contextmanager
    def fix_to(self, genotype: AnyGenotype) -> Iterator[None]:
        """Fix the mixture weights to the genotype's one-hot weights within the block."""
        with self.fix_weights(one_hot(genotype)):
            yield

    def alphas(self) -> dict[str, nn.Parameter]:
        """Return architecture parameters by name, (rows, candidates) each."""
        return {name: mixture.alpha for name, mixture in self._mixtures()}

    def weights(self) -> list[nn.Parameter]:
        """Return all parameters but the alphas."""
        alphas = {id(alpha) for alpha in self.alphas().values()}
        return [p for p in self.parameters() if id(p) not in alphas]

    def mixture_weights(self) -> dict[str, Tensor]:
        """Return detached expected mixture weights by name."""
        return {name: mixture.compute_expected().detach() for name, mixture in self._mixtures()}

    def compute_expected_weights(self) -> dict[str, Tensor]:
        """Return differentiable expected mixture weights by name."""
        return {name: mixture.compute_expected() for name, mixture in self._mixtures()}

    @contextmanager
    def hold_draw(self, *, expected: bool = False, whole: bool = False) -> Iterator[None]:
        """Use one draw of mixture weights, or the expected ones, in all passes of the block.

        ``whole``: compute all candidates, where a draw is of single ones too.
        """
        for _, mixture in self._mixtures():
            mixture.drawn = None
            drawn = Sample(mixture.compute_expected()) if expected else mixture.sample()
            mixture.drawn = Sample(drawn.weights) if whole else drawn
        try:
            yield
        finally:
            for _, mixture in self._mixtures():
                mixture.drawn = None

    @contextmanager
    def fix_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Replace the alphas' weights by these, by name, within the block; candidates of weight 0 are not computed."""
        before = {name: mixture.fixed for name, mixture in self._mixtures()}
        for name, mixture in self._mixtures():
            if name in weights:
                mixture.fix(weights[name])
        try:
            yield
        finally:
            for name, mixture in self._mixtures():
                mixture.fixed = before[name]

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature of the relaxation."""
        for _, mixture in self._mixtures():
            mixture.relaxation.temperature = temperature

    def penalty(self) -> Tensor | None:
        """Return the sum of the relaxation's regularisers, or None where it has none."""
        penalties = [penalty for _, mixture in self._mixtures() if (penalty := mixture.penalty()) is not None]
        return torch.stack(penalties).sum() if penalties else None

    def _mixtures(self) -> Iterator[tuple[str, Mixture]]:
        return cast("Iterator[tuple[str, Mixture]]", iter(self.mixtures.items()))


def build_mixtures(choices: Iterable[Choice], relaxation: Softmax) -> nn.ModuleDict:
    """Return a mixture of one row for each choice, by label."""
    return nn.ModuleDict({c.label: Mixture([str(option) for option in c.options], 1, relaxation) for c in choices})


def one_hot(genotype: AnyGenotype) -> dict[str, Tensor]:
    """Return the one-hot mixture weights (R, O) of a genotype by name."""
    return {name: torch.tensor(rows) for name, rows in genotype.one_hot().items()}


def expect_cost(base: float, costs: Mapping[str, Sequence[float]], weights: Mapping[str, Tensor]) -> Tensor:
    """Return base + sum over mixtures of the mean cost of their candidates, a float64 scalar (float32 on MPS).

    Args:
        base: the cost that all networks share.
        costs: of the candidates (n,) by mixture.
        weights: (1, n) by mixture.
    """
    like = next(iter(weights.values()))
    exact = torch.float32 if like.device.type == "mps" else torch.float64
    total = like.new_tensor(base, dtype=exact)
    for name, row in costs.items():
        total = total + (weights[name].view(-1).to(exact) * like.new_tensor(row, dtype=exact)).sum()
    return total


def run_checkpointed(module: nn.Module, *arguments: Any, active: bool, call: Callable[..., Any] | None = None) -> Any:
    """Return ``module(*arguments)``, or of its method ``call``.

    If ``active``, its activations are recomputed in the backward pass (arXiv 1604.06174).
    """
    if not (active and torch.is_grad_enabled()):
        return (call or module)(*arguments)

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), frozen_statistics(module)

    return checkpoint(call or module, *arguments, use_reentrant=False, context_fn=contexts)


class frozen_statistics:  # noqa: N801, a context such as torch.no_grad
    """A context in which passes in training mode do not update the running statistics of batch norms.

    It can be entered again: a checkpoint does so whenever it recomputes a part.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = _norms(module)
        self._momenta: list[float | None] = []

    def __enter__(self) -> None:
        self._momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, momentum in zip(self._norms, self._momenta):
            norm.momentum = momentum


@contextmanager
def recalibrate_statistics(module: nn.Module, run: Callable[[], object]) -> Iterator[None]:
    """Use plain means over the passes of ``run`` as running statistics within the block.

    The statistics of a supernet come from its mixture and do not fit a single network of it (Guo et al., arXiv
    1904.00420, section 3.2). ``run`` is called in training mode without gradients.
    """
    norms = _norms(module)
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta, training = [norm.momentum for norm in norms], module.training
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        module.train()
        with torch.no_grad():
            run()
        module.train(training)
        yield
    finally:
        module.train(training)
        for norm, momentum, buffers in zip(norms, momenta, before):
            norm.momentum = momentum
            for name, buffer in buffers.items():
                getattr(norm, name).copy_(buffer)


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]
