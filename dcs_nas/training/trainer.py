"""Lightning's trainer as every job uses it, its loggers and its progress bar, and one way to run it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities.types import TRAIN_DATALOADERS
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dcs_nas.config import Config
from dcs_nas.config.idle import DCS_BLOCKS, idle_settings
from dcs_nas.environment import describe_waiting
from dcs_nas.errors import InputError
from dcs_nas.models.blocks import read_kept_shares
from dcs_nas.processes import end_with_parent, find_launch
from dcs_nas.runs import RunFolder, log_to
from dcs_nas.training.acceleration import is_slow_in_bfloat16, may_use_graphs
from dcs_nas.training.checkpoints import EpochCheckpoint, load_whole
from dcs_nas.training.devices import count_processes, devices_and_machines
from dcs_nas.training.error_messages import training_errors
from dcs_nas.training.joint_batch import EqualProcesses, ReplicatedStrategy

log = logging.getLogger(__name__)
_ESTIMATE_SECONDS = 600  # of the past, from which the time left is estimated
_HARMLESS = (
    ".*does not have many workers.*",  # batches come from a memory map: a worker would only copy them
    ".*GPU available but not used.*",
    ".*Detected call of `lr_scheduler.step.*",
    ".*LeafSpec.*",
    ".*The .grad attribute of a Tensor that is not a leaf.*",  # torch.compile reads it of the sampled weights
)


def make_trainer(config: Config, run: RunFolder, *, epochs: int) -> pl.Trainer:
    """Return a trainer for ``epochs`` epochs with our checkpoints, ``trainer.loggers`` and, on a terminal, a bar.

    Deterministic algorithms are the default on a CPU; on a GPU ``trainer.deterministic`` turns them on.
    """
    settings = config.trainer
    devices, machines = devices_and_machines(settings)
    timeout = timedelta(minutes=settings.timeout_minutes)
    if find_launch() is None and os.environ.get("LOCAL_RANK", "0") != "0":
        end_with_parent()  # Lightning has started this process
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A guard for debugging, which costs a write of all memory that is allocated.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    callbacks: list[Callback] = [EqualProcesses(), EpochCheckpoint(run.checkpoint("last"))]
    if sys.stderr.isatty():
        callbacks.append(JobBar())
    # Under srun Lightning must not save checkpoints within an epoch, see ``requeue_on_signal``.
    by_srun = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=devices,
        num_nodes=machines,
        strategy=ReplicatedStrategy(timeout=timeout) if count_processes(settings) > 1 else "auto",
        plugins=[SLURMEnvironment(auto_requeue=False)] if by_srun else None,
        precision=settings.precision,
        max_epochs=epochs,
        deterministic=settings.on_cpu if settings.deterministic is None else settings.deterministic,
        logger=[_make_logger(name, config, run) for name in settings.loggers],
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
    """Log to ``log.txt`` within the context, settings without effect first; errors name the settings that help.

    ``facts`` are further ones for ``idle_settings``.
    """
    with log_to(run.log_file), without_known_warnings(), training_errors(config, job):
        log.info("threads: %d, %s", config.trainer.threads or torch.get_num_threads(), describe_waiting())
        if config.trainer.precision == "bf16-mixed" and not config.trainer.cuda and is_slow_in_bfloat16():
            log.warning("this processor has no instructions for bfloat16; trainer.precision=32-true is faster here")
        if job == "search" and may_use_graphs(config, network):
            log.info("trainer.compile=cuda-graphs makes a search on a GPU faster, for more memory: docs/machines.md")
        blocks = {DCS_BLOCKS: len(read_kept_shares(network))} if network is not None else {}
        for remark in idle_settings(config, job, {**blocks, **(facts or {})}):
            log.warning("%s", remark)
        yield


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Silence Lightning's warnings that are known and harmless here within the context."""
    with warnings.catch_warnings():
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        yield


def fit(trainer: pl.Trainer, module: pl.LightningModule, loaders: TRAIN_DATALOADERS, run: RunFolder) -> None:
    """Train to the end, from ``last.ckpt`` if the run has one, or from ``previous.ckpt`` if that is damaged.

    Raises:
        KeyboardInterrupt: the user has stopped it; the checkpoints of whole epochs remain.
    """
    begin = None
    if run.checkpoint("last").is_file() or run.checkpoint("previous").is_file():
        begin, state = load_whole(run.checkpoint("last"))
        log.info("resuming after epoch %d of %s", state["epoch"] + 1, trainer.max_epochs)
    try:
        trainer.fit(module, loaders, ckpt_path=begin, weights_only=True)
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):  # the next training of this process has a run of its own
                logger.experiment.finish()


def memory_format(module: Any) -> Any:
    """Return the module with channels_last weights, in which depthwise convolutions run several times faster."""
    return module.to(memory_format=torch.channels_last)


class JobBar(Callback):
    """One bar on standard error for all epochs of a job, removed at its end; log lines appear above it."""

    def __init__(self, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            transient=True,
            speed_estimate_period=_ESTIMATE_SECONDS,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            batches = int(trainer.num_training_batches)
            done = trainer.current_epoch * batches
            self._bar.add_task(_name_epoch(trainer), total=(trainer.max_epochs or 0) * batches, completed=done)
            self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for task in self._bar.task_ids:
            self._bar.update(task, description=_name_epoch(trainer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for task in self._bar.task_ids:
            self._bar.advance(task)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._bar.stop()


def _name_epoch(trainer: pl.Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"


def _make_logger(name: str, config: Config, run: RunFolder) -> Logger:
    """Return the logger ``name`` of the run.

    Variables of the environment that wandb and MLflow define choose the project (WANDB_PROJECT, by default dcs-nas),
    the mode (WANDB_MODE) and the server (MLFLOW_TRACKING_URI, by default ``mlflow.db`` in the run folder).
    """
    if name == "tensorboard":
        return TensorBoardLogger(run.path, name="", version="tensorboard")
    from pytorch_lightning.loggers import MLFlowLogger

    title, folder = f"{config.name}/{run.path.name}", run.path.resolve()
    logger: Logger
    try:
        if name == "wandb":
            project = os.environ.get("WANDB_PROJECT", "dcs-nas")
            logger = WandbLogger(name=title, project=project, save_dir=run.path)
        elif server := os.environ.get("MLFLOW_TRACKING_URI"):
            logger = MLFlowLogger(experiment_name=config.name, run_name=title, tracking_uri=server)
        else:
            database, files = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlflow").as_uri()
            logger = MLFlowLogger(
                experiment_name=config.name, run_name=title, tracking_uri=database, artifact_location=files
            )
    except ModuleNotFoundError as error:
        raise InputError(
            f"trainer.loggers names {name}, which lacks {error.name or 'a package'}; pip install {name} and "
            "--resume, or leave it out and --overwrite"
        ) from None
    logger.log_hyperparams(config.model_dump(mode="json"))
    return logger
