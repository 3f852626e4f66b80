"""Relaxations: from architecture parameters (alphas) to the weights of a mixture. R rows (edges), O operations.

Every relaxation returns weights for a forward pass (``sample``) and the deterministic weights that they stand for
(``compute_expected``), which derivation, costs and evaluation read. ``temperature`` is set by the training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.nn.functional import elu

from dcs_nas.registry import Registry


class Sample(NamedTuple):
    """Weights (R, O) of one forward pass and, where few of them count, the columns to compute in every row."""

    weights: Tensor
    columns: Sequence[Sequence[int]] | None = None


RELAXATIONS: Registry[type[Softmax]] = Registry("relaxation")


@RELAXATIONS.register("softmax")
class Softmax:
    """DARTS (arXiv 1806.09055, eq. 2): w = softmax(alpha / temperature) over the operations of an edge."""

    def __init__(self) -> None:
        self.temperature = 1.0

    def sample(self, alpha: Tensor) -> Sample:
        """Return the weights of a training pass, drawn at random if the relaxation is stochastic."""
        return Sample(self.compute_expected(alpha))

    def compute_expected(self, alpha: Tensor) -> Tensor:
        """Return the weights (R, O) that ``sample`` has on average; rows sum to 1."""
        return torch.softmax(alpha / self.temperature, dim=-1)

    def penalty(self, alpha: Tensor) -> Tensor | None:
        """Return a regulariser to add to the architecture loss, or None."""
        return None


@RELAXATIONS.register("gumbel")
class Gumbel(Softmax):
    """GDAS (arXiv 1910.04465, eqs. 3 to 5): one operation an edge is drawn, and only this one computed.

    h~ = softmax((log softmax(alpha) + G) / temperature) with G Gumbel(0, 1); forward the one-hot of its largest entry,
    backward the gradient of h~ (straight-through), through the operation that was computed.
    """

    def sample(self, alpha: Tensor) -> Sample:
        logits = torch.log_softmax(alpha, dim=-1)
        noise = -torch.empty_like(logits).exponential_().log_()
        soft = torch.softmax((logits + noise) / self.temperature, dim=-1)
        chosen = soft.argmax(dim=-1, keepdim=True)
        hard = torch.zeros_like(soft).scatter_(-1, chosen, 1.0)
        return Sample(hard + (soft - soft.detach()), chosen.tolist())

    def compute_expected(self, alpha: Tensor) -> Tensor:
        """Return softmax(alpha): the probability of each operation, at any temperature."""
        return torch.softmax(alpha, dim=-1)


@RELAXATIONS.register("dirichlet")
class DirichletMixture(Softmax):
    """DrNAS (arXiv 2006.10355, eq. 4): w ~ Dirichlet(beta / temperature), beta = elu(alpha) + 1, differentiably.

    A falling temperature raises the concentration: the draws narrow around the same mean. ``anchor`` weighs the
    regulariser KL(Dirichlet(beta) || Dirichlet(1)) (eq. 5), which keeps the concentrations near 1.
    """

    def __init__(self, anchor: float = 0.0) -> None:
        super().__init__()
        self.anchor = anchor

    def sample(self, alpha: Tensor) -> Sample:
        return Sample(Dirichlet(_concentration(alpha) / self.temperature, validate_args=False).rsample())

    def compute_expected(self, alpha: Tensor) -> Tensor:
        beta = _concentration(alpha)
        return beta / beta.sum(dim=-1, keepdim=True)

    def penalty(self, alpha: Tensor) -> Tensor | None:
        if not self.anchor:
            return None
        flat = Dirichlet(torch.ones_like(alpha), validate_args=False)
        return self.anchor * kl_divergence(Dirichlet(_concentration(alpha), validate_args=False), flat).sum()


@RELAXATIONS.register("gumbel_softmax")
class GumbelSoftmax(Softmax):
    """FBNetV2 (arXiv 2004.05565, section 3): w = softmax((alpha + G) / temperature), G Gumbel(0, 1).

    All candidates are mixed; the published temperature is 5.0 * 0.956^epoch.
    """

    def __init__(self, temperature: float = 5.0) -> None:
        super().__init__()
        self.temperature = temperature

    def sample(self, alpha: Tensor) -> Sample:
        noise = -torch.empty_like(alpha).exponential_().log_()
        return Sample(torch.softmax((alpha + noise) / self.temperature, dim=-1))

    def compute_expected(self, alpha: Tensor) -> Tensor:
        """Return softmax(alpha): the probability of each candidate to have the largest weight, at any temperature."""
        return torch.softmax(alpha, dim=-1)


def normalize_edges(edge_alpha: Tensor, groups: Sequence[int]) -> Tensor:
    """Return PC-DARTS' edge normalisation (arXiv 1907.05737, eq. 4): softmax (R,) over the edges into each node.

    ``groups``: the number of edges into each node, in order of the rows.
    """
    return torch.cat([torch.softmax(part, dim=0) for part in edge_alpha.split(list(groups))])


def _concentration(alpha: Tensor) -> Tensor:
    # elu reaches -1 for very small alphas; a Dirichlet needs concentrations above 0
    return (elu(alpha) + 1).clamp_min(1e-6)
