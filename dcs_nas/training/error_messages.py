"""Error messages that name the settings which help: out of memory, no compiler, no deterministic kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from dcs_nas.config import Config, SearchConfig
from dcs_nas.errors import TrainingError
from dcs_nas.space import find_shipped_file, load_space

_CPU_MESSAGE = "DefaultCPUAllocator"
_NOT_DETERMINISTIC = "does not have a deterministic implementation"


@contextmanager
def training_errors(config: Config, job: Literal["search", "pretrain", "retrain", "evaluate"]) -> Iterator[None]:
    """Raise ``TrainingError`` naming a setting in place of errors in the context that the setting avoids.

    These are exhausted memory, a failing compiler, and an operation without a deterministic kernel.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(_out_of_memory(config, job)) from error
    except RuntimeError as error:
        if _CPU_MESSAGE in str(error):
            raise TrainingError(_out_of_memory(config, job)) from error
        if config.trainer.compile not in ("off", "cuda-graphs") and _is_from_compiler(error):
            raise TrainingError(_not_compiled(config, error)) from error
        if _NOT_DETERMINISTIC in str(error):
            raise TrainingError(
                f"{str(error).split(' does ')[0]} has no deterministic kernel on this device; "
                "set trainer.deterministic=false, with which two runs of a seed may differ in their last digits"
            ) from error
        raise


def _is_from_compiler(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # loads the compiler, which takes seconds

    return isinstance(error, TorchDynamoException)


def _not_compiled(config: Config, error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2]) or type(error).__name__
    return (
        f"trainer.compile '{config.trainer.compile}' failed: {reason}; it needs a C++ compiler, on a GPU Triton: "
        "install it, or set trainer.compile=off"
    )


def _out_of_memory(config: Config, job: str) -> str:
    data = config.data
    if job == "evaluate":
        return f"out of memory; lower data.test_batch (now {data.test_batch})"
    batch = (
        f"data.identities_per_batch (now {data.identities_per_batch}) or "
        f"data.images_per_identity ({data.images_per_identity})"
    )
    further = [f"data.height and width ({data.height} x {data.width})"]
    if config.trainer.precision == "32-true" and config.trainer.cuda:
        further.append("or set trainer.precision=bf16-mixed")
    if job == "search" and _may_checkpoint(config):
        further.append("or set search.checkpoint_activations=true, which trades time for memory")
    if config.trainer.compile == "cuda-graphs":
        further.append("or set trainer.compile=off: CUDA graphs keep the tensors of every kind of pass")
    return f"out of memory; lower {batch}, {', '.join(further)}"


def _may_checkpoint(config: Config) -> bool:
    """Return whether ``search.checkpoint_activations`` is off and would be accepted."""
    search: SearchConfig = config.section("search")
    exact = search.order == 2 and search.hessian == "exact"
    graphed = config.trainer.compile == "cuda-graphs"
    if search.checkpoint_activations or search.strategy != "bilevel" or exact or graphed:
        return False
    return "checkpoint_activations" in load_space(find_shipped_file("search_spaces", search.space)).supports
