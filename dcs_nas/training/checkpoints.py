"""Checkpoints of a run: ``last.ckpt`` after every epoch, ``previous.ckpt`` before it, ``best.ckpt`` of the best score.

A file of ours ends with the SHA-256 of all that comes before it, as the comment that the ZIP format provides for
(APPNOTE 4.3.16): file and checksum appear in one step, and every reader of torch's files reads on. Files without one,
such as others write, are read unchecked.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from dcs_nas.errors import InputError
from dcs_nas.files import LEFTOVER, atomic_path
from dcs_nas.processes import is_first

log = logging.getLogger(__name__)
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22  # a record whose last two bytes are the length of the comment
_COMMENT_BYTES = len("sha256:") + 64
_NO_COMMENT, _COMMENT_LENGTH = bytes(2), _COMMENT_BYTES.to_bytes(2, "little")


class EpochCheckpoint(Checkpoint):
    """Saves everything a run needs to go on, after every epoch, never in part, and keeps the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        save_checkpoint(trainer, self.folder / LAST)


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Lightning's checkpoint, atomically and with its checksum; every rank calls it, one writes.

    A ``last.ckpt`` that is there already becomes ``previous.ckpt``, unless it is damaged. Raises ``OSError`` naming
    the file where it cannot be written; then both are as they were.
    """
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    if trainer.is_global_zero:
        content = sealed(checkpoint)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
            if path.name == LAST and path.is_file() and fault(path) is None:
                _keep(path, path.with_name(PREVIOUS))
    trainer.strategy.barrier("save_checkpoint")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU, tensors and plain data alone; instead of a damaged ``last.ckpt``, the one before.

    Raises:
        InputError: there is none, or it is damaged and so is the one before, or it is none of ours.
    """
    return _load(whole_checkpoint(path))


def whole_checkpoint(path: Path, *, warn: bool = True) -> Path:
    """``path`` itself, or ``previous.ckpt`` with a warning where ``path`` is a ``last.ckpt`` that is damaged.

    Raises:
        InputError: there is no checkpoint, or no whole one.
    """
    before = path.with_name(PREVIOUS)
    falls_back = path.name == LAST and before.is_file()
    if not path.is_file() and not falls_back:
        raise InputError(f"there is no checkpoint {path}; has the run finished an epoch?")
    wrong = fault(path) if path.is_file() else "is missing"
    if wrong is None:
        return path
    if not falls_back:
        raise InputError(f"{path} {wrong}; {_mend(path)}")
    wrong_before = fault(before)
    if wrong_before is not None:
        raise InputError(f"{path} {wrong}, and {before} {wrong_before}; train again with --overwrite")
    if warn and is_first():
        log.warning("%s %s; going back to %s, of epoch %d", path, wrong, before.name, _load(before)["epoch"] + 1)
    return before


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint file, as the end of a sentence; None for a whole one, or one of others."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    start = content.rfind(_ZIP_END, -_ZIP_END_BYTES - _COMMENT_BYTES)
    end = start + _ZIP_END_BYTES
    if start >= 0 and content[end - len(_COMMENT_LENGTH) : end] == _COMMENT_LENGTH:
        whole = content[end:] == _comment(content[:end])
        return None if whole else "is damaged (its SHA-256 is not the one it had)"
    try:
        _read(content)
    except Exception as error:  # a damaged file can make its parser raise anything
        return _unreadable(error)
    return None


def is_damaged(path: Path) -> bool:
    """Whether ``path`` is there and not whole."""
    return path.is_file() and fault(path) is not None


def sealed(checkpoint: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint file with its checksum."""
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    content = stream.getvalue()
    assert content.endswith(_NO_COMMENT)
    content = content[: -len(_NO_COMMENT)] + _COMMENT_LENGTH
    return content + _comment(content)


def _comment(content: bytes) -> bytes:
    return b"sha256:" + hashlib.sha256(content).hexdigest().encode()


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = _read(path.read_bytes())
    except Exception as error:
        raise InputError(f"{path} {_unreadable(error)}; {_mend(path)}") from None
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise InputError(f"{path} holds no 'state_dict'; expected a checkpoint written by dcs-nas")
    return loaded


def _read(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _unreadable(error: Exception) -> str:
    return f"is damaged or no checkpoint of ours ({type(error).__name__})"


def _mend(path: Path) -> str:
    if path.name == LAST:
        return "there is no other to go back to, train again with --overwrite"
    return "use --checkpoint last, or train again with --overwrite"


def _keep(path: Path, before: Path) -> None:
    """Give the file a second name, so that at no moment there is none; where that cannot be, rename it."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=LEFTOVER) as folder:
        link = Path(folder) / before.name
        try:
            os.link(path, link)
        except OSError:
            path.replace(before)
        else:
            with contextlib.suppress(FileNotFoundError):
                link.replace(before)
