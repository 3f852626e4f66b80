"""How a trained supernet judges a genotype, without training it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch

from dcs_nas.config import Config
from dcs_nas.data.augment import build_augment
from dcs_nas.data.datamodule import ReidData
from dcs_nas.errors import InputError
from dcs_nas.models.build import build_supernet
from dcs_nas.models.mixed_network import MixedNetwork
from dcs_nas.models.statistics import recalibrated_statistics
from dcs_nas.runs import RunFolder, seed_everything
from dcs_nas.space import AnyGenotype, load_space, shipped_file
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.trainer import memory_format
from dcs_nas.training.validation import validate


class SupernetScore:
    """mAP, among people that a search has held out, of a genotype with the search's own weights.

    Running statistics are measured anew for every genotype, on ``batches`` of the weights' half (Guo et al., arXiv
    1904.00420, section 3.2).

    Args:
        folder: of a finished bilevel search with ``search.validation`` above 0.
        batches: to measure statistics on.
    """

    def __init__(self, folder: Path, *, batches: int = 8) -> None:
        self.config: Config = RunFolder(folder).config()
        settings = self.config.section("search")
        if not settings.validation:
            raise InputError(f"{folder} held no people out; search with search.validation above 0, e.g. 0.2")
        self._data = ReidData(self.config)
        halves, held = self._data.search_halves(
            share=settings.weight_share, overlap=settings.identity_overlap, validation=settings.validation
        )
        assert held is not None
        self._held = held
        space = load_space(shipped_file("search_spaces", settings.space))
        state = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
        network = build_supernet(space, settings, self.config.data, self._data.num_people)
        network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
        self.network = memory_format(network).eval()
        loader = self._data.identity_loader(halves["weights"], stream=0)
        augment = build_augment(self.config)
        seed_everything(self.config.seed)
        self._images = [augment(batch["images"]) for batch in islice(loader, batches)]

    @property
    def supernet(self) -> MixedNetwork:
        return self.network.backbone

    @torch.no_grad()
    def __call__(self, genotype: AnyGenotype) -> float:
        seed_everything(self.config.seed)
        with self.supernet.fixed_to(genotype), recalibrated_statistics(self.network, self._run):
            return validate(self.network, self._data, self._held, metric=self.config.evaluate.metric)

    def _run(self) -> None:
        for images in self._images:
            self.network(images)
