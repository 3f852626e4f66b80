"""The bar of a job: epochs, steps and the time left until its end."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_ESTIMATE_SECONDS = 600  # of the past, from which the time left is estimated


class JobBar(Callback):
    """One bar on standard error for all epochs of a job, which goes when it ends; log lines appear above it.

    Args:
        console: another one, for tests.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console or Console(stderr=True),
            transient=True,
            speed_estimate_period=_ESTIMATE_SECONDS,
        )
        total = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
        self._task = self._bar.add_task(self._epoch(trainer), total=total, completed=self._done(trainer, 0))
        self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=self._epoch(trainer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done(trainer, batch_idx + 1))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @staticmethod
    def _epoch(trainer: pl.Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"

    @staticmethod
    def _done(trainer: pl.Trainer, batches: int) -> int:
        return trainer.current_epoch * int(trainer.num_training_batches) + batches
