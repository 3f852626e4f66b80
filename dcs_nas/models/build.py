"""Networks from settings: the supernet of a space and its cost, the fixed network of a genotype, a named backbone."""

from __future__ import annotations

import logging

from torch import nn

from dcs_nas.config import CostConfig, DataConfig, DcsConfig, RetrainConfig, SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models import cell_kind, chain_kind, msi_kind, osnet_kind  # noqa: F401, their import registers them
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.blocks import set_scale
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.latency import LatencyTable
from dcs_nas.models.space_kinds import cell_settings, kind_of
from dcs_nas.models.supernet import ExpectedCost, Supernet
from dcs_nas.models.weights import load_weights
from dcs_nas.space import AnyGenotype, Space, require_settings

NO_LATENCY = "latency tables are of spaces of cells, and this one is of another kind"
log = logging.getLogger(__name__)


def build_supernet(
    space: Space, search: SearchConfig, data: DataConfig, num_identities: int, dcs: DcsConfig | None = None
) -> ReidNetwork:
    """Return the space's supernet with a Re-ID head; ``search.channels`` and ``search.cells`` replace the space's own.

    Raises ``InputError`` for settings that the kind of space does not support, and for a space without a choice.
    """
    require_settings(space, cell_settings(search))
    network = space.network(data.height, data.width, channels=search.channels, cells=search.cells)
    supernet = kind_of(space).supernet(space, network, search)
    if not supernet.alphas():
        raise InputError(f"space '{space.name}' leaves nothing to choose; give one of its settings two candidates")
    set_scale(supernet, (dcs or DcsConfig()).scale)
    return ReidNetwork(supernet, num_identities, height=data.height, width=data.width)


def build_fixed(
    settings: RetrainConfig,
    data: DataConfig,
    num_identities: int,
    genotype: AnyGenotype | None,
    dcs: DcsConfig | None = None,
) -> ReidNetwork:
    """Return the network to train: of ``settings.backbone`` if it names one, else of the genotype.

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
        sizes = {"channels": settings.channels, "cells": settings.cells}
        require_settings(genotype, {name: size is not None for name, size in sizes.items()}, section="retrain")
        backbone = kind_of(genotype).build_fixed_network(genotype.resize(data.height, data.width, **sizes))
    report = None
    if settings.weights is not None:
        report = load_weights(backbone, settings.weights, partial=settings.weights_partial, key=settings.weights_key)
        log.info("%s: %s", settings.weights, report.summary())
    set_scale(backbone, (dcs or DcsConfig()).scale)
    network = ReidNetwork(backbone, num_identities, height=data.height, width=data.width, head=settings.head)
    network.weights_report = report
    return network


def build_cost(settings: CostConfig, supernet: Supernet) -> ExpectedCost | None:
    """Return the expected cost that the settings ask for, or None.

    Raises ``InputError`` for a latency table that is missing, malformed, or of another device or space, and for the
    latency of a space whose kind has no such tables.
    """
    if settings.kind == "none":
        return None
    if settings.kind != "latency":
        return supernet.cost(settings.kind)
    costs = supernet.part_costs()
    if costs is None:
        raise InputError(f"{NO_LATENCY}; set search.cost.kind to flops or parameters")
    assert settings.latency_table is not None
    table = LatencyTable.read(settings.latency_table)
    table.require(costs.cost_space(), source=str(settings.latency_table), other=settings.other_latency_table)
    return costs.compute_expected_cost("latency", table)
