"""Pretraining by the classes of images: the loop of retraining, with another loss and another validation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dcs_nas.config import Config, LossConfig
from dcs_nas.data.augment import Normalize
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.training.joint_batch import gather_batches
from dcs_nas.training.retraining import Retraining

_FIRST = 5


class Pretraining(Retraining):
    """``Retraining`` of which the images held out show the classes that are learnt: their accuracy is measured."""

    shown = ("train/loss", "lr", "validation/top-1", "validation/top-5")

    def measure_held(self) -> dict[str, float]:
        assert self._held is not None
        first, among_first = accuracy(self.evaluated, self._data, self._held)
        return {"validation/top-1": first, "validation/top-5": among_first}


def as_retraining(config: Config) -> Config:
    """Return the settings of a pretraining as those of the retraining that it is; those of other jobs as they are."""
    if config.pretrain is None:
        return config
    loss = LossConfig(triplet_weight=0, label_smoothing=config.pretrain.label_smoothing)
    data = config.data.model_copy(update={"sampler": "shuffle"})
    return config.model_copy(update={"retrain": config.pretrain, "loss": loss, "data": data})


@torch.inference_mode()
def accuracy(network: ReidNetwork, data: ReidData, images: Images) -> tuple[float, float]:
    """Return the share of images whose class has the highest score, and whose class is among the highest five.

    Of several classifiers the mean score counts. The network is left in the mode that it was in. Processes share the
    images, and all get both figures.
    """
    parameter = next(network.parameters())
    normalize = Normalize(data.settings.mean, data.settings.std).to(parameter)
    was_training = network.training
    network.eval()
    own = _hits(network, normalize, data.make_test_loader(images))
    batches = gather_batches(own, count=len(images), size=data.settings.test_batch, device=parameter.device)
    hits = torch.cat(list(batches)).double().mean(0)
    network.train(was_training)
    return float(hits[0]), float(hits[1])


def _hits(network: ReidNetwork, normalize: Normalize, loader: DataLoader) -> Iterator[Tensor]:
    """Yield (n, 2) of each batch, 1 or 0: the image's class is the first, or among the first five."""
    device = normalize.scale.device
    for batch in loader:
        embedding = network.embed(normalize(batch["images"].to(device)), batch["cameras"].to(device))
        assert embedding.logits is not None
        scores = torch.stack(embedding.logits).float().mean(0)
        ranked = scores.topk(min(_FIRST, scores.shape[1])).indices == batch["labels"].to(device)[:, None]
        yield torch.stack([ranked[:, 0], ranked.any(1)], dim=1).float()
