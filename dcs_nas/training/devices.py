"""Devices and processes of a job: its settings, the devices of the machine and the processes of the launcher."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from dcs_nas.config import Config, TrainerConfig
from dcs_nas.errors import InputError
from dcs_nas.processes import Launch, count_launched, find_launch


def require_consistent(config: Config, launched: Launch | None, *, training: bool = True) -> None:
    """Raise ``InputError`` if settings, machine and launcher contradict each other.

    Args:
        config: the settings of the job.
        launched: the launch of this process by torchrun or srun.
        training: True if batches are divided among the processes.
    """
    settings = config.trainer
    if training:
        _require_devices(settings)
        for name in settings.loggers:
            if find_spec(name) is None:
                raise InputError(
                    f"trainer.loggers names {name}, which is not installed; pip install {name}, or leave it out"
                )
    if launched is None:
        _require_launcher(settings)
    else:
        _require_agreement(settings, launched)
    processes, identities = count_processes(settings), config.data.identities_per_batch
    if training and identities % processes:
        raise InputError(
            f"data.identities_per_batch={identities} does not divide among {processes} processes; "
            f"set it to a multiple of {processes}"
        )
    if training and settings.precision == "16-mixed" and settings.on_cpu:
        raise InputError(
            "trainer.precision is 16-mixed, which needs a GPU, but this job runs on the CPU; "
            "use trainer.precision=bf16-mixed or 32-true"
        )
    if training and settings.compile == "cuda-graphs" and not on_gpus(settings):
        raise InputError(
            "trainer.compile is cuda-graphs, which needs a CUDA GPU, but this job runs without one; "
            "set trainer.compile=off"
        )


def count_processes(settings: TrainerConfig) -> int:
    """Return the number of training processes: of the launcher if there is one, else of the settings."""
    if find_launch() is not None:
        return count_launched()
    if str(settings.devices).strip() == "-1" and on_gpus(settings):
        devices = torch.cuda.device_count()
    else:
        devices = _number_of(settings.devices) or 1
    return max(1, devices) * settings.num_nodes


def devices_and_machines(settings: TrainerConfig) -> tuple[int | str, int]:
    """Return Lightning's ``devices`` and ``num_nodes``; the launcher decides if the settings do not."""
    launched = find_launch()
    if launched is None:
        all_of_a_cpu = str(settings.devices).strip() == "-1" and not on_gpus(settings)
        return (1 if settings.devices == "auto" or all_of_a_cpu else settings.devices), settings.num_nodes
    return (settings.devices if gpu_ids(settings) else launched.local_world), launched.machines


def on_gpus(settings: TrainerConfig) -> bool:
    """Return whether the job runs on CUDA devices."""
    return settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def gpu_ids(settings: TrainerConfig) -> list[int]:
    """Return the GPUs listed as in ``0,2``; an empty list otherwise."""
    text = str(settings.devices)
    return [int(d) for d in text.split(",") if d.strip().isdigit()] if "," in text else []


def _require_devices(settings: TrainerConfig) -> None:
    """Raise ``InputError`` if the settings request devices that this machine does not have."""
    cuda, mps = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    available = {"gpu": cuda > 0 or mps, "cuda": cuda > 0, "mps": mps}.get(settings.accelerator, True)
    if not available:
        raise InputError(
            f"trainer.accelerator is {settings.accelerator}, but torch {torch.__version__} shows no such device on "
            "this machine; set trainer.accelerator=auto, or cpu"
        )
    gpus = 0 if settings.accelerator == "cpu" else cuda if settings.accelerator != "mps" and cuda else int(mps)
    ids, asked = gpu_ids(settings), _number_of(settings.devices) or 1
    if (ids and max(ids) >= gpus) or (gpus and asked > gpus):
        shown = f"{gpus} GPUs, numbered from 0" if gpus else "no GPU"
        raise InputError(
            f"trainer.devices is {settings.devices}, but this machine shows {shown}; "
            f"set trainer.devices={max(1, gpus)}, or leave it out"
        )


def _require_agreement(settings: TrainerConfig, launched: Launch) -> None:
    asked, here, by = _number_of(settings.devices), launched.local_world, launched.launcher
    option = "--nproc-per-node" if by == "torchrun" else "--ntasks-per-node"
    if asked is not None and asked != here:
        raise InputError(
            f"trainer.devices={settings.devices} asks for {asked} processes on a machine, but {by} has started {here}; "
            f"leave trainer.devices out, or start with {option}={asked}"
        )
    if launched.world % here or settings.num_nodes not in (1, launched.machines):
        raise InputError(
            f"trainer.num_nodes={settings.num_nodes}, but {by} has started {launched.world} processes, {here} on this "
            "machine; leave trainer.num_nodes out, and start as many processes on every machine"
        )
    if on_gpus(settings) and torch.cuda.device_count() < here:
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


def _number_of(devices: int | str) -> int | None:
    """Return the number of requested devices; None for all."""
    text = str(devices).strip()
    if "," in text:
        return len([d for d in text.split(",") if d.strip()])
    return None if text in ("auto", "-1") else int(text)
