"""Processes that a launcher has started, W of them, meet before they do anything, and end together."""

from __future__ import annotations

import atexit
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from dcs_nas.config import Config, TrainerConfig
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.processes import (
    Launch,
    PeerError,
    another_failed,
    begin_job,
    first_to_fail,
    launch,
    launched_world,
    rank,
    requeued_on_signal,
    world,
)
from dcs_nas.training.loggers import require_loggers

P = ParamSpec("P")
R = TypeVar("R")
_LOST = re.compile(
    r"connection (closed|reset|refused|was closed)( by peer)?|broken pipe|tim(ed|e) ?out|nccl error|"
    r"remote process|clients joined",
    re.IGNORECASE,
)


@contextmanager
def joined(config: Config, *, training: bool = True) -> Iterator[None]:
    """Within it, torch.distributed connects the processes that torchrun or srun has started; alone, it does nothing.

    A process that fails says so to the others; one that loses another, of Lightning's too, names the loss. Processes
    wait for each other ``trainer.timeout_minutes`` at most. ``training``: batches are dealt out among them.

    Raises:
        InputError: settings that contradict the launcher, the GPUs or each other.
        TrainingError: another process was lost.
    """
    found = launch()
    require_sound(config, found, training=training)
    try:
        if found is not None and found.world > 1:
            _meet(config.trainer, found)
        yield
    except Exception as error:
        if max(world(), launched_world()) == 1:
            raise
        if isinstance(error, PeerError) or (_is_lost(error) and another_failed()):
            first_to_fail()
            raise PeerError("another process failed first") from error
        if _is_lost(error):
            raise TrainingError(_loss(config.trainer, error)) from error
        first_to_fail()
        raise


def jointly(job: Callable[Concatenate[Config, P], R]) -> Callable[Concatenate[Config, P], R]:
    """A training job, whose first argument are its settings, that runs within ``joined``."""

    @wraps(job)
    def run(config: Config, *arguments: P.args, **options: P.kwargs) -> R:
        with requeued_on_signal(), joined(config):
            return job(config, *arguments, **options)

    return run


def require_sound(config: Config, found: Launch | None, *, training: bool = True) -> None:
    """Raise ``InputError`` where the settings and what a launcher has started do not go together."""
    settings = config.trainer
    if training:
        _require_devices(settings)
        require_loggers(settings.loggers)
    if found is None:
        _require_launcher(settings)
    else:
        _require_agreement(settings, found)
    processes = processes_of(settings)
    people = config.data.people_per_batch
    if training and people % processes:
        raise InputError(
            f"data.people_per_batch={people} does not divide among {processes} processes; "
            f"set it to a multiple of {processes}"
        )
    if training and settings.precision == "16-mixed" and settings.on_cpu:
        raise InputError(
            "trainer.precision is 16-mixed, which needs a GPU, but this job runs on the CPU; "
            "use trainer.precision=bf16-mixed or 32-true"
        )


def require_alone(what: str) -> None:
    """Raise ``InputError`` where torchrun or srun has started several processes."""
    found = launch()
    if found is not None and found.world > 1:
        raise InputError(
            f"{what} runs as one process, but {found.launcher} has started {found.world}; start it without "
            f"{found.launcher}"
        )


def processes_of(settings: TrainerConfig) -> int:
    """How many processes train: what the launcher has started, otherwise what the settings ask for."""
    if launch() is not None:
        return launched_world()
    if str(settings.devices).strip() == "-1":
        devices = torch.cuda.device_count() if _on_gpus(settings) else 1
    else:
        devices = _number_of(settings.devices) or 1
    return max(1, devices) * settings.num_nodes


def devices_and_machines(settings: TrainerConfig) -> tuple[int | str, int]:
    """For Lightning: devices of each machine, and machines. A launcher has the last word on what is left open."""
    found = launch()
    if found is None:
        all_of_a_cpu = str(settings.devices).strip() == "-1" and not _on_gpus(settings)
        return (1 if settings.devices == "auto" or all_of_a_cpu else settings.devices), settings.num_nodes
    return (settings.devices if _ids(settings.devices) else found.local_world), found.machines


def end_with_parent() -> None:
    """A process that Lightning has started ends as soon as its parent has, whatever it waits for."""
    if launch() is not None or os.environ.get("LOCAL_RANK", "0") == "0":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _meet(settings: TrainerConfig, found: Launch) -> None:
    if not dist.is_initialized():
        if found.launcher == "srun":
            _name_first_machine()
        device = None
        if _on_gpus(settings):
            ids = _ids(settings.devices)
            device = torch.device("cuda", ids[found.local_rank] if ids else found.local_rank)
            torch.cuda.set_device(device)
        dist.init_process_group(
            "gloo" if device is None else "nccl",
            rank=found.rank,
            world_size=found.world,
            timeout=timedelta(minutes=settings.timeout_minutes),
            device_id=device,
        )
        atexit.register(_leave)
    begin_job(60 * settings.timeout_minutes)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _name_first_machine() -> None:
    from lightning_fabric.plugins.environments import SLURMEnvironment

    environment = SLURMEnvironment()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)


