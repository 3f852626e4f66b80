"""Exit code 0 where the installed torch asks for CUDA's libraries on this machine, 1 where it does not."""

from __future__ import annotations

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement


def wants_cuda() -> bool:
    found = map(Requirement, requires("torch") or [])
    asked = (r.name for r in found if r.marker is None or r.marker.evaluate({"extra": ""}))
    return any(name.startswith(("nvidia-", "cuda-")) for name in asked)


if __name__ == "__main__":
    sys.exit(not wants_cuda())
