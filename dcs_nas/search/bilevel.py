"""The bilevel search as a Lightning module.

min over alpha of L_val(w*(alpha), alpha), w*(alpha) = argmin over w of L_train(w, alpha), by alternating steps (DARTS,
arXiv 1806.09055, algorithm 1): alphas on one half of the training images, weights on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.augment import Augment
from dcs_nas.data.datamodule import HALVES, Batch, Images
from dcs_nas.losses import Objective, PrototypeMemory
from dcs_nas.models.blocks import set_temperature
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.supernet import MixedNetwork, frozen_statistics
from dcs_nas.processes import rank
from dcs_nas.search.gradients import WeightStep, second_order
from dcs_nas.search.monitor import Watch
from dcs_nas.search.passes import Pass, SearchLoss
from dcs_nas.seeds import seed_everything
from dcs_nas.training.acceleration import eager, fused, is_scaled
from dcs_nas.training.channel_selection import channel_figures
from dcs_nas.training.joint_batch import average_buffers, sum_gradients, sum_over_processes
from dcs_nas.training.nonfinite import StepGuard, clip_gradients
from dcs_nas.training.objective import Means, refresh_objective
from dcs_nas.training.trainer import EpochLog


class BilevelSearch(pl.LightningModule):
    """Trains a supernet's weights and alphas in turn; a batch is ``{"weights": ..., "architecture": ...}``.

    Every pass seeds the random generators from (seed, epoch, step, half), so that a resumed search draws what the
    uninterrupted one would have, and the passes of a second-order step draw the same. The architecture step computes no
    gradients of weights (order 1), the weight step none of alphas.

    ``watch`` sees every epoch's end and gives figures to log.

    Attributes:
        weights: what the lower level optimizes, the supernet's weights and the heads.
        alphas: what the upper level optimizes.
    """

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        augment: Augment,
        config: Config,
        *,
        halves: dict[str, Images],
        people: int,
        epoch_log: EpochLog,
        watch: Watch,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.objective, self.augment, self.config = network, objective, augment, config
        self.memory: PrototypeMemory | None = None
        if self.settings.identity_overlap < 1:
            self.memory = PrototypeMemory(num_people=people, feature_dim=network.num_features)
        self.loss = SearchLoss(network, objective, self.memory, config, halves=halves)
        self.recent: Pass | None = None
        self.alphas = list(self.supernet.alphas().values())
        upper = {id(alpha) for alpha in self.alphas}
        lower = [(n, p) for n, p in network.named_parameters() if p.requires_grad and id(p) not in upper]
        self._named = {"weights": lower, "architecture": list(self.supernet.alphas().items())}
        self.weights = [p for _, p in lower]
        self._guard = StepGuard(self, skip=config.trainer.nonfinite == "skip")
        self._log, self._watch, self._means = epoch_log, watch, Means()

    @property
    def settings(self) -> SearchConfig:
        return self.config.section("search")

    @property
    def supernet(self) -> MixedNetwork:
        return self.network.backbone  # type: ignore[return-value]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        s = self.settings
        centers = list(self.objective.parameters())
        weights = SGD(self.weights + centers, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay, **fused(self))
        alphas = Adam(self.alphas, lr=s.arch_lr, betas=s.arch_betas, weight_decay=s.arch_weight_decay, **fused(self))
        return [weights, alphas], [CosineAnnealingLR(weights, T_max=s.epochs, eta_min=s.lr_min)]

    def on_train_epoch_start(self) -> None:
        self.start_epoch(self.current_epoch)

    def start_epoch(self, epoch: int) -> None:
        """Set the temperatures of an epoch, from 0; random draws are of this epoch from now on."""
        s, self._epoch = self.settings, epoch
        set_temperature(self.network, self.config.dcs.temperature(epoch))
        self.supernet.set_temperature(s.relaxation.at(epoch, s.epochs))

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        seed_everything(self.config.seed, self.current_epoch, batch_idx, rank())
        with self._guard.step():
            passes = {half: self.prepare(half, batch[half], batch_idx) for half in HALVES}
            weight_optimizer, alpha_optimizer = self.optimizers()  # type: ignore[attr-defined]
            if self.current_epoch >= self.settings.warmup_epochs:
                self._architecture_step(passes, weight_optimizer, alpha_optimizer)
            self._weight_step(passes["weights"], weight_optimizer)
            self.recent = passes["architecture"]

    def prepare(self, half: str, batch: Batch, step: int) -> Pass:
        """A batch of one half, augmented, on the module's device."""
        place = f"the {half} step {step + 1} of epoch {self._epoch + 1}"
        key = (self.config.seed, self._epoch, step)
        return Pass(self.loss, half, batch, self.augment(batch["images"]), key=key, place=place)

    def _architecture_step(self, passes: dict[str, Pass], weight_optimizer: Any, optimizer: Any) -> None:
        alphas = self.alphas
        optimizer.zero_grad(set_to_none=True)
        if self.settings.order == 1:
            with without_gradients(self.weights):
                self.manual_backward(passes["architecture"].loss())
            sum_gradients(alphas)
        else:
            group = weight_optimizer.param_groups[0]
            weights = self.weights
            state = weight_optimizer.state
            step = WeightStep(
                lr=group["lr"],
                momentum=group["momentum"],
                weight_decay=group["weight_decay"],
                buffers=[state[w].get("momentum_buffer") if w in state else None for w in weights],
            )
            with frozen_statistics(self.network):
                found = second_order(
                    passes["weights"].loss,
                    passes["architecture"].loss,
                    weights,
                    alphas,
                    step,
                    hessian=self.settings.hessian,
                    reduce=sum_over_processes,
                )
            for alpha, gradient in zip(alphas, found):
                alpha.grad = gradient
        self._current = passes["architecture"]
        optimizer.step()
        self._finish(passes["architecture"])

    def _weight_step(self, current: Pass, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with without_gradients(self.alphas):
            self.manual_backward(current.loss())
            sum_gradients([*self.weights, *self.objective.parameters()])
            self._current = current
            optimizer.step()
        self._finish(current)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Check gradients and clip the weights', after a scaler has given them their size back."""
        current = self._current
        clip_gradients(
            self._named[current.half],
            self.settings.grad_clip if current.half == "weights" else None,
            scaled=is_scaled(self),
            where=current.place,
            files=current.files,
        )

    def _finish(self, current: Pass) -> None:
        """Log the terms of a step and learn the statistics of its people."""
        self._means.add(current.terms, f"{current.half}/")
        if current.half == "weights" or self.memory is not None:
            self.objective.update(current.features, current.labels, current.inputs)
        if self.memory is not None:
            self.memory.update(current.features, current.labels)

    def on_train_epoch_end(self) -> None:
        means = self._means.pop() | self._guard.end_epoch()
        weight_optimizer, _ = self.optimizers()  # type: ignore[attr-defined]
        means["lr"] = weight_optimizer.param_groups[0]["lr"]
        means["relaxation_temperature"] = self.settings.relaxation.at(self.current_epoch, self.settings.epochs)
        means |= channel_figures(self.network, self.config.dcs, self.current_epoch)
        self.lr_schedulers().step()  # type: ignore[union-attr]
        average_buffers(self.network)
        learned = [images for half, images in self.loss.halves.items() if half == "weights" or self.memory is not None]
        with self.supernet.drawn(expected=True):
            refresh_objective(self.objective, self.network, learned, self.config)
        with eager(self.config.trainer):
            means |= self._watch.after_epoch(self.current_epoch, self.loss, self.recent)
        self.recent = None
        if self._watch.stopped:
            self.trainer.should_stop = True
        shown = ("weights/loss", "architecture/loss", "weights/ib", "entropy/normal", "skips/normal", "validation/mAP")
        self._log.write(self, means, show=shown)

    def on_train_start(self) -> None:
        if self._watch.stopped:  # resumed after the end
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["watch"] = self._watch.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._watch.load(checkpoint["watch"])


@contextmanager
def without_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Within it, backward passes compute no gradients of these parameters."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