def _is_lost(error: Exception) -> bool:
    """Whether this is what torch.distributed raises where another process does not answer."""
    of_torch = isinstance(error, (dist.DistError, TimeoutError)) or type(error) is RuntimeError
    return of_torch and _LOST.search(str(error)) is not None


def _loss(settings: TrainerConfig, error: Exception) -> str:
    match = _LOST.search(str(error))
    assert match is not None
    reason = match.group().lower()
    if "time" in reason:
        reason = f"no answer within trainer.timeout_minutes={settings.timeout_minutes:g}"
    found = launch()
    place = f"{found.rank} of {found.world}" if found is not None else f"{rank()} of {world()}"
    see = f"see what {found.launcher} says of it, then " if found is not None else ""
    return (
        f"process {place} lost another one of its job, which was killed, or whose machine does not answer ({reason}); "
        f"{see}go on with --resume"
    )


def _require_devices(settings: TrainerConfig) -> None:
    """Raise ``InputError`` where the settings ask for devices that this machine does not show."""
    cuda, mps = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    there = {"gpu": cuda > 0 or mps, "cuda": cuda > 0, "mps": mps}.get(settings.accelerator, True)
    if not there:
        raise InputError(
            f"trainer.accelerator is {settings.accelerator}, but torch {torch.__version__} shows no such device on "
            "this machine; set trainer.accelerator=auto, or cpu"
        )
    gpus = 0 if settings.accelerator == "cpu" else cuda if settings.accelerator != "mps" and cuda else int(mps)
    ids, asked = _ids(settings.devices), _number_of(settings.devices) or 1
    if (ids and max(ids) >= gpus) or (gpus and asked > gpus):
        shown = f"{gpus} GPUs, numbered from 0" if gpus else "no GPU"
        raise InputError(
            f"trainer.devices is {settings.devices}, but this machine shows {shown}; "
            f"set trainer.devices={max(1, gpus)}, or leave it out"
        )


def _require_agreement(settings: TrainerConfig, found: Launch) -> None:
    asked, here, by = _number_of(settings.devices), found.local_world, found.launcher
    option = "--nproc-per-node" if by == "torchrun" else "--ntasks-per-node"
    if asked is not None and asked != here:
        raise InputError(
            f"trainer.devices={settings.devices} asks for {asked} processes on a machine, but {by} has started {here}; "
            f"leave trainer.devices out, or start with {option}={asked}"
        )
    if found.world % here or settings.num_nodes not in (1, found.machines):
        raise InputError(
            f"trainer.num_nodes={settings.num_nodes}, but {by} has started {found.world} processes, {here} on this "
            "machine; leave trainer.num_nodes out, and start as many processes on every machine"
        )
    if _on_gpus(settings) and torch.cuda.device_count() < here:
        raise InputError(
            f"{by} has started {here} processes on this machine, which shows {torch.cuda.device_count()} GPUs; "
            f"start with {option}={torch.cuda.device_count()}, or set trainer.accelerator=cpu"
        )


def _require_launcher(settings: TrainerConfig) -> None:
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if tasks != "1" and "SLURM_STEP_ID" not in os.environ and os.environ.get("SLURM_JOB_NAME") != "interactive":
        raise InputError(
            f"SLURM has allotted {tasks} tasks, but srun did not start this process; write 'srun dcs-nas ...' in the "
            "script, or ask for --ntasks=1"
        )
    if settings.num_nodes > 1 and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"trainer.num_nodes={settings.num_nodes} needs a launcher that knows the machines: torchrun "
            f"--nnodes={settings.num_nodes} ... -m dcs_nas ..., or srun; see docs/samples"
        )


def _on_gpus(settings: TrainerConfig) -> bool:
    return settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _ids(devices: int | str) -> list[int]:
    """Numbers of the GPUs that are named one by one, as in ``0,2``; none otherwise."""
    text = str(devices)
    return [int(d) for d in text.split(",") if d.strip().isdigit()] if "," in text else []


def _number_of(devices: int | str) -> int | None:
    """How many devices are asked for; None for all."""
    text = str(devices).strip()
    if text in ("auto", "-1"):
        return None
    return len(_ids(text)) or (int(text) if text.isdigit() else 1)
