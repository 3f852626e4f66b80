"""The network that ``dcs-nas profile`` measures: of a genotype, a configuration or a run folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from dcs_nas.api import load_settings
from dcs_nas.config import Config, DataConfig, RetrainConfig
from dcs_nas.errors import InputError
from dcs_nas.extensions import load_extensions
from dcs_nas.models.build import build_fixed, build_supernet
from dcs_nas.models.cell_costs import CellCosts
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.space_kinds import kind_of
from dcs_nas.models.supernet import Supernet
from dcs_nas.runs import RunFolder
from dcs_nas.settings import read_yaml
from dcs_nas.space import AnyGenotype, find_shipped_file, genotype_file, is_published, load_genotype, load_space
from dcs_nas.strategies.bilevel import measure_search
from dcs_nas.strategies.proposals import supernet_settings
from dcs_nas.training.memory import StepMemory, measure_retraining

IDENTITIES = 1000  # of the classifier, about as many as benchmarks have


@dataclass(frozen=True)
class Sizes:
    """Sizes that replace those of the target: pixels, width of the first cell, number of cells."""

    height: int | None = None
    width: int | None = None
    channels: int | None = None
    cells: int | None = None


@dataclass(frozen=True)
class Target:
    """A network without its head.

    Attributes:
        title: its description.
        network: the network, for images (3, height, width).
        supernet: True if it holds every candidate.
        costs: the costs of a space of cells.
        config: the settings of the job that trains it, if the target names one.
        with_heads: the network with its heads, if it has a ``config``.
    """

    title: str
    network: nn.Module
    height: int
    width: int
    supernet: bool = False
    costs: CellCosts | None = None
    config: Config | None = None
    with_heads: ReidNetwork | None = None

    def step_memory(self, device: torch.device) -> StepMemory | None:
        """Return the memory of a training step, in the number formats of a GPU; None without a ``config``."""
        if self.config is None or self.with_heads is None:
            return None
        measure = measure_search if self.supernet else measure_retraining
        return measure(self.with_heads, self.config, device=None if device.type == "cpu" else device)


def read_target(path: Path, sizes: Sizes, overrides: list[str]) -> Target:
    """Return the network of a path, or of a name in configs/ or genotypes/.

    Raises:
        InputError: none of the three, or sizes or overrides that the target does not have.
    """
    if path.is_dir():
        return _read_run(path, sizes, overrides)
    path = genotype_file(path)
    published = is_published(path)
    data = read_yaml(path) if path.is_file() and not published else {}
    if published or "format" in data or isinstance(data.get("genotype"), dict):
        _refuse_overrides(path, overrides)
        return _read_genotype(load_genotype(path), sizes, str(path))
    config = load_settings(path, overrides)
    if path == RunFolder(path.parent).config_file and RunFolder(path.parent).is_run():
        RunFolder(path.parent).load_extensions()  # a run's own file, so its code is run on the terms of run folders
    else:
        load_extensions(config.extensions)
    return _read_config(config, sizes, str(path))


def _read_run(path: Path, sizes: Sizes, overrides: list[str]) -> Target:
    _refuse_overrides(path, overrides)
    run = RunFolder(path)
    config, file = run.config(), run.genotype_file
    run.load_extensions()
    searched = config.search is not None and not run.contents().trained
    if config.training is not None and config.training.backbone is not None and not file.is_file():
        return _read_backbone(config, config.training, sizes, str(path))
    if not file.is_file():
        raise InputError(f"{path} has no genotype.yaml yet; finish the run with --resume, or name a genotype file")
    genotype, settings = load_genotype(file), config.training
    if searched or settings is None:
        return _read_genotype(genotype, sizes, str(file))
    trained = Sizes(
        sizes.height or config.data.height,
        sizes.width or config.data.width,
        sizes.channels or settings.channels,
        sizes.cells or settings.cells,
    )
    target = _read_genotype(genotype, trained, str(path))
    size = {"height": target.height, "width": target.width}
    changes = {"channels": trained.channels, "cells": trained.cells, "weights": None}
    settings, data = settings.model_copy(update=changes), config.data.model_copy(update=size)
    return replace(
        target,
        config=config.model_copy(update={"data": data, "retrain": settings}),
        with_heads=build_fixed(settings, data, IDENTITIES, genotype, config.dcs),
    )


def _read_config(config: Config, sizes: Sizes, source: str) -> Target:
    if config.training is not None and config.training.backbone is not None:
        return _read_backbone(config, config.training, sizes, source)
    if config.search is None:
        raise InputError(
            f"{source} names neither a search space (search.space) nor a backbone (retrain.backbone); "
            "profile the genotype that it would train"
        )
    space = load_space(find_shipped_file("search_spaces", config.search.space))
    data = _resize(config.data, sizes)
    title = f"supernet of {config.search.space}, images {data.height} x {data.width}"
    if "channels" not in space.supports:
        _refuse_widths(sizes, f"a {space.kind} space")
    changes = {name: value for name in ("channels", "cells") if (value := getattr(sizes, name)) is not None}
    settings = config.search.model_copy(update=changes)
    if settings.strategy == "proposals":
        settings = supernet_settings(settings)
    network = build_supernet(space, settings, data, IDENTITIES, config.dcs)
    supernet = cast(Supernet, network.backbone)
    return Target(
        title,
        supernet,
        data.height,
        data.width,
        supernet=True,
        costs=supernet.part_costs(),
        config=config.model_copy(update={"data": data, "search": settings}),
        with_heads=network,
    )


def _read_backbone(config: Config, settings: RetrainConfig, sizes: Sizes, source: str) -> Target:
    _refuse_widths(sizes, f"backbone '{settings.backbone}'")
    data = _resize(config.data, sizes)
    network = build_fixed(settings.model_copy(update={"weights": None}), data, IDENTITIES, None, config.dcs)
    title = f"{settings.backbone} of {source}, images {data.height} x {data.width}"
    config = config.model_copy(update={"data": data})
    return Target(title, network.backbone, data.height, data.width, config=config, with_heads=network)


def _read_genotype(genotype: AnyGenotype, sizes: Sizes, source: str) -> Target:
    data = _resize(DataConfig(height=genotype.network.height, width=genotype.network.width), sizes)
    if "channels" not in genotype.supports:
        _refuse_widths(sizes, f"a genotype of a {genotype.kind} space")
    genotype = genotype.resize(data.height, data.width, channels=sizes.channels, cells=sizes.cells)
    kind = kind_of(genotype)
    return Target(
        f"{source}: {genotype.summary()}, images {data.height} x {data.width}",
        kind.build_fixed_network(genotype),
        data.height,
        data.width,
        costs=kind.costs(genotype.space, genotype.network),
    )


def _resize(data: DataConfig, sizes: Sizes) -> DataConfig:
    changes: dict[str, Any] = {"height": sizes.height or data.height, "width": sizes.width or data.width}
    return data.model_copy(update=changes)


def _refuse_overrides(path: Path, overrides: list[str]) -> None:
    if overrides:
        raise InputError(f"{path} is not a configuration, so -o {overrides[0]} has nothing to replace; leave it out")


def _refuse_widths(sizes: Sizes, what: str) -> None:
    for name in ("channels", "cells"):
        if getattr(sizes, name) is not None:
            raise InputError(f"--{name} is {getattr(sizes, name)}, but {what} has its own; leave --{name} out")
