"""The processes that train together, W of them. Known from the launcher before torch.distributed starts."""

from __future__ import annotations

import os


def world() -> int:
    """W: 1 unless torch.distributed runs."""
    return _distributed("get_world_size", 1)


def rank() -> int:
    """This process among those of torch.distributed, from 0."""
    return _distributed("get_rank", 0)


def is_first() -> bool:
    """Whether this is the first of the processes that a launcher (torchrun, SLURM, Lightning) has started."""
    names = ["RANK", "LOCAL_RANK", "NODE_RANK"]
    if launched_world() > 1 and "RANK" not in os.environ:
        names.append("SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def launched_world() -> int:
    """How many processes torchrun or SLURM have started; 1 where neither has."""
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 1


def _distributed(ask: str, alone: int) -> int:
    import torch.distributed as dist

    return int(getattr(dist, ask)()) if dist.is_available() and dist.is_initialized() else alone
