"""Random seeds: one number for every step of a run."""

from __future__ import annotations

import functools
import zlib


def seed_everything(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators from integers such as (seed, epoch, step).

    Seeding before every step from its number makes a resumed run draw what the uninterrupted one would have.
    """
    import random

    import numpy as np
    import torch

    mixed = mix_seed(*key)
    random.seed(mixed)
    np.random.seed(mixed)
    if _has_accelerator():
        torch.manual_seed(mixed)
    else:  # torch.manual_seed takes a traceback for each absent device: some milliseconds a step
        torch.default_generator.manual_seed(mixed)


@functools.cache
def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def mix_seed(*key: int) -> int:
    """Return one 32-bit seed from several integers (CRC-32 of their text): the same on every machine."""
    return zlib.crc32(",".join(str(int(k)) for k in key).encode())
