"""The supernet as a judge of genotypes: retrieval with inherited weights, without training them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dcs_nas.config import Config
from dcs_nas.data.augment import build_augment
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.errors import InputError
from dcs_nas.models.build import build_supernet
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.supernet import Supernet, recalibrated_statistics
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import seed_everything
from dcs_nas.space import AnyGenotype, load_space, shipped_file
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.features import validate
from dcs_nas.training.joint_batch import average_buffers
from dcs_nas.training.trainer import memory_format


class SupernetScore:
    """mAP, among people that a search has held out, of a genotype with the supernet's own weights.

    Running statistics are measured anew for every genotype (Guo et al., arXiv 1904.00420, section 3.2).

    Args:
        network: the supernet with its heads.
        data: of the search.
        held: images of the people held out.
        batches: augmented training images, to measure statistics on.
        config: of the search.
    """

    def __init__(
        self, network: ReidNetwork, data: ReidData, held: Images, batches: Sequence[Tensor], config: Config
    ) -> None:
        self.network, self.config = network, config
        self._data, self._held, self._batches = data, held, batches

    @property
    def supernet(self) -> Supernet:
        return self.network.backbone  # type: ignore[return-value]

    @torch.no_grad()
    def __call__(self, genotype: AnyGenotype) -> float:
        seed_everything(self.config.seed)
        with self.supernet.fixed_to(genotype), recalibrated_statistics(self.network, self._run):
            return validate(self.network, self._data, self._held, metric=self.config.evaluate.metric)

    def _run(self) -> None:
        for images in self._batches:
            self.network(images)
        average_buffers(self.network)


def supernet_score(folder: Path, *, batches: int = 8) -> SupernetScore:
    """The judge that a finished bilevel search's last checkpoint is; raises ``InputError`` if it held nobody out."""
    config: Config = RunFolder(folder).config()
    settings = config.section("search")
    if not settings.validation:
        raise InputError(f"{folder} held no people out; search with search.validation above 0, e.g. 0.2")
    data = ReidData(config)
    halves, held = data.search_halves(
        share=settings.weight_share, overlap=settings.identity_overlap, validation=settings.validation
    )
    assert held is not None
    space = load_space(shipped_file("search_spaces", settings.space))
    state = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    network = build_supernet(space, settings, config.data, data.num_people, config.dcs)
    network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
    seed_everything(config.seed)
    augment = build_augment(config)
    images = [augment(batch["images"]) for batch in islice(data.identity_loader(halves["weights"], stream=0), batches)]
    return SupernetScore(memory_format(network).eval(), data, held, images, config)
