"""The supernet of a finished search, and a fixed network that starts from its weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

from torch import nn

from dcs_nas.config import Config
from dcs_nas.errors import InputError
from dcs_nas.models.build import build_supernet
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.supernet import Supernet
from dcs_nas.runs import RunFolder
from dcs_nas.space import AnyGenotype, Space, find_shipped_file, load_space
from dcs_nas.training.checkpoints import load_checkpoint, select_network

log = logging.getLogger(__name__)
_AFFINE = (nn.BatchNorm2d, nn.InstanceNorm2d)  # whose scales and shifts a supernet of cells lacks


def load_supernet(folder: Path) -> tuple[Config, Space, ReidNetwork]:
    """Return the settings, space and trained supernet of a bilevel search's run folder, or of ``proposals``.

    Raises:
        InputError: the folder holds no search, or one without a supernet.
    """
    inner = RunFolder(folder / "supernet")
    run = inner if inner.is_run() else RunFolder(folder)
    config = run.config()
    if config.search is None:
        raise InputError(f"{folder} is no search run: its config.yaml has no section 'search'; name one")
    space = load_space(find_shipped_file("search_spaces", config.search.space))
    path = run.checkpoint("last")
    state = select_network(load_checkpoint(path))
    classifier = state.get("heads.0.classifier.weight")
    if classifier is None or not any(".mixtures." in key for key in state):
        raise InputError(f"{path} holds no supernet; give the folder of a finished search with one")
    network = build_supernet(space, config.search, config.data, len(classifier), config.dcs)
    network.load_state_dict(state)
    return config, space, network


def inherit(network: ReidNetwork, genotype: AnyGenotype, folder: Path) -> None:
    """Load the weights that ``genotype`` has in the supernet of the search run ``folder`` into ``network``'s backbone.

    Scales and shifts that a supernet of cells does not have are unchanged.

    Raises:
        InputError: a folder without a search, or a genotype of another space, width, depth or image size.
    """
    _, space, supernet = load_supernet(folder)
    genotype.require_space(space, source="the genotype to train")
    inherited = cast(Supernet, supernet.backbone).inherit_state(genotype)
    modules = dict(network.backbone.named_modules())
    try:
        missing, unexpected = network.backbone.load_state_dict(inherited, strict=False)
        missing_too = [name for name in missing if not isinstance(modules[name.rpartition(".")[0]], _AFFINE)]
        for names, place in ((missing_too, "the network"), (unexpected, "the supernet")):
            if names:
                raise RuntimeError(f"{names[0]} is in {place} alone")
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise InputError(
            f"the supernet of {folder} has other sizes than the network to train ({detail}); "
            "train at the search's width, depth and image size, or without retrain.inherit"
        ) from None
    log.info("%s: %d tensors inherited, %d newly initialised", folder, len(inherited), len(missing))
