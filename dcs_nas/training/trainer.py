"""Lightning's trainer as every job uses it, and one way to run it."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities.types import TRAIN_DATALOADERS

from dcs_nas.config import Config
from dcs_nas.config.idle import DCS_BLOCKS, idle_settings
from dcs_nas.models.blocks import read_kept_shares
from dcs_nas.runs import RunFolder, log_to
from dcs_nas.threads import describe_waiting
from dcs_nas.training.acceleration import set_precision
from dcs_nas.training.checkpoints import EpochCheckpoint, load_checkpoint, whole_checkpoint
from dcs_nas.training.devices import count_processes, devices_and_machines
from dcs_nas.training.error_messages import training_errors
from dcs_nas.training.joint_batch import EqualProcesses, ReplicatedStrategy
from dcs_nas.training.loggers import make_loggers
from dcs_nas.training.process_group import end_with_parent
from dcs_nas.training.progress import JobBar

log = logging.getLogger(__name__)
_HARMLESS = (
    ".*does not have many workers.*",  # batches come from a memory map: a worker would only copy them
    ".*GPU available but not used.*",
    ".*Detected call of `lr_scheduler.step.*",
    ".*LeafSpec.*",
    ".*The .grad attribute of a Tensor that is not a leaf.*",  # torch.compile looks at the drawn weights
)


def make_trainer(config: Config, run: RunFolder, *, epochs: int) -> pl.Trainer:
    """Return a trainer for ``epochs`` epochs with our checkpoints, the loggers asked for and, on a terminal, a bar.

    Deterministic algorithms are the default on a CPU; on a GPU ``trainer.deterministic`` asks for them.
    """
    settings = config.trainer
    devices, machines = devices_and_machines(settings)
    patience = timedelta(minutes=settings.timeout_minutes)
    end_with_parent()
    _quiet_lightning()
    set_precision(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # A guard for debugging, which costs a write of all memory that is allocated.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    callbacks: list[Callback] = [EqualProcesses(), EpochCheckpoint(run.checkpoint("last"))]
    if sys.stderr.isatty():
        callbacks.append(JobBar())
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=devices,
        num_nodes=machines,
        strategy=ReplicatedStrategy(timeout=patience) if count_processes(settings) > 1 else "auto",
        plugins=_environment(),
        precision=settings.precision,
        max_epochs=epochs,
        deterministic=settings.on_cpu if settings.deterministic is None else settings.deterministic,
        logger=make_loggers(config, run),
        callbacks=callbacks,
        default_root_dir=run.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


@contextmanager
def training_job(
    config: Config,
    job: Literal["search", "pretrain", "retrain"],
    run: RunFolder,
    network: torch.nn.Module | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Within it, a job trains: it logs to ``log.txt``, settings without effect first, and its errors name settings.

    ``facts`` are further ones for ``idle_settings``.
    """
    with log_to(run.log_file), without_known_warnings(), training_errors(config, job):
        log.info("threads: %d, %s", config.trainer.threads or torch.get_num_threads(), describe_waiting())
        blocks = {DCS_BLOCKS: len(read_kept_shares(network))} if network is not None else {}
        for remark in idle_settings(config, job, {**blocks, **(facts or {})}):
            log.warning("%s", remark)
        yield


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Within it, Lightning's warnings that are known and harmless here stay silent; all others show."""
    with warnings.catch_warnings():
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        yield


def fit(trainer: pl.Trainer, module: pl.LightningModule, loaders: TRAIN_DATALOADERS, run: RunFolder) -> None:
    """Train to the end, from ``checkpoints/last.ckpt`` where the run has one, or from the one before if it is damaged.

    Raises ``KeyboardInterrupt`` where the user stops it; what was saved stays.
    """
    begin = None
    if run.checkpoint("last").is_file() or run.checkpoint("previous").is_file():
        begin = whole_checkpoint(run.checkpoint("last"))
        log.info("resuming after epoch %d of %s", load_checkpoint(begin)["epoch"] + 1, trainer.max_epochs)
    try:
        trainer.fit(module, loaders, ckpt_path=begin, weights_only=True)
    except SystemExit:
        raise KeyboardInterrupt from None


def memory_format(module: Any) -> Any:
    """Return the module with channels_last weights, in which depthwise convolutions run several times faster."""
    return module.to(memory_format=torch.channels_last)


def _environment() -> list[Any] | None:
    """Under SLURM, Lightning's processes without its checkpoints in mid-epoch, see ``requeue_on_signal``."""
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return None


def _quiet_lightning() -> None:
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
