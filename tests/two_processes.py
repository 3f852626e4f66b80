"""``dcs-nas`` as tests of several processes want it: ``[torchrun ... -m | python -m] tests.two_processes COMMAND ...``.

Environment variables change what is tested: ``PLAIN`` takes out batch norms, which see one process's part of a batch
alone; ``ALPHAS`` names a file that gets each process's alphas, ``.rank`` behind it, at the end of a search; ``FAULT``
is ``RANK:EPOCH:HOW``, where a process kills itself (``kill``), raises (``raise``), sleeps (``hang``) or drifts away
from the others by one parameter (``drift``) at the start of an epoch.

``start`` runs a command in a process of its own, from a server that has imported everything once; ``run_together``
starts processes in that way as torchrun does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.distributed import TCPStore

from dcs_nas.cli import main
from dcs_nas.errors import TrainingError
from dcs_nas.models import operations, super_cell
from dcs_nas.processes import get_rank
from dcs_nas.strategies.bilevel import BilevelSearch
from dcs_nas.training.retraining import Retraining


@dataclass(frozen=True)
class Ended:
    """What processes have left: exit codes (below 0: of a signal) and outputs by rank, and seconds they took."""

    codes: list[int | None]
    said: list[str]
    seconds: float

    @property
    def errors(self) -> list[str]:
        """The lines of all outputs in which dcs-nas says what went wrong."""
        lines = [line for text in self.said for line in text.splitlines()]
        return [line for line in lines if line.startswith("dcs-nas") and ": " in line]


def start(arguments: Sequence[str], output: Path, **variables: str) -> BaseProcess:
    """Start ``dcs-nas ARGUMENTS``, whose standard output and standard error go to a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.two_processes", "dcs_nas.training.evaluate"])
    process = context.Process(target=_one, args=(list(arguments), {"OMP_NUM_THREADS": "1", **variables}, output))
    process.start()
    return process


def wait_for(path: Path, process: BaseProcess, seconds: float = 120) -> None:
    """Wait until a running process has written a file."""
    for _ in range(int(seconds / 0.02)):
        if path.exists():
            return
        assert process.is_alive(), process.exitcode
        time.sleep(0.02)
    raise AssertionError(f"{path} did not appear")


def run_together(
    arguments: Sequence[str],
    folder: Path,
    *,
    launcher: str = "torchrun",
    processes: int = 2,
    seconds: float = 120,
    grace: float = 30,
    **variables: str,
) -> Ended:
    """Run a command in ``processes`` that know each other as torchrun's or srun's do.

    As torchrun's agent, this process keeps their store. Those that live on ``grace`` seconds after another has failed,
    or ``seconds`` after the start, are killed.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    places = [_of_torchrun(i, processes, store.port) for i in range(processes)]
    if launcher == "srun":
        store = None
        places = [_of_srun(i, processes) for i in range(processes)]
    began = time.monotonic()
    outputs = [folder / f"rank{i}.txt" for i in range(processes)]
    running = [start(arguments, output, **place, **variables) for output, place in zip(outputs, places)]
    end = began + seconds
    while any(p.is_alive() for p in running) and time.monotonic() < end:
        time.sleep(0.05)
        if any(p.exitcode for p in running):
            end = min(end, time.monotonic() + grace)
            grace = seconds
    for process in running:
        process.kill()
        process.join()
    ended = Ended([p.exitcode for p in running], [o.read_text() for o in outputs], time.monotonic() - began)
    del store
    return ended


def _of_torchrun(rank: int, world: int, port: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    told = {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "localhost"}
    return {**told, **{name: str(value) for name, value in place.items()}}


def _of_srun(rank: int, world: int) -> dict[str, str]:
    """What srun sets for a task on the first of one machine; the port follows from the job's number."""
    place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_NNODES": 1, "SLURM_STEP_ID": 0}
    job = {"SLURM_NTASKS": world, "SLURM_STEP_NUM_TASKS": world, "SLURM_STEP_NUM_NODES": 1}
    job |= {"SLURM_NTASKS_PER_NODE": world, "SLURM_JOB_ID": os.getpid()}
    told = {"SLURM_JOB_NAME": "test", "SLURM_NODELIST": "localhost"}
    return {**told, **{name: str(value) for name, value in {**place, **job}.items()}}


def _one(arguments: list[str], environment: Mapping[str, str], output: Path) -> None:
    os.environ.update(environment)
    os.chdir(Path(__file__).parents[1])
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    torch.set_num_threads(1)
    run(arguments)


def run(arguments: list[str]) -> None:
    """The command, changed as the environment says."""
    if "PLAIN" in os.environ:
        _without_batch_norm()
    if "ALPHAS" in os.environ:
        BilevelSearch.on_train_end = _save_alphas  # type: ignore[method-assign]
    if "FAULT" in os.environ:
        for kind in (BilevelSearch, Retraining):
            kind.on_train_epoch_start = _with_fault(kind.on_train_epoch_start)  # type: ignore[method-assign]
    main(arguments)


def _without_batch_norm() -> None:
    for norm in (nn.BatchNorm1d, nn.BatchNorm2d):
        norm.forward = lambda self, x: x  # type: ignore[method-assign]
    operations.weighted_norm = lambda norm, x, weight: x if weight is None else weight * x
    super_cell._norm = _weighted


def _weighted(norms: Sequence[nn.Module], x: Tensor, weights: Sequence[Tensor] | None) -> Tensor:
    if weights is None:
        return x
    return x * torch.stack(list(weights)).repeat_interleave(x.shape[1] // len(norms)).view(1, -1, 1, 1)


def _save_alphas(module: BilevelSearch) -> None:
    found = {name: alpha.detach().clone() for name, alpha in module.supernet.alphas().items()}
    torch.save(found, f"{os.environ['ALPHAS']}.{get_rank()}")


def _with_fault(begin: Any) -> Any:
    who, epoch, how = os.environ["FAULT"].split(":")

    def begin_epoch(module: LightningModule) -> None:
        begin(module)
        if get_rank() == int(who) and module.current_epoch == int(epoch):
            _fault(module, how)

    return begin_epoch


def _fault(module: LightningModule, how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise TrainingError("the test made this process fail")
    if how == "hang":
        time.sleep(1000)
    with torch.no_grad():
        next(module.parameters()).add_(1e-3)


if __name__ == "__main__":
    run(sys.argv[1:])
