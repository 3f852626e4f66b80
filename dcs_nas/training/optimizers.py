"""The optimizer of a fixed network's training: its parameter groups, and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, Adam, AdamW, Optimizer

from dcs_nas.config import RetrainConfig
from dcs_nas.models.heads import ReidNetwork

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
Factors = tuple[float, float]


def build_optimizer(network: ReidNetwork, settings: RetrainConfig, *, fused: bool | None = None) -> Optimizer:
    """Return the optimizer of the trained parameters, in one group for each pair of factors of ``retrain.groups``.

    The group without factors comes first. ``fused`` is Adam's and AdamW's.
    """
    groups: dict[Factors, list[nn.Parameter]] = {(1.0, 1.0): []}
    for parameter, factors in parameter_factors(network, settings):
        groups.setdefault(factors, []).append(parameter)
    parameters = [
        {"params": members, "lr": settings.lr * lr, "weight_decay": settings.weight_decay * weight_decay}
        for (lr, weight_decay), members in groups.items()
        if members
    ]
    lr, decay = settings.lr, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(parameters, lr, settings.momentum, weight_decay=decay, nesterov=settings.nesterov)
    adam = Adam if settings.optimizer == "adam" else AdamW
    return adam(parameters, lr, settings.betas, weight_decay=decay, amsgrad=settings.amsgrad, fused=fused)


def parameter_factors(network: ReidNetwork, settings: RetrainConfig) -> Iterator[tuple[nn.Parameter, Factors]]:
    """Yield every trained parameter with its factors on ``lr`` and ``weight_decay``.

    A parameter of a normalization layer is of the group norm, its bias too where norm_bias is not given; any other bias
    is of the group bias. The factors of the group head multiply those of the others.
    """
    groups = settings.groups
    norm_bias = groups.norm if groups.norm_bias is None else groups.norm_bias
    kinds = {
        id(p): norm_bias if name == "bias" else groups.norm
        for m in network.modules()
        if isinstance(m, _NORMS)
        for name, p in m.named_parameters()
    }
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = kinds.get(id(parameter), groups.bias if name.endswith("bias") else None)
        matching = [group for group in (kind, groups.head if name.startswith("heads.") else None) if group is not None]
        yield (
            parameter,
            (math.prod(group.lr for group in matching), math.prod(group.weight_decay for group in matching)),
        )


def learning_rate_factor(epoch: float, settings: RetrainConfig, *, steps_per_epoch: int = 1) -> float:
    """Return the factor on the learning rates at ``epoch`` (from 0, with fractions within an epoch).

    Warm-up: from ``warmup_factor`` linearly to 1 over ``warmup_steps`` steps of the optimizer, or ``warmup_epochs``.
    Then ``constant``: 1; ``multistep``: times ``gamma`` at each of ``milestones``; ``cosine``: 1 until ``flat_epochs``,
    then down to ``lr_min / lr`` at the end of the training along half a cosine (Loshchilov, Hutter, arXiv 1608.03983),
    which begins with the training where ``cosine_over`` is all and nothing is flat: the warm-up hides its start.
    """
    warmup = settings.warmup_steps / steps_per_epoch if settings.warmup_steps else settings.warmup_epochs
    if epoch < warmup:
        share = epoch / warmup
        return settings.warmup_factor * (1 - share) + share
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "multistep":
        return settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    begin = settings.flat_epochs if settings.cosine_over == "all" else max(warmup, settings.flat_epochs)
    share = min(1.0, max(0.0, epoch - begin) / max(settings.epochs - begin, 1e-9))
    least = settings.lr_min / settings.lr
    return least + (1 - least) * (1 + math.cos(math.pi * share)) / 2
