"""How the threads of a process wait for each other. Torch's OpenMP library reads this once, when torch is loaded."""

from __future__ import annotations

import os
import sys

USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_SPINS = "2000"


def limit_spinning() -> None:
    """Have waiting threads sleep after 2,000 spins unless the environment says otherwise.

    A thread that waits for another spins first, and where several jobs share the cores it takes the time that the other
    needs. The limit changes no result. Nothing happens where torch is loaded already.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in USERS):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def spinning() -> str:
    """Return a few words on how threads wait, for the log."""
    found = [f"{name}={os.environ[name]}" for name in USERS if name in os.environ]
    return ", ".join(found) or "the library's own waiting"
