"""What the files of a run folder say of it. Reads small files alone; a damaged one is a dash, not an error."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dcs_nas.errors import InputError
from dcs_nas.settings import read_yaml

_INSIDE = frozenset({"architecture", "checkpoints", "export", "graphs", "ranked", "tensorboard"})
_DEPTH = 5


@dataclass(frozen=True)
class RunFacts:
    """One run. ``epochs`` are those done; ``mAP`` is that of its plainest evaluation, None where there is none.

    ``mAP_of`` tells what sets that evaluation apart; it is empty for ``evaluation.json``.
    """

    path: Path
    command: str
    finished: bool
    changed: datetime
    data: str
    seed: int | None
    epochs: int
    of_epochs: int | None
    mAP: float | None
    config: dict[str, Any]
    mAP_of: str = ""

    @property
    def state(self) -> str:
        return "finished" if self.finished else "unfinished"

    @property
    def progress(self) -> str:
        return f"{self.epochs}/{'?' if self.of_epochs is None else self.of_epochs}"


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "environment.json").is_file()


def find_runs(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """The run folders in and below ``root``, in order of their names; links and hidden folders are not followed."""
    if is_run(root):
        yield root
    if depth == 0:
        return
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in _INSIDE:
            yield from find_runs(Path(entry.path), depth - 1)


def read_facts(folder: Path) -> RunFacts:
    """The facts of a run; ``InputError`` where the folder holds none."""
    if not is_run(folder):
        raise InputError(f"{folder} is not a run folder: expected config.yaml and environment.json in it")
    config = _mapping(folder / "config.yaml")
    command = _command(folder, config)
    data, section = _section(config, "data"), _section(config, command)
    score, variant = _plainest_score(folder)
    return RunFacts(
        path=folder,
        command=command,
        finished=_finished(folder, command),
        changed=datetime.fromtimestamp(max(f.stat().st_mtime for f in folder.iterdir() if f.is_file())),
        data=str(_json(folder / "data.json").get("version") or data.get("name", "-")),
        seed=config.get("seed"),
        epochs=_epochs_done(folder),
        of_epochs=section.get("epochs"),
        mAP=score,
        config=config,
        mAP_of=variant,
    )


def settings_of(facts: RunFacts) -> dict[str, Any]:
    """The settings of a run as ``data.height``: 256 and so on."""
    return _flat(facts.config, "")


def scores_of(folder: Path) -> dict[str, float]:
    """Every score of a run: of its evaluations by file, and the last value of each column of ``metrics.csv``."""
    found: dict[str, float] = {}
    for file in sorted(folder.glob("evaluation*.json")):
        report, name = _json(file), file.stem
        cmc = report.get("cmc")
        first = cmc[0] if isinstance(cmc, list) and cmc else None
        values = {"mAP": report.get("mAP"), "mINP": report.get("mINP"), "rank-1": first}
        found |= {f"{name} {key}": s for key, value in values.items() if (s := _score(value)) is not None}
    return found | _last_metrics(folder)


def _plainest_score(folder: Path) -> tuple[float | None, str]:
    """The mAP of the plainest evaluation, and what sets it apart; baselines come after the network's own."""
    found = []
    for file in folder.glob("evaluation*.json"):
        report, variant = _json(file), file.stem.removeprefix("evaluation").strip("_").replace("_", ", ")
        score = _score(report.get("mAP"))
        if score is not None:
            baseline = report.get("features", "network") != "network"
            found.append((baseline, len(variant.split(", ")) if variant else 0, variant, score))
    return (min(found)[3], min(found)[2]) if found else (None, "")


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _command(folder: Path, config: dict[str, Any]) -> str:
    """search, retrain or tune: as it was typed, or as the folder's name or content tells."""
    typed = _json(folder / "environment.json").get("command")
    known = ("search", "retrain", "tune")
    words = [*(typed if isinstance(typed, list) else [])[1:2], folder.name]
    sections = [name for name in known if isinstance(config.get(name), dict)]
    if (folder / "architecture").is_dir():
        words.append("search")
    if (folder / "finished.yaml").is_file():
        words.append("retrain")
    return next((word for word in words if word in known), sections[0] if len(sections) == 1 else "?")


def _finished(folder: Path, command: str) -> bool:
    last = {"search": "genotype.yaml", "tune": "best.yaml"}.get(command, "finished.yaml")
    return (folder / last).is_file()


def _epochs_done(folder: Path) -> int:
    epoch = _last_metrics(folder).get("epoch")
    return 0 if epoch is None else int(epoch) + 1


def _last_metrics(folder: Path) -> dict[str, float]:
    from dcs_nas.runs import read_metrics

    try:
        rows = read_metrics(folder / "metrics.csv")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, csv.Error):
        return {}
    return dict(rows[-1]) if rows else {}


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _mapping(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except InputError:
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _flat(data: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        inner = value if isinstance(value, dict) and value else None
        flat |= {f"{prefix}{key}": value} if inner is None else _flat(inner, f"{prefix}{key}.")
    return flat
