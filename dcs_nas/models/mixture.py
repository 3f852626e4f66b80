"""Architecture parameters (alphas) of one choice, shared by all cells of a kind. R rows (edges), O operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcs_nas.models.relaxation import Sample, Softmax, normalized_edges


class Mixture(nn.Module):
    """Alphas and the mixture weights that they stand for.

    ``alpha`` (R, O) starts at 1e-3 * N(0, 1), as DARTS does. With ``edges`` (the number of edges into each node) there
    is also ``edge_alpha`` (R,), and each row is weighted by ``normalized_edges`` of it (PC-DARTS).

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
        """The weights (R, O) of the current pass."""
        return self.sample().weights

    def sample(self) -> Sample:
        """What the current pass computes: fixed, drawn before it, drawn now, or in evaluation what is expected."""
        if self.fixed is not None:
            return self.fixed
        if self.drawn is not None:
            return self.drawn
        if not self.training:
            return Sample(self.expected())
        weights, columns = self.relaxation.sample(self.alpha)
        return Sample(self._by_edge(weights), columns)

    def expected(self) -> Tensor:
        """Differentiable weights (R, O) that the alphas stand for, without what is random in a draw."""
        return self._by_edge(self.relaxation.expected(self.alpha))

    def fix(self, weights: Tensor | None) -> None:
        """Use these weights (R, O) from now on, computing only what is not 0; None goes back to the alphas."""
        if weights is None:
            self.fixed = None
        else:
            self.fixed = Sample(weights.to(self.alpha), [row.nonzero()[:, 0].tolist() for row in weights])

    def penalty(self) -> Tensor | None:
        """The relaxation's regulariser, or None."""
        return self.relaxation.penalty(self.alpha)

    def _by_edge(self, weights: Tensor) -> Tensor:
        if self.edge_alpha is None or self.edges is None:
            return weights
        return weights * normalized_edges(self.edge_alpha, self.edges)[:, None]
