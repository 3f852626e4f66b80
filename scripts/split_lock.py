"""Split uv's lock in three, torch, what its CUDA build brings along, and all else; and write constraints.txt.

    python scripts/split_lock.py ALL.lock [TORCH.whl ...]

Wheels of torch with a local version (2.13.0+cpu) have hashes that PyPI does not know: they are added to torch's, named
in the head of requirements-torch.lock, and kept for as long as torch's version stays.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

LOCK, TORCH, CUDA = (Path(f"requirements{part}.lock") for part in ("", "-torch", "-cuda"))
CONSTRAINTS = Path("constraints.txt")
_CUDA_NAMES = ("cuda-", "nvidia-", "triton")
_NOT_CUDA = ("nvidia-ml-py",)  # NNI's, for every machine
_BUILD = re.compile(r"^# (torch-\S+\.whl) (sha256:[0-9a-f]{64})$", re.MULTILINE)
_WRITTEN = "# Written by scripts/lock.sh from pyproject.toml: every version, and the hashes of all its files on PyPI.\n"
_CUDA_HEAD = _WRITTEN + "# What torch's CUDA build needs beside it.\n"
_BUILDS = "# Builds of torch that PyPI does not have, as pip found them here; their hashes stand with torch's below.\n"


def main(whole: Path, wheels: list[Path]) -> None:
    entries = split(whole.read_text())
    version = next(m[1] for e in entries if (m := re.match(r"torch==([^\s\\;]+)", e)))
    builds = known_builds(version) | {w.name: f"sha256:{_sha256(w)}" for w in wheels if "+" in w.name}
    head = _WRITTEN + (_BUILDS if builds else "") + "".join(f"# {n} {h}\n" for n, h in sorted(builds.items()))
    TORCH.write_text(head + "".join(_with_hashes(e, builds.values()) for e in entries if is_torch(e)))
    CUDA.write_text(_CUDA_HEAD + "".join(e for e in entries if is_cuda(e)))
    LOCK.write_text(_WRITTEN + "".join(e for e in entries if not is_torch(e) and not is_cuda(e)))
    pins = [entry.splitlines()[0].rstrip(" \\") for entry in entries]
    CONSTRAINTS.write_text("# Written by scripts/lock.sh: the versions of the lock files.\n" + "\n".join(pins) + "\n")


def split(text: str) -> list[str]:
    """A lock's entries: ``name==version ; marker`` and the lines of its hashes."""
    return [e for e in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE) if re.match(r"[A-Za-z0-9]", e)]


def is_torch(entry: str) -> bool:
    """Whether it is torch itself."""
    return entry.startswith("torch==")


def is_cuda(entry: str) -> bool:
    """Whether torch's CUDA build alone needs it."""
    return entry.startswith(_CUDA_NAMES) and not entry.startswith(_NOT_CUDA)


def known_builds(version: str) -> dict[str, str]:
    """Wheels of that version of torch that the present lock adds to PyPI's: hashes by file name."""
    text = TORCH.read_text() if TORCH.is_file() else ""
    return {name: value for name, value in _BUILD.findall(text) if name.startswith(f"torch-{version}+")}


def _with_hashes(entry: str, hashes: Iterable[str]) -> str:
    found = set(re.findall(r"sha256:[0-9a-f]{64}", entry)) | set(hashes)
    first = entry.splitlines()[0].rstrip(" \\")
    return " \\\n    ".join([first, *(f"--hash={h}" for h in sorted(found))]) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for part in iter(lambda: file.read(2**20), b""):
            digest.update(part)
    return digest.hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
