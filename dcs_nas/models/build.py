"""Networks from settings: the supernet of a space, the fixed network of a genotype, or a named backbone."""

from __future__ import annotations

import logging

from torch import nn

from dcs_nas.config import DataConfig, RetrainConfig, SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.cell_space import fixed_network
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.supernet import Supernet
from dcs_nas.models.weights import load_weights
from dcs_nas.space import Genotype, SpaceSpec

log = logging.getLogger(__name__)


def build_supernet(space: SpaceSpec, search: SearchConfig, data: DataConfig, people: int) -> ReidNetwork:
    """The space's supernet with a Re-ID head; ``search.channels`` and ``search.cells`` replace the space's own."""
    network = space.network(data.height, data.width, channels=search.channels, cells=search.cells)
    return ReidNetwork(Supernet(space, network), people, height=data.height, width=data.width)


def build_fixed(settings: RetrainConfig, data: DataConfig, people: int, genotype: Genotype | None) -> ReidNetwork:
    """The network to train: of ``settings.backbone`` if it names one, else of the genotype.

    Raises ``InputError`` where both or neither are given.
    """
    if settings.backbone is not None:
        if genotype is not None:
            raise InputError(f"both a genotype and the backbone '{settings.backbone}' are given; choose one")
        factory = BACKBONES[settings.backbone]
        backbone: nn.Module = factory(height=data.height, width=data.width, **settings.backbone_options)
    elif genotype is None:
        raise InputError("neither a genotype nor retrain.backbone is given; search first, or name a backbone")
    else:
        backbone = fixed_network(scaled(genotype, settings, data))
    if settings.weights is not None:
        log.info("%s: %s", settings.weights, load_weights(backbone, settings.weights).summary())
    return ReidNetwork(backbone, people, height=data.height, width=data.width)


def scaled(genotype: Genotype, settings: RetrainConfig, data: DataConfig) -> Genotype:
    """The genotype at the width, depth and image size that it is to be trained at.

    Another depth puts the reduction cells at the same shares of it.
    """
    old = genotype.network
    cells = settings.cells or old.cells
    reductions = tuple(sorted({min(cells - 1, r * cells // old.cells) for r in old.reductions}))
    changes = {
        "channels": settings.channels or old.channels,
        "cells": cells,
        "reductions": reductions,
        "height": data.height,
        "width": data.width,
    }
    return genotype.model_copy(update={"network": old.model_copy(update=changes)})
