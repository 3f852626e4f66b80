"""The training loop that search, retraining and trial trainings share, as a Lightning module."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dcs_nas.config import Config
from dcs_nas.data.augment import build_augment
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.files import name_path_in_errors
from dcs_nas.losses import Objective
from dcs_nas.models.blocks import read_kept_shares, set_temperature
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.latency import device_name
from dcs_nas.processes import get_rank
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import seed_everything
from dcs_nas.training.acceleration import is_scaled
from dcs_nas.training.features import validate
from dcs_nas.training.joint_batch import average_buffers
from dcs_nas.training.memory import GIB
from dcs_nas.training.nonfinite import StepGuard, clip_gradients

log = logging.getLogger(__name__)
Named = Sequence[tuple[str, nn.Parameter]]


class TrainingLoop(pl.LightningModule):
    """A network in training; a subclass defines the step and the figures of an epoch.

    Every step is seeded from (seed, epoch, step, rank), so that a resumed run draws what the uninterrupted one would
    have. A step whose loss or gradients are not finite ends the job, or is left out (``trainer.nonfinite``). The means
    of an epoch, the learning rate and DCS-Attention's figures become a row of ``metrics.csv``, a point of every logger
    and, of those named in ``shown``, a line of the log.

    Args:
        network: the network with its heads.
        objective: the loss.
        config: the settings of the job.
        run: its run folder.
        data: its data.
        held: images of identities held out of the training, or None.

    Attributes:
        checked: for each optimizer in turn, the parameters whose gradients are checked, and their largest joint norm.
    """

    shown: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        config: Config,
        *,
        run: RunFolder,
        data: ReidData,
        held: Images | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.objective, self.config, self.augment = network, objective, config, build_augment(config)
        self.checked: list[tuple[Named, float | None]] = []
        self._run, self._data, self._held = run, data, held
        self._means, self._guard = Means(), StepGuard(self, skip=config.trainer.nonfinite == "skip")
        self._place, self._files, self._peak = "", [""], 0

    @property
    def settings(self) -> Any:
        """The job's section of the settings, with ``epochs`` and ``validate_every``."""
        raise NotImplementedError

    def step(self, batch: Any, batch_idx: int) -> None:
        """Make one step of the optimizers."""
        raise NotImplementedError

    def after_epoch(self) -> dict[str, float]:
        """Refresh the class statistics and return further figures of the epoch."""
        raise NotImplementedError

    def optimizer_list(self) -> list[Any]:
        """Return the optimizers, wrapped by Lightning."""
        optimizers = self.optimizers()
        return list(optimizers) if isinstance(optimizers, (list, tuple)) else [optimizers]

    def on_train_start(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if self.trainer.is_global_zero:
            log.info("%s", self._facts())

    def _facts(self) -> str:
        """Return device, precision, size and batches of the job."""
        images = self.config.data.batch_size
        parameters = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        return (
            f"{device_name(self.device)}, {self.config.trainer.precision}: {parameters:,} parameters, "
            f"{self.trainer.num_training_batches:,} batches of {images} images an epoch"
        )

    def _log_memory(self) -> None:
        """Log the peak of a GPU's memory that tensors took, when it has grown."""
        if self.device.type != "cuda":
            return
        peak = torch.cuda.max_memory_allocated(self.device)
        if peak > 1.05 * self._peak:
            self._peak = peak
            whole = torch.cuda.get_device_properties(self.device).total_memory
            log.info("peak memory of tensors so far: %.1f of %.0f GiB", peak / GIB, whole / GIB)

    def on_train_epoch_start(self) -> None:
        set_temperature(self.network, self.config.dcs.temperature(self.current_epoch))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        seed_everything(self.config.seed, self.current_epoch, batch_idx, get_rank())
        with self._guard.step():
            self.step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Check and clip gradients, after a scaler has unscaled them."""
        index = next(i for i, own in enumerate(self.trainer.optimizers) if own is optimizer)
        if index < len(self.checked):
            named, max_norm = self.checked[index]
            clip_gradients(named, max_norm, scaled=is_scaled(self), where=self._place, files=self._files)

    def on_train_epoch_end(self) -> None:
        average_buffers(self.network)
        figures = self._means.pop() | self._guard.end_epoch() | self.rates()
        figures["tau"] = self.config.dcs.temperature(self.current_epoch)
        shares = [share for share in read_kept_shares(self.network).values() if not share.isnan()]
        if shares:  # of the channels kept by the DCS blocks that the last pass ran
            figures["dcs_kept"] = float(torch.stack(shares).mean())
        figures |= self.after_epoch()
        if self.trainer.is_global_zero:
            self._log_epoch(figures)
            self._log_memory()

    def rates(self) -> dict[str, float]:
        """Return ``lr``, the learning rate of the weights in the epoch's last step."""
        return {"lr": float(self.trainer.optimizers[0].param_groups[0]["lr"])}

    def is_measured(self) -> bool:
        """Return whether retrieval is measured after this epoch: each n-th, and the last."""
        after = self.current_epoch + 1
        return after % self.settings.validate_every == 0 or after == self.trainer.max_epochs

    def validation_is_due(self) -> bool:
        """Return whether identities are held out and to be ranked after this epoch."""
        return self._held is not None and self.is_measured()

    @property
    def evaluated(self) -> ReidNetwork:
        """The network that is validated."""
        return self.network

    def validate(self) -> float:
        """Return the mAP of the identities held out."""
        assert self._held is not None
        return validate(self.evaluated, self._data, self._held, metric=self.config.evaluate.metric)

    def _log_epoch(self, figures: Mapping[str, float]) -> None:
        epoch = self.current_epoch
        self._run.write_metrics(epoch, figures)
        for logger in self.loggers:
            with name_path_in_errors(self._run.path):
                logger.log_metrics(dict(figures), step=epoch)
                logger.save()
        shown = ", ".join(f"{name} {figures[name]:.4g}" for name in self.shown if name in figures)
        log.info("epoch %d/%s: %s", epoch + 1, self.trainer.max_epochs, shown)


class Means:
    """Running means of named scalars over an epoch, kept on their device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], prefix: str = "") -> None:
        for name, value in values.items():
            key = prefix + name
            total = self._sums.get(key)
            self._sums[key] = value.detach().float() if total is None else total + value.detach().float()
            self._counts[key] = self._counts.get(key, 0) + 1

    def pop(self) -> dict[str, float]:
        """Return the means and start again."""
        means = {key: float(total) / self._counts[key] for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
