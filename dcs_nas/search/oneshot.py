"""NNI's one-shot strategies on our space: its supernet cells, its alternating steps, our data and loss.

E edges of a cell, O candidates that compute something, A candidates of attention.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.augment import Augment
from dcs_nas.data.datamodule import HALVES, Batch, Images, file_names
from dcs_nas.files import write_text
from dcs_nas.losses import Objective
from dcs_nas.models.blocks import set_temperature
from dcs_nas.models.cell_space import CellSpace
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.nni_imports import DifferentiableMixedCell, DifferentiableMixedLayer, LightningModule
from dcs_nas.seeds import seed_everything
from dcs_nas.settings import plain_yaml
from dcs_nas.space import Genotype
from dcs_nas.training.channel_selection import channel_figures
from dcs_nas.training.nonfinite import require_finite
from dcs_nas.training.objective import Means, batch_terms, update_objective
from dcs_nas.training.trainer import EpochLog
from dcs_nas.training.validation import validation_is_due


class OneShotTraining(LightningModule):
    """What NNI asks of its user: the loss of a batch and the optimizer of the weights.

    NNI's own module wraps this one. It calls ``training_step`` with even numbers for the architecture's half of the
    images and odd ones for the weights', steps both optimizers, and hands the hooks of an epoch on. ``validation``
    gives the supernet's mAP, logged every ``validate_every`` epochs. ``after_epoch`` is called with each epoch (from 0)
    once it is over.
    """

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        augment: Augment,
        config: Config,
        *,
        halves: dict[str, Images],
        validation: Callable[[], float] | None,
        epoch_log: EpochLog,
    ) -> None:
        super().__init__()
        self.network, self.objective, self.augment, self.config = network, objective, augment, config
        self._halves, self._log, self._means = halves, epoch_log, Means()
        self._validation = validation
        self.after_epoch: Callable[[int], None] = lambda epoch: None

    @property
    def model(self) -> nn.Module:
        """The supernet, where NNI looks for it."""
        return self.network.backbone

    @property
    def settings(self) -> SearchConfig:
        return self.config.section("search")

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """NNI takes the alphas out of this optimizer and adds its own for them."""
        s = self.settings
        parameters = [p for p in self.parameters() if p.requires_grad]
        weights = SGD(parameters, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        return [weights], [CosineAnnealingLR(weights, T_max=s.epochs, eta_min=s.lr_min)]

    def on_train_epoch_start(self) -> None:
        self._lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        set_temperature(self.network, self.config.dcs.temperature(self.current_epoch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        half = HALVES[1 - batch_idx % 2]
        seed_everything(self.config.seed, self.current_epoch, batch_idx)
        images, labels = self.augment(batch["images"]), batch["labels"]
        embedding = self.network(images)
        terms = batch_terms(self.objective, embedding, labels, images)
        place = f"the {half} step {batch_idx // 2 + 1} of epoch {self.current_epoch + 1}"
        require_finite(terms, where=place, files=file_names(self._halves[half], batch["indices"]), skippable=False)
        if half == "weights":
            update_objective(self.objective, embedding, labels, images)
        self._means.add(terms, f"{half}/")
        return terms["loss"]

    def on_train_epoch_end(self) -> None:
        means = self._means.pop()
        means["lr"] = self._lr
        means |= channel_figures(self.network, self.config.dcs, self.current_epoch)
        self.objective.end_epoch()
        s = self.settings
        if self._validation is not None and validation_is_due(self.current_epoch, s.validate_every, s.epochs):
            means["validation/mAP"] = self._validation()
        if self.trainer.is_global_zero:
            self.after_epoch(self.current_epoch)
        self._log.write(self, means, show=("weights/loss", "architecture/loss", "weights/ib", "validation/mAP"))


def architecture_parameters(supernet: CellSpace) -> dict[str, Tensor]:
    """NNI's alphas by name: (E, O + 1) of a kind of cell, whose last column stands for no edge, and (1, A)."""
    found: dict[str, Tensor] = {}
    for module in supernet.modules():
        if isinstance(module, (DifferentiableMixedCell, DifferentiableMixedLayer)):
            found[str(module.label)] = torch.stack([alpha.detach() for alpha in module.arch_parameters()])
    return found


def write_architecture(path: Path, supernet: CellSpace, genotype: Genotype, epoch: int) -> None:
    """The record of an epoch as our own search writes it; NNI's weight of no edge stands under ``none``."""
    operations = [name for name in genotype.space.operations if name != "none"]
    alphas = architecture_parameters(supernet)
    content = {
        "epoch": epoch,
        "names": {"operations": [*operations, "none"], "attention": list(genotype.space.attention)},
        "alphas": {name: rows.tolist() for name, rows in alphas.items()},
        "weights": {name: torch.softmax(rows, dim=-1).tolist() for name, rows in alphas.items()},
        "genotype": genotype.model_dump(mode="json", by_alias=True),
    }
    write_text(path, plain_yaml(content))
