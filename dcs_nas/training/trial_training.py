"""A short training of a fixed network and its score, by which strategies of many trials compare architectures."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.augment import Augment, build_augment
from dcs_nas.data.datamodule import Batch, Images, ReidData, file_names
from dcs_nas.losses import Objective
from dcs_nas.models.blocks import set_temperature
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import seed_everything
from dcs_nas.training.acceleration import is_scaled
from dcs_nas.training.nonfinite import StepGuard, clip_gradients, require_finite
from dcs_nas.training.objective import Means, batch_terms, build_objective, update_objective
from dcs_nas.training.trainer import EpochLog, fit, make_trainer, without_known_warnings
from dcs_nas.training.validation import validate


def train_and_score(
    network: ReidNetwork, config: Config, *, data: ReidData, images: Images, held: Images, run: RunFolder
) -> float:
    """mAP on the people ``held`` out after ``search.trials.epochs`` on ``images`` (classes from 0).

    The network learns as a search's weights do: SGD, ``search.lr`` down to ``search.lr_min`` by a cosine. The same
    network and settings give the same score. ``run`` keeps metrics and checkpoint; an interrupted training goes on
    from its last whole epoch.
    """
    people = len(set(images.labels.tolist()))
    objective = build_objective(config.loss, people=people, features=network.num_features)
    module = _ShortTraining(
        network, objective, build_augment(config), config, data=data, images=images, held=held, run=run
    )
    loader = data.identity_loader(images, stream=9)
    with without_known_warnings():
        fit(make_trainer(config, run, epochs=module.epochs), module, loader, run)
    return float(module.score)


class _ShortTraining(pl.LightningModule):
    """Every step is seeded from (seed, epoch, step); ``score`` is the mAP after the last epoch, NaN before."""

    score: Tensor

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        augment: Augment,
        config: Config,
        *,
        data: ReidData,
        images: Images,
        held: Images,
        run: RunFolder,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.objective, self.augment, self.config = network, objective, augment, config
        self._data, self._images, self._held = data, images, held
        self._log, self._means = EpochLog(run), Means()
        self._guard = StepGuard(self, skip=config.trainer.nonfinite == "skip")
        self.register_buffer("score", torch.tensor(float("nan")))

    @property
    def settings(self) -> SearchConfig:
        return self.config.section("search")

    @property
    def epochs(self) -> int:
        return self.settings.trials.epochs

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        s = self.settings
        optimizer = SGD(self._weights(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        return [optimizer], [CosineAnnealingLR(optimizer, T_max=self.epochs, eta_min=s.lr_min)]

    def on_train_epoch_start(self) -> None:
        set_temperature(self.network, self.config.dcs.temperature(self.current_epoch))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        seed_everything(self.config.seed, self.current_epoch, batch_idx)
        with self._guard.step():
            self._step(batch, batch_idx)

    def _step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = self.augment(batch["images"]), batch["labels"]
        embedding = self.network(images, batch["cameras"])
        terms = batch_terms(self.objective, embedding, labels, images)
        place = f"step {batch_idx + 1} of epoch {self.current_epoch + 1}"
        files = file_names(self._images, batch["indices"])
        self._place, self._files = place, files
        require_finite(terms, where=place, files=files)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(terms["loss"])
        optimizer.step()
        update_objective(self.objective, embedding, labels, images)
        self._means.add(terms, "train/")

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Check and clip the gradients, after a scaler has given them their size back."""
        clip = self.settings.grad_clip
        named = self.named_parameters()
        clip_gradients(named, clip, scaled=is_scaled(self), where=self._place, files=self._files)

    def on_train_epoch_end(self) -> None:
        means = self._means.pop() | self._guard.end_epoch()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.objective.end_epoch()
        if self.current_epoch + 1 == self.epochs:
            self.score.fill_(validate(self.network, self._data, self._held, metric=self.config.evaluate.metric))
            means["validation/mAP"] = float(self.score)
        self._log.write(self, means, show=("train/loss", "validation/mAP"))

    def _weights(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]
