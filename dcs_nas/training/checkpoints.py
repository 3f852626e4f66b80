"""Checkpoints of a run: ``last.ckpt`` after every epoch, ``previous.ckpt`` before it, ``best.ckpt`` of the best score.

They are torch's ZIP archives, which hold a CRC-32 of every tensor; this module checks it, torch does not.
"""

from __future__ import annotations

import io
import logging
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path
from dcs_nas.processes import is_first
from dcs_nas.runs import RunFolder

log = logging.getLogger(__name__)
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_written: dict[Path, int] = {}
"""CRC-32 of the checkpoints that this process has written: a save need not load the one before it."""


class EpochCheckpoint(Checkpoint):
    """A callback that saves a run's whole state after every epoch, atomically, and keeps the previous checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        save_checkpoint(trainer, self.path)


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Save Lightning's checkpoint atomically; every rank calls this, and one writes.

    An undamaged ``last.ckpt`` becomes ``previous.ckpt``.

    Raises:
        OSError: the file cannot be written; both files are unchanged then.
    """
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    if trainer.is_global_zero:
        stream = io.BytesIO()
        torch.save(checkpoint, stream)
        content = stream.getvalue()
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
            if path.name == LAST and path.is_file() and _is_whole(path):
                _keep(path, path.with_name(PREVIOUS))
        _written[path] = zlib.crc32(content)
    trainer.strategy.barrier("save_checkpoint")


def weights_file(path: Path) -> Path:
    """Return the last checkpoint of a run folder; return another path unchanged.

    Raises:
        InputError: a folder without a whole checkpoint.
    """
    path = Path(path).expanduser()
    return whole_checkpoint(RunFolder(path).checkpoint("last")) if path.is_dir() else path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU, only tensors and plain data; if ``last.ckpt`` is damaged, the previous one.

    Raises:
        InputError: no checkpoint, it and the previous one are damaged, or it was not written by dcs-nas.
    """
    return load_whole(path)[1]


def load_whole(path: Path, *, warn: bool = True) -> tuple[Path, dict[str, Any]]:
    """Return ``whole_checkpoint(path)`` and what ``load_checkpoint`` returns of it; both raise here."""
    path, checkpoint = _find_whole(path, warn=warn)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"{path} holds no 'state_dict'; expected a checkpoint written by dcs-nas")
    return path, checkpoint


def select_network(checkpoint: dict[str, Any], *, prefix: str = "network.") -> dict[str, Tensor]:
    """Return the state of the network in a checkpoint, or of its average with the prefix ``ema.``."""
    state = checkpoint["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def whole_checkpoint(path: Path, *, warn: bool = True) -> Path:
    """Return ``path``, or ``previous.ckpt`` with a warning if ``path`` is a damaged ``last.ckpt``.

    Raises:
        InputError: there is no checkpoint, or no undamaged one.
    """
    return _find_whole(path, warn=warn)[0]


def _find_whole(path: Path, *, warn: bool = True) -> tuple[Path, Any]:
    """Return ``whole_checkpoint(path)`` and its content."""
    before = path.with_name(PREVIOUS)
    falls_back = path.name == LAST and before.is_file()
    if not path.is_file() and not falls_back:
        raise InputError(f"there is no checkpoint {path}; the run must finish an epoch first")
    content, wrong = _try_read(path) if path.is_file() else (None, "is missing")
    if wrong is None:
        return path, content
    if not falls_back:
        other = "" if path.name == LAST else "use --checkpoint last, or "
        raise InputError(f"{path} {wrong}; {other}train again with --overwrite")
    content, wrong_before = _try_read(before)
    if wrong_before is not None:
        raise InputError(f"{path} {wrong}, and {before} {wrong_before}; train again with --overwrite")
    if warn and is_first():
        log.warning("%s %s; using %s of epoch %d instead", path, wrong, before.name, content["epoch"] + 1)
    return before, content


def is_damaged(path: Path) -> bool:
    """Return whether ``path`` exists and is damaged."""
    return path.is_file() and _try_read(path)[1] is not None


def _try_read(path: Path) -> tuple[Any, str | None]:
    """Return the content of a checkpoint file, and what is wrong with it as the end of a sentence."""
    try:
        content = path.read_bytes()
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(damaged)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), None
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    except Exception as error:  # a damaged file can make its parser raise anything
        return None, f"is damaged or was not written by dcs-nas ({type(error).__name__})"


def _is_whole(path: Path) -> bool:
    """Return whether a checkpoint is undamaged: the bytes that this process has written, or else one that loads."""
    try:
        if zlib.crc32(path.read_bytes()) == _written.get(path):
            return True
    except OSError:
        return False
    return not is_damaged(path)


def _keep(path: Path, before: Path) -> None:
    """Link the file to a second name, so that one always exists; rename it where links are not supported."""
    try:
        before.unlink(missing_ok=True)
        os.link(path, before)
    except OSError:
        path.replace(before)
