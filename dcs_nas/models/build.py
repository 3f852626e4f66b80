"""Networks from settings: the supernet of a space, the fixed network of a genotype, or a named backbone."""

from __future__ import annotations

import logging

from torch import nn

from dcs_nas.config import DataConfig, DcsConfig, RelaxationConfig, RetrainConfig, SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.blocks import set_scale
from dcs_nas.models.cell_space import fixed_network
from dcs_nas.models.cell_supernet import Supernet
from dcs_nas.models.chain_space import fixed_chain
from dcs_nas.models.chain_supernet import ChainSupernet
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.relaxation import RELAXATIONS, Softmax
from dcs_nas.models.weights import load_weights
from dcs_nas.space import AnyGenotype, ChainGenotype, ChainSpec, Genotype, Space, SpaceSpec

log = logging.getLogger(__name__)


def build_supernet(
    space: Space, search: SearchConfig, data: DataConfig, people: int, dcs: DcsConfig | None = None
) -> ReidNetwork:
    """The space's supernet with a Re-ID head; ``search.channels`` and ``search.cells`` replace the space's own.

    Raises ``InputError`` where these are given for a chain, whose stages name their own, and for what cells alone know.
    """
    if isinstance(space, ChainSpec):
        _refuse_scaling("search", search)
        _refuse_for_chain(search)
        relaxation = build_relaxation(search.relaxation)
        chain = ChainSupernet(space, space.network(data.height, data.width), relaxation=relaxation)
        set_scale(chain, (dcs or DcsConfig()).scale)
        return ReidNetwork(chain, people, height=data.height, width=data.width)
    assert isinstance(space, SpaceSpec)
    network = space.network(data.height, data.width, channels=search.channels, cells=search.cells)
    wanted = search.relaxation
    partial = wanted.partial_channels
    supernet = Supernet(
        space,
        network,
        relaxation=build_relaxation(wanted),
        partial=partial,
        edges=partial > 1 if wanted.edge_normalization is None else wanted.edge_normalization,
        checkpointed=search.checkpoint_activations,
    )
    set_scale(supernet, (dcs or DcsConfig()).scale)
    return ReidNetwork(supernet, people, height=data.height, width=data.width)


def build_relaxation(settings: RelaxationConfig) -> Softmax:
    """The relaxation that the settings name, at its first temperature."""
    options = {"anchor": settings.anchor} if settings.anchor else {}
    relaxation = RELAXATIONS[settings.kind](**options)
    relaxation.temperature = settings.temperature
    return relaxation


def build_fixed(
    settings: RetrainConfig,
    data: DataConfig,
    people: int,
    genotype: AnyGenotype | None,
    dcs: DcsConfig | None = None,
) -> ReidNetwork:
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
    elif isinstance(genotype, ChainGenotype):
        _refuse_scaling("retrain", settings)
        size = {"height": data.height, "width": data.width}
        backbone = fixed_chain(genotype.model_copy(update={"network": genotype.network.model_copy(update=size)}))
    else:
        assert isinstance(genotype, Genotype)
        backbone = fixed_network(scaled(genotype, settings, data))
    if settings.weights is not None:
        report = load_weights(backbone, settings.weights, share=settings.weights_share, key=settings.weights_key)
        log.info("%s: %s", settings.weights, report.summary())
    set_scale(backbone, (dcs or DcsConfig()).scale)
    return ReidNetwork(backbone, people, height=data.height, width=data.width)


def scaled(genotype: Genotype, settings: RetrainConfig, data: DataConfig) -> Genotype:
    """The genotype at the width, depth and image size that it is to be trained at.

    Another depth puts the reduction cells at the same shares of it.
    """
    return genotype.resized(data.height, data.width, channels=settings.channels, cells=settings.cells)


def _refuse_scaling(section: str, settings: SearchConfig | RetrainConfig) -> None:
    for field in ("channels", "cells"):
        if getattr(settings, field) is not None:
            raise InputError(
                f"{section}.{field} is {getattr(settings, field)}, but a chain has its own widths and blocks; "
                f"leave {section}.{field} out"
            )


def _refuse_for_chain(search: SearchConfig) -> None:
    wanted = {
        "relaxation.partial_channels": search.relaxation.partial_channels > 1,
        "relaxation.edge_normalization": bool(search.relaxation.edge_normalization),
        "checkpoint_activations": search.checkpoint_activations,
    }
    for name, given in wanted.items():
        if given:
            raise InputError(f"search.{name} is for spaces of cells, and this space is a chain; leave it out")
