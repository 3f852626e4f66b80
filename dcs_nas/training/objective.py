"""The objective of a job and the loss of one batch. B images, D features, A people."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dcs_nas.config import LossConfig
from dcs_nas.errors import TrainingError
from dcs_nas.losses import Objective, first_nonfinite
from dcs_nas.models.heads import Embedding


def build_objective(settings: LossConfig, *, people: int, features: int) -> Objective:
    """The objective that the settings describe; the information bottleneck's input is the image on ``ib_grid``."""
    return Objective(
        num_classes=people,
        feature_dim=features,
        identity_weight=settings.identity_weight,
        label_smoothing=settings.label_smoothing,
        triplet_weight=settings.triplet_weight,
        triplet_margin=settings.triplet_margin,
        center_weight=settings.center_weight,
        ib_kind=settings.ib_kind,
        ib_weight=settings.ib_weight,
        input_dim=3 * settings.ib_grid[0] * settings.ib_grid[1],
        input_grid=settings.ib_grid,
        ib_temperature=settings.ib_temperature,
        ib_normalize=settings.ib_normalize,
    )


def batch_terms(objective: Objective, embedding: Embedding, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Named loss terms of a batch; ``images`` (B, 3, H, W) feed the information bottleneck.

    The identity term is the mean over the branches' classifiers.
    """
    return objective(embedding.logits, embedding.features, labels, images if objective.needs_inputs else None)


def require_finite(terms: Mapping[str, Tensor], *, where: str, files: list[str]) -> None:
    """Raise ``TrainingError`` naming the step, the term and the batch's files where a term is NaN or infinite."""
    if bool(torch.isfinite(terms["loss"])):
        return
    term = first_nonfinite(terms) or "loss"
    raise TrainingError(
        f"the term '{term}' became {terms[term].item()} in {where}; lower the learning rate or look at the batch: "
        f"{', '.join(files[:4])}{', ...' if len(files) > 4 else ''}"
    )


class Means:
    """Running means of named scalars over an epoch, kept on their device until asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], prefix: str = "") -> None:
        for name, value in values.items():
            key = prefix + name
            total = self._sums.get(key)
            self._sums[key] = value.detach().float() if total is None else total + value.detach().float()
            self._counts[key] = self._counts.get(key, 0) + 1

    def pop(self) -> dict[str, float]:
        """The means, and a new start."""
        means = {key: float(total) / self._counts[key] for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
