"""Where the time of a real training run goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from measure import Clock


class StepTimer(pl.Callback):
    """Seconds of the steps of a run by ``search`` or ``retrain``, without its first epoch and the ends of epochs.

    ``seconds``: ``all`` from the first to the last step of an epoch, of it ``step`` within ``training_step``, of that
    ``augment``, and ``network``: forward passes, backward passes and optimizers. What ``all`` has beyond ``step`` is
    the loader's and Lightning's, what ``step`` has beyond its parts the losses', checks' and seeds'.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock, self.steps, self.images = clock, 0, 0
        self.seconds = dict.fromkeys(("all", "step", "augment", "network"), 0.0)
        self._counts, self._began = False, 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._time(pl_module, "training_step", "step")
        self._time(pl_module, "manual_backward", "network")
        self._time(pl_module.augment, "forward", "augment")
        self._time(pl_module.network, "forward", "network")
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(lambda *_: setattr(self, "_step_began", self.clock()))
            optimizer.register_step_post_hook(lambda *_: self._add("network", self._step_began))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._counts, self._began = trainer.current_epoch > 0, self.clock()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._counts:
            parts = [batch] if "images" in batch else list(batch.values())
            self.images += sum(len(part["images"]) for part in parts)
            self.steps += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._add("all", self._began)
        self._counts = False

    @property
    def shares(self) -> dict[str, float]:
        """Shares of all time: data (loader and augmentation) and Lightning, the network, and the rest of the step."""
        s = self.seconds
        return {
            "loader and Lightning": (s["all"] - s["step"]) / s["all"],
            "augmentation": s["augment"] / s["all"],
            "losses, checks, seeds": (s["step"] - s["augment"] - s["network"]) / s["all"],
            "network": s["network"] / s["all"],
        }

    def _add(self, part: str, began: float) -> None:
        if self._counts:
            self.seconds[part] += self.clock() - began

    def _time(self, owner: Any, method: str, part: str) -> None:
        inner = getattr(owner, method)

        def timed(*arguments: Any, **settings: Any) -> Any:
            began = self.clock()
            try:
                return inner(*arguments, **settings)
            finally:
                self._add(part, began)

        setattr(owner, method, timed)


@contextmanager
def timed_by(timer: StepTimer) -> Iterator[None]:
    """Within it, every run of Lightning's trainer is timed."""
    fit = pl.Trainer.fit

    def fit_timed(trainer: pl.Trainer, *arguments: Any, **settings: Any) -> None:
        trainer.callbacks.insert(0, timer)  # type: ignore[attr-defined]
        fit(trainer, *arguments, **settings)

    pl.Trainer.fit = fit_timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        pl.Trainer.fit = fit  # type: ignore[method-assign]
