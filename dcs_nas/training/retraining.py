"""Training of a fixed network as a Lightning module: identity, triplet, center and IB terms (section 7 of DCS, BoT)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from dcs_nas.config import Config, RetrainConfig
from dcs_nas.data.augment import Augment
from dcs_nas.data.datamodule import Batch, Images, ReidData, file_names
from dcs_nas.losses import Objective
from dcs_nas.models.blocks import set_temperature
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.processes import rank, world
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import seed_everything
from dcs_nas.training.acceleration import fused, is_scaled
from dcs_nas.training.channel_selection import channel_figures
from dcs_nas.training.checkpoints import save_checkpoint
from dcs_nas.training.joint_batch import average_buffers, joint, joint_embedding, sum_gradients
from dcs_nas.training.nonfinite import StepGuard, clip_gradients, require_finite
from dcs_nas.training.objective import Means, batch_terms, refresh_objective, update_objective
from dcs_nas.training.schedule import learning_rate_factor
from dcs_nas.training.trainer import EpochLog
from dcs_nas.training.validation import validate, validation_is_due


class Retraining(pl.LightningModule):
    """Trains ``network`` on P x K batches; every step is seeded from (seed, epoch, step).

    Where ``validation`` images are given, their mAP is measured every ``validate_every`` epochs, and the best so far is
    kept as ``checkpoints/best.ckpt``.
    """

    best_score: Tensor

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        augment: Augment,
        config: Config,
        *,
        data: ReidData,
        images: Images,
        validation: Images | None,
        run: RunFolder,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.objective, self.augment, self.config = network, objective, augment, config
        self._data, self._images, self._validation, self._run = data, images, validation, run
        self._log, self._means = EpochLog(run), Means()
        self._guard = StepGuard(self, skip=config.trainer.nonfinite == "skip")
        self.register_buffer("best_score", torch.tensor(-1.0))

    @property
    def settings(self) -> RetrainConfig:
        return self.config.section("retrain")

    def configure_optimizers(self) -> list[Optimizer]:
        s = self.settings
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        kinds: dict[str, Any] = {
            "adam": lambda: Adam(parameters, lr=s.lr, weight_decay=s.weight_decay, **fused(self)),
            "adamw": lambda: AdamW(parameters, lr=s.lr, weight_decay=s.weight_decay, **fused(self)),
            "sgd": lambda: SGD(parameters, lr=s.lr, weight_decay=s.weight_decay, momentum=s.momentum, **fused(self)),
        }
        centers = list(self.objective.parameters())
        return [kinds[s.optimizer](), *([SGD(centers, lr=s.center_lr)] if centers else [])]

    def on_train_epoch_start(self) -> None:
        set_temperature(self.network, self.config.dcs.temperature(self.current_epoch))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        seed_everything(self.config.seed, self.current_epoch, batch_idx, rank())
        self._place = f"step {batch_idx + 1} of epoch {self.current_epoch + 1}"
        self._files = file_names(self._images, batch["indices"])
        with self._guard.step():
            self._step(batch, batch_idx)

    def _step(self, batch: Batch, batch_idx: int) -> None:
        own, labels = self.augment(batch["images"]), joint(batch["labels"])
        embedding = joint_embedding(self.network(own, batch["cameras"]))
        images = joint(own) if self.objective.needs_inputs else None
        terms = batch_terms(self.objective, embedding, labels, images)
        require_finite(terms, where=self._place, files=self._files)
        network, *centers = self._optimizers()
        for optimizer in (network, *centers):
            optimizer.zero_grad(set_to_none=True)
        self.manual_backward(terms["loss"] / world())
        sum_gradients([*self.network.parameters(), *self.objective.parameters()])
        self._set_learning_rate(network, batch_idx)
        network.step()
        for optimizer in centers:  # centres learn at their own pace, whatever weight the term has (BoT)
            for center in self.objective.parameters():
                if center.grad is not None:
                    center.grad /= self.config.loss.center_weight
            optimizer.step()
        update_objective(self.objective, embedding, labels, images)
        self._means.add(terms, "train/")

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Check and clip the network's gradients, after a scaler has given them their size back."""
        if optimizer is self.trainer.optimizers[0]:
            clip_gradients(
                self.network.named_parameters(),
                self.settings.grad_clip,
                scaled=is_scaled(self),
                where=self._place,
                files=self._files,
            )

    def on_train_epoch_end(self) -> None:
        average_buffers(self.network)
        means = self._means.pop() | self._guard.end_epoch()
        means["lr"] = self._optimizers()[0].param_groups[0]["lr"]
        means |= channel_figures(self.network, self.config.dcs, self.current_epoch)
        refresh_objective(self.objective, self.network, [self._images], self.config)
        s = self.settings
        if self._validation is not None and validation_is_due(self.current_epoch, s.validate_every, s.epochs):
            means["validation/mAP"] = self._validate()
        self._log.write(self, means, show=("train/loss", "train/identity", "train/triplet", "lr", "validation/mAP"))

    def _optimizers(self) -> list[Any]:
        found = self.optimizers()
        return list(found) if isinstance(found, (list, tuple)) else [found]

    def _set_learning_rate(self, optimizer: Any, batch_idx: int) -> None:
        epoch = self.current_epoch + batch_idx / max(1, int(self.trainer.num_training_batches))
        for group in optimizer.param_groups:
            group["lr"] = self.settings.lr * learning_rate_factor(epoch, self.settings)

    def _validate(self) -> float:
        assert self._validation is not None
        score = validate(self.network, self._data, self._validation, metric=self.config.evaluate.metric)
        if score > float(self.best_score):
            self.best_score.fill_(score)
            save_checkpoint(self.trainer, self._run / "checkpoints" / "best.ckpt")
        return score
