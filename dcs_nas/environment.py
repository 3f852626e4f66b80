"""Versions, machine and command, for the records of results; the waiting of OpenMP's threads."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from dcs_nas import __version__

OPENMP_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_ADDRESS = re.compile(r"(?s)(tune\b.*?\bstorage\b['\"]?\s*[=:]\s*).+")  # in tune.storage=... and tune={storage: ...}
_REPORTED = ("torch", "numpy", "nni", "pytorch-lightning", "kornia", "scipy", "networkx", "pillow")


def describe_environment(threads: int | None = None) -> dict[str, Any]:
    """Return versions, machine and command, saved with every result; ``threads`` defaults to torch's number.

    Torch is not loaded for this where the process has not loaded it, such as in a tuning.
    """
    torch = sys.modules.get("torch")
    versions = {"dcs_nas": __version__, "python": platform.python_version()}
    for package in _REPORTED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            **({"threads": threads or torch.get_num_threads()} if torch else {}),
        },
        "command": [Path(sys.argv[0]).name, *read_arguments()],
        "git": _git_revision(),
    }


def read_arguments() -> list[str]:
    r"""Return the arguments of this process for a record, without addresses of ``tune.storage``, which hold passwords.

    >>> _ADDRESS.sub(r"\1...", "tune.storage=postgresql://user:word@host/db")
    'tune.storage=...'
    """
    return [_ADDRESS.sub(r"\1...", word) for word in sys.argv[1:]]


def limit_spinning() -> None:
    """Let waiting threads sleep after 2,000 spins unless the environment sets it; without effect once torch is loaded.

    A thread that waits for another spins first, which takes time from other jobs on the same cores. Results stay.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in OPENMP_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = "2000"


def describe_waiting() -> str:
    """Return how threads wait, for the log."""
    variables = [f"{name}={os.environ[name]}" for name in OPENMP_VARIABLES if name in os.environ]
    return ", ".join(variables) or "waiting as OpenMP sets it"


def _git_revision() -> str | None:
    """Return the revision of the source tree that this package runs from, if it is one."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
