"""Section ``trainer``: the machine."""

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
    """The machine: passed on to Lightning's Trainer. ``dcs_nas.training.devices`` checks it when a job starts."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Kind of device; auto takes a GPU where there is one."""
    devices: int | str = "auto"
    """Number of devices, numbers of GPUs ('0,2'), or -1 for all; auto takes one, or as many as a launcher started."""
    num_nodes: int = Field(default=1, ge=1)
    """Machines that train together, started by torchrun or srun."""
    timeout_minutes: float = Field(default=30, gt=0, le=10080)
    """Minutes that a process waits for another that does not answer."""
    precision: Precision = "32-true"
    """Number format of the computation; the mixed ones save time and memory on GPUs that have them."""
    deterministic: bool | None = None
    """Deterministic algorithms only; by default on a CPU. On a GPU they cost speed."""
    compile: Literal["off", "cuda-graphs", "default", "reduce-overhead", "max-autotune"] = "off"
    """Faster steps on a GPU: CUDA graphs of whole passes, or a mode of torch.compile, which compiles for minutes."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Precision of float32 products on a GPU; high allows TF32."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """Action at a NaN or infinite loss or gradient: stop the job, or skip the step."""
    threads: int | None = Field(default=None, ge=1, le=4096)
    """Threads of the processor; null for torch's own number."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Loggers of each epoch's figures beside metrics.csv; wandb and mlflow have to be installed."""

    @property
    def cuda(self) -> bool:
        """True if there is a CUDA GPU and the settings allow it."""
        import torch

        return torch.cuda.is_available() and self.accelerator != "cpu"

    @property
    def on_cpu(self) -> bool:
        """True if the CPU trains: there is no GPU, or the settings refuse it."""
        import torch

        return self.accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())

    @field_validator("compile", mode="before")
    @classmethod
    def _read_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads off as false

    @field_validator("precision", mode="before")
    @classmethod
    def _name_precision(cls, value: Any) -> Any:
        if value in ("bf16-true", "16-true"):
            raise ValueError(
                "weights and alphas in half precision lose most of their steps, which round to zero; use bf16-mixed"
            )
        precision = PRECISION_NAMES.get(str(value).lower())
        if precision is not None:
            raise ValueError(f"did you mean {precision}? known: {', '.join(PRECISIONS)}")
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
