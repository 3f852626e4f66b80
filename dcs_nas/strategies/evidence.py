"""Scores of genotypes without training, each computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dcs_nas.data.augment import build_augment
from dcs_nas.seeds import seed_everything
from dcs_nas.space import AnyGenotype
from dcs_nas.strategies.zero_cost import ZERO_COST
from dcs_nas.training.objective import batch_terms
from dcs_nas.training.retraining import trial_objective

if TYPE_CHECKING:
    from dcs_nas.strategies.trial_strategy import TrialStrategy


class Evidence:
    """Scores ``names`` of ``ZERO_COST``, on the first batch of a trial training, of networks as trials begin with."""

    def __init__(self, strategy: TrialStrategy, names: Sequence[str]) -> None:
        self._strategy, self._names = strategy, names
        self._scores_by_identity: dict[str, dict[str, float]] = {}
        if names:
            assert strategy.data is not None
            config = strategy.config
            gpus = strategy.settings.trials.gpus
            device = torch.device(f"cuda:{gpus[0] if gpus else 0}" if config.trainer.cuda else "cpu")
            batch = next(iter(strategy.data.make_identity_loader(strategy.images, stream=9)))
            seed_everything(config.seed)
            self._images = build_augment(config)(batch["images"].to(device))
            self._labels, self._cameras = batch["labels"].to(device), batch["cameras"].to(device)

    def __call__(self, genotype: AnyGenotype) -> Mapping[str, float]:
        """Return the scores by name; one that is not finite is left out."""
        key = genotype.identity()
        if key not in self._scores_by_identity:
            scores = self._scores(genotype) if self._names else {}
            self._scores_by_identity[key] = {name: score for name, score in scores.items() if math.isfinite(score)}
        return self._scores_by_identity[key]

    def _scores(self, genotype: AnyGenotype) -> dict[str, float]:
        strategy = self._strategy
        seed_everything(strategy.config.seed)
        backbone = strategy.kind.build_fixed_network(genotype)
        network = strategy.with_heads(backbone, len(set(strategy.images.labels.tolist()))).to(self._images.device)
        objective = trial_objective(network, strategy.config, strategy.images).to(self._images.device)

        def loss(network: nn.Module) -> Tensor:
            embedding = network(self._images, self._cameras)
            return batch_terms(objective, embedding, self._labels, self._images)["loss"]

        return {name: ZERO_COST[name](network, self._images, loss) for name in self._names}
