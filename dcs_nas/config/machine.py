"""Section ``trainer``: the machine and the loggers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings


class TrainerConfig(Settings):
    """The machine: passed on to Lightning's Trainer.

    ``loggers`` get the means of every epoch beside metrics.csv; wandb and mlflow have to be installed.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = Field(default=1, ge=1)
    precision: str = "32-true"
    deterministic: bool | None = None
    threads: int | None = Field(default=None, ge=1)
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _check_loggers(self) -> TrainerConfig:
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers {', '.join(self.loggers)} name one twice; name each once")
        return self
