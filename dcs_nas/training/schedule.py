"""Learning rate over a training: linear warm-up, then a cosine or steps."""

from __future__ import annotations

import math

from dcs_nas.config import RetrainConfig


def learning_rate_factor(epoch: float, settings: RetrainConfig) -> float:
    """What ``settings.lr`` is multiplied by at ``epoch`` (from 0, fractions within an epoch count).

    Warm-up: from ``warmup_factor`` linearly to 1 over ``warmup_epochs``. Then ``cosine``: down to ``lr_min / lr`` along
    half a cosine (Loshchilov, Hutter, arXiv 1608.03983); ``multistep``: times ``gamma`` at each of ``milestones``.
    """
    if epoch < settings.warmup_epochs:
        share = epoch / settings.warmup_epochs
        return settings.warmup_factor * (1 - share) + share
    if settings.schedule == "multistep":
        return settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    share = min(1.0, (epoch - settings.warmup_epochs) / max(settings.epochs - settings.warmup_epochs, 1e-9))
    least = settings.lr_min / settings.lr
    return least + (1 - least) * (1 + math.cos(math.pi * share)) / 2
