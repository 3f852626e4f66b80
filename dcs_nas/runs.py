"""Run folders: seeds, environment stamp, log, metrics. Nothing is overwritten silently."""

from __future__ import annotations

import csv
import io
import logging
import os
import platform
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from dcs_nas import __version__
from dcs_nas.config import Config
from dcs_nas.errors import InputError
from dcs_nas.files import write_json, write_text
from dcs_nas.processes import is_first
from dcs_nas.settings import parse, read_yaml, to_yaml

_REPORTED = ("torch", "numpy", "nni", "pytorch-lightning", "kornia", "scipy", "networkx", "pillow")


def environment() -> dict[str, Any]:
    """Versions, machine and command, kept with every result."""
    versions = {"dcs_nas": __version__, "python": platform.python_version()}
    for package in _REPORTED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _git_revision(),
    }


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
    torch.manual_seed(mixed)


def mix_seed(*key: int) -> int:
    """One 32-bit seed from several integers (CRC-32 of their text): the same everywhere and at every time."""
    return zlib.crc32(",".join(str(int(k)) for k in key).encode())


class RunFolder:
    """The folder of one run: ``config.yaml``, ``environment.json``, ``log.txt``, ``metrics.csv``, results."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def start(cls, path: Path, config: Config, *, resume: bool = False, overwrite: bool = False) -> RunFolder:
        """Make, continue or replace a run folder.

        Raises ``InputError`` where the folder holds another run and neither ``resume`` nor ``overwrite`` is given,
        where there is nothing to resume, or where the settings to resume with differ from those it began with.
        Of several processes the first alone does all this.
        """
        if not is_first():
            return cls(path)
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other; give one")
        run, began = cls(path), path / "config.yaml"
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, expected a run folder; choose another name")
        if resume:
            run._check_same(config)
            return run
        if began.exists() and not overwrite:
            raise InputError(f"{path} holds a run already; continue it with --resume or replace it with --overwrite")
        if path.is_dir() and not began.exists() and any(p.name != "log.txt" for p in path.iterdir()):
            raise InputError(f"{path} is not empty and holds no run; choose another name or folder")
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        write_json(path / "environment.json", environment())
        write_text(began, to_yaml(config))
        return run

    def config(self) -> Config:
        """The resolved settings that the run began with."""
        path = self.path / "config.yaml"
        if not path.is_file():
            raise InputError(f"{self.path} is not a run folder: it has no config.yaml")
        return parse(Config, read_yaml(path), source=str(path))

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _check_same(self, config: Config) -> None:
        if not (self.path / "config.yaml").is_file():
            raise InputError(f"there is no run to resume in {self.path}; start it without --resume")
        old, new = (_flat(c.model_dump(mode="json")) for c in (self.config(), config))
        changed = [key for key in old | new if old.get(key) != new.get(key)]
        if changed:
            key = changed[0]
            raise InputError(
                f"{self.path} began with {key}={old.get(key)}, not {new.get(key)}; "
                "resume with the same settings, or use --overwrite"
            )


class MetricsFile:
    """``metrics.csv``: one row per epoch, kept whole across interruptions.

    Rows at or after the epoch that a run resumes from are dropped, since that run writes them again.
    """

    def __init__(self, path: Path, *, first_epoch: int = 0) -> None:
        self.path = path
        self.rows = [r for r in read_metrics(path) if r["epoch"] < first_epoch] if path.is_file() else []

    def append(self, epoch: int, values: Mapping[str, float]) -> None:
        self.rows.append({"epoch": epoch, **values})
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.csv`` as numbers; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what dcs_nas logs to a file, with times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("dcs_nas")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _git_revision() -> str | None:
    """The revision of the source tree that this package runs from, if it is one."""
    try:
        shown = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None
