"""Where a job's figures go beside metrics.csv: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec

from pytorch_lightning.loggers import Logger, TensorBoardLogger

from dcs_nas.config import Config
from dcs_nas.errors import InputError
from dcs_nas.runs import RunFolder


def make_loggers(config: Config, run: RunFolder) -> list[Logger]:
    """Return the loggers that ``trainer.loggers`` names; those that keep settings get the job's.

    Raises:
        InputError: one whose package is not installed.
    """
    return [_make_logger(name, config, run) for name in config.trainer.loggers]


def require_loggers(names: Iterable[str]) -> None:
    """Raise ``InputError`` for a logger whose package is not installed, before anything is written."""
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f"trainer.loggers names {name}, which is not installed; pip install {name}, or leave it out"
            )


def _make_logger(name: str, config: Config, run: RunFolder) -> Logger:
    if name == "tensorboard":
        return TensorBoardLogger(run.path, name="", version="tensorboard")
    try:
        logger = {"wandb": _wandb, "mlflow": _mlflow}[name](config, run)
    except ModuleNotFoundError as error:
        raise InputError(
            f"trainer.loggers names {name}, which lacks {error.name or 'a package'}; pip install {name} and "
            "--resume, or leave it out and --overwrite"
        ) from None
    logger.log_hyperparams(config.model_dump(mode="json"))
    return logger


def _wandb(config: Config, run: RunFolder) -> Logger:
    """Project and mode (such as offline) are those of wandb's own variables, WANDB_PROJECT and WANDB_MODE."""
    from pytorch_lightning.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", "dcs-nas")
    return WandbLogger(name=_title(config, run), project=project, save_dir=run.path)


def _mlflow(config: Config, run: RunFolder) -> Logger:
    """Log to the server of MLflow's variable MLFLOW_TRACKING_URI; without it, to ``mlflow.db`` in the run folder."""
    from pytorch_lightning.loggers import MLFlowLogger

    name, title, folder = config.name, _title(config, run), run.path.resolve()
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        return MLFlowLogger(experiment_name=name, run_name=title, tracking_uri=server)
    database, files = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlflow").as_uri()
    return MLFlowLogger(experiment_name=name, run_name=title, tracking_uri=database, artifact_location=files)


def _title(config: Config, run: RunFolder) -> str:
    return f"{config.name}/{run.path.name}"
