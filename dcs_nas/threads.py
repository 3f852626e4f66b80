"""Waiting of the threads of a process. Torch's OpenMP library reads this once, when torch is loaded."""

from __future__ import annotations

import os
import sys

USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_SPINS = "2000"


def limit_spinning() -> None:
    """Let waiting threads sleep after 2,000 spins unless the environment says otherwise.

    A thread that waits for another spins first, which takes time from the other where several jobs share
    the cores. The limit changes no result. It has no effect once torch is loaded.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in USERS):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def describe_waiting() -> str:
    """Return how threads wait, for the log."""
    variables = [f"{name}={os.environ[name]}" for name in USERS if name in os.environ]
    return ", ".join(variables) or "waiting as OpenMP sets it"
