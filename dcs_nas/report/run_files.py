"""What a run folder holds, read for a report: nothing is required but ``config.yaml``, and what is damaged is noted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dcs_nas.errors import InputError
from dcs_nas.runs import read_metrics
from dcs_nas.settings import parse_yaml, read_text, read_yaml
from dcs_nas.space import AnyGenotype, load_genotype, parse_genotype
from dcs_nas.space.kinds import FORMAT

T = TypeVar("T")
Table = list[list[float | None]]
_DAMAGE = (
    InputError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError,
    csv.Error,
)  # fmt: skip


@dataclass(frozen=True)
class Epoch:
    """The record of an epoch: mixture weights by name, what their columns are called, and the genotype."""

    number: int
    weights: dict[str, Table]
    names: dict[str, list[str]]
    genotype: AnyGenotype | None


@dataclass(frozen=True)
class Evaluated:
    """An ``evaluation*.json``: the file's name without its ending, and what it holds."""

    name: str
    report: dict[str, Any]


@dataclass
class RunFiles:
    """One run folder. ``notes`` say what could not be read."""

    path: Path
    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, float]] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    genotype: AnyGenotype | None = None
    evaluations: list[Evaluated] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def searched(self) -> bool:
        """Whether the folder holds a search rather than a training."""
        return (self.path / "architecture").is_dir()

    @property
    def trained(self) -> bool:
        """Whether a fixed network was trained in it, wholly or in part."""
        return not self.searched and bool(self.config.get("retrain"))

    @property
    def own_evaluation(self) -> Evaluated | None:
        """The evaluation of the network itself, the plainest there is."""
        own = [e for e in self.evaluations if e.report.get("features") in (None, "network")]
        return min(own, key=lambda e: len(e.name), default=None)


def find_runs(path: Path) -> list[Path]:
    """The run folders that ``path`` stands for: itself, or those in it, a search before what was trained from it.

    Raises:
        InputError: there is no such folder, or no run in it.
    """
    if not path.is_dir():
        raise InputError(f"there is no folder {path}; name the folder of a run, such as results/NAME/search")
    if _is_run(path):
        return [path]
    found = sorted((p for p in path.iterdir() if p.is_dir() and _is_run(p)), key=_search_first)
    if not found:
        raise InputError(
            f"{path} holds no run: neither it nor a folder in it has a config.yaml; name results/NAME, "
            "or the folder that dcs-nas search or retrain wrote"
        )
    return found


def read_run(path: Path) -> RunFiles:
    """All of a run folder that a report shows; ``InputError`` where its ``config.yaml`` is missing or damaged."""
    path = path.resolve()
    run = RunFiles(path, _name(path), read_yaml(path / "config.yaml"), {})
    attempt = _Attempts(run.notes)
    run.environment = attempt(path / "environment.json", _mapping) or {}
    run.data = attempt(path / "data.json", _mapping) or {}
    run.metrics = attempt(path / "metrics.csv", read_metrics) or []
    run.genotype = attempt(path / "genotype.yaml", load_genotype)
    records = sorted((path / "architecture").glob("epoch_*.yaml"))
    run.epochs = [epoch for file in records if (epoch := attempt(file, _epoch)) is not None]
    for file in sorted(path.glob("evaluation*.json")):
        report = attempt(file, _evaluation)
        if report is not None:
            run.evaluations.append(Evaluated(file.stem, report))
    return run


class _Attempts:
    """Reads files, or notes why not; a file that is not there needs no note."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def __call__(self, path: Path, read: Callable[[Path], T]) -> T | None:
        if not path.is_file():
            return None
        try:
            return read(path)
        except _DAMAGE as error:
            words = " ".join(str(error).split())
            self._notes.append(f"{path.name} is left out, since it cannot be read: {words or type(error).__name__}")
            return None


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _search_first(path: Path) -> tuple[bool, str]:
    return not (path / "architecture").is_dir(), path.name


def _name(path: Path) -> str:
    """The folder's name, behind that of the folder around it."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _mapping(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def _evaluation(path: Path) -> dict[str, Any]:
    report = _mapping(path)
    scores = [report["mAP"], report["mINP"], *report["cmc"]]
    if not report["cmc"] or not all(isinstance(s, (int, float)) and math.isfinite(s) for s in scores):
        raise ValueError("its scores are no numbers")
    return report


def _epoch(path: Path) -> Epoch:
    data = parse_yaml(read_text(path), source=path.name)
    weights = {str(name): [[_finite(v) for v in row] for row in rows] for name, rows in data["weights"].items()}
    names = {str(name): [str(option) for option in options] for name, options in data["names"].items()}
    return Epoch(int(data["epoch"]), weights, names, _genotype(data.get("genotype"), path.name))


def _genotype(data: Mapping[str, Any] | None, source: str) -> AnyGenotype | None:
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        return None
    return parse_genotype(data, source=source)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def labels(runs: Sequence[RunFiles]) -> list[str]:
    """A name for each run, different for each: the folder's, behind as many folders as that takes."""
    for depth in range(2, 12):
        names = ["/".join(run.path.parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]
