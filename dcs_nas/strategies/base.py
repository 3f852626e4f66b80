"""The base class of search strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dcs_nas import __version__
from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.datamodule import ReidData
from dcs_nas.data.images import Progress
from dcs_nas.errors import InputError
from dcs_nas.models.blocks import set_scale
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.space_kinds import kind_of
from dcs_nas.runs import RunFolder
from dcs_nas.space import AnyGenotype, Origin, find_shipped_file, load_space, require_settings
from dcs_nas.training.trainer import memory_format

ReadProgress = Callable[[str], Progress] | None


class Strategy:
    """A search strategy, which checks settings, space and data before a run folder is written.

    Attributes:
        config: of the job, as the strategy uses it.
        space: the search space.
        kind: what makes its networks.
        spec: how they are built for the job's images, ``space.network(...)``.
        data: the images; None where a table of trained networks takes their place.
        network: the supernet with its heads, where the strategy has one.
    """

    data: ReidData | None = None
    network: ReidNetwork | None = None

    def __init__(self, config: Config) -> None:
        self.config = config
        settings, images = self.settings, config.data
        sizes = {"channels": settings.channels, "cells": settings.cells}
        self.space = load_space(find_shipped_file("search_spaces", settings.space))
        self.kind = kind_of(self.space)
        require_settings(self.space, {name: size is not None for name, size in sizes.items()})
        self.spec = self.space.network(images.height, images.width, **sizes)

    @property
    def settings(self) -> SearchConfig:
        return self.config.section("search")

    def search(self, run: RunFolder) -> AnyGenotype:
        """Return the genotype found; ``run`` keeps what a resumed search needs."""
        raise NotImplementedError

    def origin(self, note: str, epoch: int | None = None) -> Origin:
        """Return the origin of a genotype; ``note`` follows the strategy's name."""
        table = self.settings.trials.table
        data = f"table {table}" if table is not None or self.data is None else self.data.dataset.version
        method = f"{self.settings.strategy}, {note}"
        return Origin(data=data, seed=self.config.seed, epoch=epoch, method=method, version=__version__)

    def with_heads(self, backbone: Any, identities: int) -> ReidNetwork:
        """Return the backbone with a Re-ID head."""
        set_scale(backbone, self.config.dcs.scale)
        height, width = self.config.data.height, self.config.data.width
        return memory_format(ReidNetwork(backbone, identities, height=height, width=width))


def on_one_device(config: Config) -> Config:
    """Return the configuration with a single device; raise ``InputError`` where several are asked for."""
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if devices not in ("auto", "1", 1) or nodes > 1:
        raise InputError(
            f"search.strategy {config.section('search').strategy} runs on one device, but trainer.devices is {devices} "
            f"on {nodes} nodes; set trainer.devices=1 and trainer.num_nodes=1, and choose a GPU by CUDA_VISIBLE_DEVICES"
        )
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"devices": 1})})
