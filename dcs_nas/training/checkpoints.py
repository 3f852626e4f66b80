"""Checkpoints of a run: ``checkpoints/last.ckpt`` after every epoch, ``best.ckpt`` where a score chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path


class EpochCheckpoint(Checkpoint):
    """Saves everything a run needs to go on, after every epoch, over the one before and never in part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        save_checkpoint(trainer, self.folder / "last.ckpt")


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Lightning's checkpoint, atomically; every rank calls it, one writes."""
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    if trainer.is_global_zero:
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)
    trainer.strategy.barrier("save_checkpoint")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU, tensors and plain data alone; ``InputError`` for anything else."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; has the run finished an epoch?")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make its parser raise anything
        raise InputError(f"{path} is damaged or no checkpoint of ours ({type(error).__name__})") from None
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise InputError(f"{path} holds no 'state_dict'; expected a checkpoint written by dcs-nas")
    return loaded
