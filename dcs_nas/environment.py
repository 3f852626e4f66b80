"""Versions, machine and command, for the records of results."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from dcs_nas import __version__

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
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    """Return the revision of the source tree that this package runs from, if it is one."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
