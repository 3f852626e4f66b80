"""A memory of prototypes: an identity loss for people without a classifier. n samples, D features, K people."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from dcs_nas.errors import InputError
from dcs_nas.losses.precision import full_precision


class PrototypeMemory(nn.Module):
    """One unit vector for each person, a moving average of that person's features; no parameters.

    L = -1/n sum_i log softmax_k(f_i . c_k / t)[y_i], f_i the unit feature, over the people seen so far (Ge et al.,
    SpCL, arXiv 2006.02713, eq. 1, with people for clusters). The update is c <- m c + (1 - m) mean f of the person's
    images in the batch, then c / |c| (eq. 3); a person's first batch sets it.

    Args:
        num_people: K, labels 0 .. K - 1.
        feature_dim: D.
        temperature: t.
        momentum: m.
    """

    prototypes: Tensor
    seen: Tensor

    def __init__(self, *, num_people: int, feature_dim: int, temperature: float = 0.05, momentum: float = 0.2) -> None:
        super().__init__()
        if not temperature > 0 or not 0 <= momentum < 1:
            raise InputError(f"temperature {temperature} and momentum {momentum}: expected above 0, and 0 up to 1")
        self.temperature, self.momentum = temperature, momentum
        self.register_buffer("prototypes", torch.zeros(num_people, feature_dim))
        self.register_buffer("seen", torch.zeros(num_people, dtype=torch.bool))

    @full_precision
    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar: 0 while fewer than two people are known. Samples of new people don't count.

        Args:
            features: (n, D), not normalised.
            labels: (n,) integers.
        """
        known = self.seen[labels]
        if int(self.seen.sum()) < 2 or not bool(known.any()):
            return features.sum() * 0.0
        scores = normalize(features[known]) @ self.prototypes.to(features.dtype).T / self.temperature
        return cross_entropy(scores.masked_fill(~self.seen, -torch.inf), labels[known])

    @torch.no_grad()
    @full_precision
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Move the prototypes of the people in a batch, shaped as in ``forward``."""
        people, index = labels.unique(return_inverse=True)
        sums = torch.zeros(len(people), features.shape[1], dtype=features.dtype, device=features.device)
        means = normalize(sums.index_add_(0, index, normalize(features)))
        kept = self.momentum * self.seen[people].to(means.dtype)[:, None]
        moved = kept * self.prototypes[people].to(means.dtype) + (1 - kept) * means
        self.prototypes[people] = normalize(moved).to(self.prototypes.dtype)
        self.seen[people] = True
