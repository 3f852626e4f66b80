"""Section ``trainer``: the machine and the loggers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from dcs_nas.settings import Settings


class TrainerConfig(Settings):
    """The machine: passed on to Lightning's Trainer.

    ``devices``: how many, which (``0,2``), or ``-1`` for all; ``auto`` is as many as a launcher has started, else one.
    A step whose loss or gradient is NaN or infinite stops the job, or is left out (``nonfinite: skip``).
    Of several processes, each waits ``timeout_minutes`` at most for another that does not answer.
    ``compile`` is the mode of torch.compile for the network (reduce-overhead: CUDA graphs); ``matmul_precision`` below
    highest lets a GPU compute float32 products in TF32 or bfloat16.
    ``loggers`` get the means of every epoch beside metrics.csv; wandb and mlflow have to be installed.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = Field(default=1, ge=1)
    timeout_minutes: float = Field(default=30, gt=0, le=10080)
    precision: str = "32-true"
    deterministic: bool | None = None
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    nonfinite: Literal["stop", "skip"] = "stop"
    threads: int | None = Field(default=None, ge=1)
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)

    @property
    def cuda(self) -> bool:
        """Whether a CUDA GPU is there and not refused."""
        import torch

        return torch.cuda.is_available() and self.accelerator != "cpu"

    @property
    def on_cpu(self) -> bool:
        """Return whether the CPU trains: there is no GPU, or it is refused."""
        import torch

        return self.accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())

    @field_validator("compile", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        return "off" if value is False else value  # which YAML takes for false

    @model_validator(mode="after")
    def _check_loggers(self) -> TrainerConfig:
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers {', '.join(self.loggers)} name one twice; name each once")
        return self

    @field_validator("precision")
    @classmethod
    def _refuse_half_weights(cls, value: str) -> str:
        if value in ("bf16-true", "16-true"):
            raise ValueError(
                "weights and alphas in half precision lose most of their steps, which round to nothing; use bf16-mixed"
            )
        return value
