"""Section ``trainer``: the machine and the loggers."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from dcs_nas.settings import Settings

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PRECISION_NAMES: dict[str, Precision] = {
    **dict.fromkeys(("32", "fp32", "float32", "tf32", "full"), "32-true"),
    **dict.fromkeys(("16", "fp16", "float16", "half", "amp"), "16-mixed"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16-mixed"),
    **dict.fromkeys(("64", "fp64", "float64", "double"), "64-true"),
}


class TrainerConfig(Settings):
    """The machine: passed on to Lightning's Trainer.

    ``devices``: how many, which GPUs (``0,2``), or ``-1`` for all; ``auto`` is as many as a launcher has started, else
    one. What the machine has to have for them is checked when a job starts (``dcs_nas.training.process_group``).
    A step whose loss or gradient is NaN or infinite stops the job, or is left out (``nonfinite: skip``).
    Of several processes, each waits ``timeout_minutes`` at most for another that does not answer.
    ``compile`` is the mode of torch.compile for the network (reduce-overhead: CUDA graphs); ``matmul_precision`` below
    highest lets a GPU compute float32 products in TF32 or bfloat16.
    ``loggers`` get the means of every epoch beside metrics.csv; wandb and mlflow have to be installed.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int | str = "auto"
    num_nodes: int = Field(default=1, ge=1)
    timeout_minutes: float = Field(default=30, gt=0, le=10080)
    precision: Precision = "32-true"
    deterministic: bool | None = None
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    nonfinite: Literal["stop", "skip"] = "stop"
    threads: int | None = Field(default=None, ge=1, le=4096)
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

    @field_validator("precision", mode="before")
    @classmethod
    def _name_precision(cls, value: Any) -> Any:
        if value in ("bf16-true", "16-true"):
            raise ValueError(
                "weights and alphas in half precision lose most of their steps, which round to nothing; use bf16-mixed"
            )
        meant = PRECISION_NAMES.get(str(value).lower())
        if meant is not None:
            raise ValueError(f"did you mean {meant}? known: {', '.join(PRECISIONS)}")
        return value

    @field_validator("devices", mode="before")
    @classmethod
    def _check_devices(cls, value: Any) -> Any:
        text = str(value).strip()
        numbers = [part.strip() for part in text.split(",") if part.strip()]
        named = "," in text and all(map(str.isdecimal, numbers)) and 0 < len(numbers) == len(set(map(int, numbers)))
        if isinstance(value, bool) or not (named or re.fullmatch("auto|-1|0*[1-9][0-9]{0,3}", text)):
            raise ValueError("expected auto, a number of at least 1, -1 for all, or the numbers of GPUs such as '0,2'")
        return value

    @model_validator(mode="after")
    def _check_loggers(self) -> TrainerConfig:
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers {', '.join(self.loggers)} name one twice; name each once")
        return self
