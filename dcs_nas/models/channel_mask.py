"""Channel masks: many widths on one set of weights. n candidates of a width, C channels of the widest.

FBNetV2 (Wan et al., arXiv 2004.05565, section 3, channel search): candidates that share weights differ in which
channels they keep, so their weighted sum is one output times the weighted sum of their masks,
y = b(x) o sum_i g_i 1_i, with Gumbel-softmax weights g and 1_i = 1 for the first channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcs_nas.models.relaxation import RELAXATIONS, Sample, Softmax


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

    def expected(self, alpha: Tensor) -> Tensor:
        """softmax(alpha): how often each candidate has the largest weight, at any temperature."""
        return torch.softmax(alpha, dim=-1)


@dataclass(frozen=True)
class Widths:
    """How wide a map is: the candidates and their weights (n,), which sum to 1."""

    values: tuple[int, ...]
    weights: Tensor

    @property
    def largest(self) -> int:
        return max(self.values)

    def mask(self) -> Tensor:
        """The weighted sum of the nested 0/1 masks, (C,)."""
        return combined(self.weights, nested_masks(self.values, like=self.weights))

    def mean(self, values: Sequence[float]) -> Tensor:
        """The weighted mean of what each candidate has, a scalar."""
        return combined(self.weights, torch.tensor(values, dtype=self.weights.dtype, device=self.weights.device))

    def strongest(self) -> int:
        """The candidate with the largest weight; of fake weights, whose values nobody knows, the widest."""
        if isinstance(self.weights, torch._subclasses.FakeTensor):
            return self.largest
        return self.values[int(self.weights.argmax())]

    def mixed(self, other: Widths, weight: Tensor) -> Widths:
        """The same candidates with weights (1 - weight) self + weight other: where a block may be left out."""
        assert self.values == other.values
        return Widths(self.values, self.weights + weight * (other.weights - self.weights))

    def expanded(self, expansions: Sequence[int], weights: Tensor) -> Widths:
        """All products of a width and an expansion; both are chosen independently, so their weights multiply."""
        values = tuple(width * expansion for width in self.values for expansion in expansions)
        return Widths(values, torch.outer(self.weights, weights).flatten())


def nested_masks(widths: Sequence[int], *, like: Tensor) -> Tensor:
    """(n, C) with 1 for the first channels of each width, in ``like``'s type and on its device."""
    sizes = torch.tensor(widths, device=like.device)
    return (torch.arange(max(widths), device=like.device) < sizes[:, None]).to(like.dtype)


def kernel_mask(kernels: Sequence[int], weights: Tensor) -> Tensor:
    """The weighted sum of the masks of centred kernels in the largest, (K, K), for weights (n,).

    A convolution is linear in its kernel, so candidates that share its centre also are one convolution (Single-Path
    NAS, Stamoulis et al., arXiv 1904.02877, section 3.1).
    """
    largest = max(kernels)
    places = (torch.arange(largest, device=weights.device) - largest // 2).abs()
    reach = torch.maximum(places[:, None], places)
    sizes = torch.tensor(kernels, device=weights.device) // 2
    return combined(weights, (reach <= sizes[:, None, None]).to(weights.dtype))


def combined(weights: Tensor, values: Tensor) -> Tensor:
    """The sum of values (n, ...) with weights (n,), in full precision under autocast too."""
    return (weights.view(-1, *[1] * (values.ndim - 1)) * values).sum(0)
