"""The process group of a job that torchrun or srun has started: connected, watched for lost processes, and ended."""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import SLURMEnvironment

from dcs_nas.config import Config, TrainerConfig
from dcs_nas.errors import TrainingError
from dcs_nas.processes import (
    Launch,
    PeerError,
    another_failed,
    begin_job,
    count_launched,
    find_launch,
    get_rank,
    get_world_size,
    is_first_to_fail,
    requeue_on_signal,
)
from dcs_nas.training.acceleration import set_numerics
from dcs_nas.training.devices import gpu_ids, on_gpus, require_consistent

P = ParamSpec("P")
R = TypeVar("R")
_LOST = re.compile(
    r"connection (closed|reset|refused|was closed)( by peer)?|broken pipe|tim(ed|e) ?out|nccl error|"
    r"remote process|clients joined",
    re.IGNORECASE,
)


@contextmanager
def process_group(config: Config, *, training: bool = True) -> Iterator[None]:
    """Connect the processes that torchrun or srun has started; alone, set threads and precision and do no more.

    A process that fails signals it to the others; one that loses another (also of those that Lightning has started)
    raises. Processes wait ``trainer.timeout_minutes`` for each other. ``training``: batches are divided among them.

    Raises:
        InputError: settings that contradict the launcher, the GPUs or each other.
        TrainingError: another process was lost.
    """
    launched = find_launch()
    require_consistent(config, launched, training=training)
    set_numerics(config.trainer)
    try:
        if launched is not None and launched.world > 1:
            _connect(config.trainer, launched)
        yield
    except Exception as error:
        if max(get_world_size(), count_launched()) == 1:
            raise
        if isinstance(error, PeerError) or (_is_lost(error) and another_failed()):
            is_first_to_fail()
            raise PeerError("another process failed first") from error
        if _is_lost(error):
            raise TrainingError(_loss(config.trainer, error)) from error
        is_first_to_fail()
        raise


def in_process_group(job: Callable[Concatenate[Config, P], R]) -> Callable[Concatenate[Config, P], R]:
    """Let a training job, whose first argument is its settings, run within ``process_group``."""

    @wraps(job)
    def run(config: Config, *arguments: P.args, **options: P.kwargs) -> R:
        with requeue_on_signal(), process_group(config):
            return job(config, *arguments, **options)

    return run


def _connect(settings: TrainerConfig, launched: Launch) -> None:
    if not dist.is_initialized():
        if launched.launcher == "srun":
            environment = SLURMEnvironment()
            os.environ["MASTER_ADDR"] = environment.main_address
            os.environ["MASTER_PORT"] = str(environment.main_port)
        device = None
        if on_gpus(settings):
            ids = gpu_ids(settings)
            device = torch.device("cuda", ids[launched.local_rank] if ids else launched.local_rank)
            torch.cuda.set_device(device)
        dist.init_process_group(
            "gloo" if device is None else "nccl",
            rank=launched.rank,
            world_size=launched.world,
            timeout=timedelta(minutes=settings.timeout_minutes),
            device_id=device,
        )
        atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)
    begin_job(60 * settings.timeout_minutes)


def _is_lost(error: Exception) -> bool:
    """Return whether torch.distributed raised this because another process does not answer."""
    from_torch = isinstance(error, (dist.DistError, TimeoutError)) or type(error) is RuntimeError
    return from_torch and _LOST.search(str(error)) is not None


def _loss(settings: TrainerConfig, error: Exception) -> str:
    lost = _LOST.search(str(error))
    assert lost is not None
    reason = lost.group().lower()
    if "time" in reason:
        reason = f"no answer within trainer.timeout_minutes={settings.timeout_minutes:g}"
    launched = find_launch()
    place = f"{launched.rank} of {launched.world}" if launched is not None else f"{get_rank()} of {get_world_size()}"
    see = f"see what {launched.launcher} says of it, then " if launched is not None else ""
    return (
        f"process {place} lost another one of its job, which was killed, or whose machine does not answer ({reason}); "
        f"{see}resume with --resume"
    )
