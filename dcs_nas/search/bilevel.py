"""The bilevel search as a Lightning module.

min over alpha of L_val(w*(alpha), alpha), w*(alpha) = argmin over w of L_train(w, alpha), by alternating steps (DARTS,
arXiv 1806.09055, algorithm 1, first order): alphas on one half of the training images, weights on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.augment import Augment
from dcs_nas.data.datamodule import Batch, Images, file_names
from dcs_nas.losses import Objective
from dcs_nas.models.blocks import kept_shares, set_temperature, temperature
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.supernet import Supernet
from dcs_nas.runs import seed_everything
from dcs_nas.search.record import ArchitectureRecord, alpha_entropy
from dcs_nas.training.objective import Means, batch_terms, require_finite
from dcs_nas.training.trainer import EpochLog


class BilevelSearch(pl.LightningModule):
    """Trains a supernet's weights and alphas in turn; a batch is ``{"weights": ..., "architecture": ...}``.

    Every step seeds the random generators from (seed, epoch, step), so that a resumed search draws what the
    uninterrupted one would have. The architecture step computes no gradients of weights, the weight step none of
    alphas. After every epoch: metrics, alphas and genotype are written, and the information bottleneck's class means
    and Q are renewed.
    """

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        augment: Augment,
        config: Config,
        *,
        halves: dict[str, Images],
        record: ArchitectureRecord,
        epoch_log: EpochLog,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.objective, self.augment, self.config = network, objective, augment, config
        self._halves, self._record, self._log = halves, record, epoch_log
        self._means = Means()

    @property
    def settings(self) -> SearchConfig:
        return self.config.section("search")

    @property
    def supernet(self) -> Supernet:
        return self.network.backbone  # type: ignore[return-value]

    def weights(self) -> list[nn.Parameter]:
        """What the lower level optimizes: the supernet's weights and the heads."""
        alphas = {id(alpha) for alpha in self.supernet.alphas().values()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in alphas]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        s = self.settings
        weights = SGD(self.weights(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        alphas = Adam(
            list(self.supernet.alphas().values()), lr=s.arch_lr, betas=s.arch_betas, weight_decay=s.arch_weight_decay
        )
        return [weights, alphas], [CosineAnnealingLR(weights, T_max=s.epochs, eta_min=s.lr_min)]

    def on_train_epoch_start(self) -> None:
        dcs = self.config.dcs
        set_temperature(self.network, temperature(self.current_epoch, start=dcs.tau, decay=dcs.decay))

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        seed_everything(self.config.seed, self.current_epoch, batch_idx)
        weight_optimizer, alpha_optimizer = self.optimizers()  # type: ignore[attr-defined]
        alphas = list(self.supernet.alphas().values())
        weights = self.weights()
        if self.current_epoch >= self.settings.warmup_epochs:
            with without_gradients(weights):
                self._step(batch["architecture"], "architecture", alpha_optimizer, batch_idx)
        with without_gradients(alphas):
            self._step(batch["weights"], "weights", weight_optimizer, batch_idx, clip=weights)

    def _step(
        self, batch: Batch, half: str, optimizer: Any, index: int, clip: Sequence[nn.Parameter] | None = None
    ) -> None:
        images, labels = self.augment(batch["images"]), batch["labels"]
        embedding = self.network(images)
        terms = batch_terms(self.objective, embedding, labels, images)
        place = f"the {half} step {index + 1} of epoch {self.current_epoch + 1}"
        require_finite(terms, where=place, files=file_names(self._halves[half], batch["indices"]))
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(terms["loss"])
        if clip is not None:
            nn.utils.clip_grad_norm_(clip, self.settings.grad_clip)
            self.objective.update(embedding.features.detach(), labels, images if self.objective.needs_inputs else None)
        optimizer.step()
        self._means.add(terms, f"{half}/")

    def on_train_epoch_end(self) -> None:
        weight_optimizer, _ = self.optimizers()  # type: ignore[attr-defined]
        means = self._means.pop()
        means["lr"] = weight_optimizer.param_groups[0]["lr"]
        means["tau"] = temperature(self.current_epoch, start=self.config.dcs.tau, decay=self.config.dcs.decay)
        shares = list(kept_shares(self.network).values())
        if shares:
            means["dcs_kept"] = float(torch.stack(shares).mean())
        means |= {f"entropy/{k}": v for k, v in alpha_entropy(self.supernet.mixture_weights()).items()}
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.objective.end_epoch()
        if self.trainer.is_global_zero:
            self._record.write(self.supernet, self.current_epoch)
        self._log.write(self, means, show=("weights/loss", "architecture/loss", "weights/ib", "entropy/normal"))


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
