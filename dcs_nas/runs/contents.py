"""The contents of a run folder, for lists and reports; a damaged file is skipped with a note."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from dcs_nas.config import TRIAL_STRATEGIES, SearchConfig, rename_config_keys
from dcs_nas.errors import Attempts
from dcs_nas.settings import parse_yaml, read_text, read_yaml
from dcs_nas.space import AnyGenotype, load_genotype, parse_genotype
from dcs_nas.space.kinds import FORMAT

if TYPE_CHECKING:
    from dcs_nas.runs.folder import RunFolder

T = TypeVar("T")
Table = list[list[float | None]]
KINDS = ("search", "pretrain", "retrain", "tune")


@dataclass(frozen=True)
class EpochRecord:
    """The record of an epoch of a search: mixture weights by name, names of their columns, and the genotype."""

    number: int
    weights: dict[str, Table]
    names: dict[str, list[str]]
    genotype: AnyGenotype | None


@dataclass(frozen=True)
class Evaluation:
    """An ``evaluation*.json``: the file's name without its ending, and its content."""

    name: str
    report: dict[str, Any]

    @property
    def variant(self) -> str:
        """The options in its name, such as ``rerank, flip``; empty for ``evaluation.json``."""
        return self.name.removeprefix("evaluation").strip("_").replace("_", ", ")

    @property
    def is_baseline(self) -> bool:
        """True if the features are not those of the trained network."""
        return self.report.get("features") not in (None, "network")

    @property
    def epoch(self) -> int | None:
        """The number of epochs that the network had been trained for; None where that is not recorded, or the best."""
        known = not self.is_baseline and self.report.get("checkpoint") != "best"
        return self.report.get("epoch") if known else None

    @property
    def scores(self) -> dict[str, float]:
        """mAP, mINP and rank-1, in [0, 1]."""
        return {"mAP": self.report["mAP"], "mINP": self.report["mINP"], "rank-1": self.report["cmc"][0]}


class RunContents:
    """A reader of a run folder that reads each part on first access.

    Attributes:
        path: the folder.
        files: the paths of its files.
        notes: one line for each file that could not be read.
    """

    def __init__(self, run: RunFolder) -> None:
        self.path, self.files = run.path, run
        self.notes: list[str] = []
        self._attempt = Attempts(self.notes)

    @property
    def name(self) -> str:
        """The names of the parent folder and of the folder."""
        return f"{self.path.parent.name}/{self.path.name}" if self.path.parent.name else self.path.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """The recorded settings, under their present names."""
        return rename_config_keys(self._read(self.files.config_file, read_yaml) or {})

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and command."""
        return self._read(self.files.environment_file, _read_json) or {}

    @cached_property
    def data(self) -> dict[str, Any]:
        """The images that the run began with."""
        return self._read(self.files.data_file, _read_json) or {}

    @cached_property
    def weights(self) -> dict[str, Any]:
        """The record of the tensors that a weights file supplied."""
        return self._read(self.files.weights_file, _read_json) or {}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """A row of figures for each epoch or trial."""
        return self._read(self.files.metrics_file, read_metrics) or []

    @cached_property
    def genotype(self) -> AnyGenotype | None:
        """The genotype that was searched or trained."""
        return self._read(self.files.genotype_file, load_genotype)

    @cached_property
    def epochs(self) -> list[EpochRecord]:
        """The records of a search's epochs or trials, in order."""
        files = sorted(self.files.architecture.glob("epoch_*.yaml"))
        records = (record for file in files if (record := self._read(file, _read_epoch)) is not None)
        return sorted(records, key=lambda record: record.number)

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations, by the names of their files, but for those of a checkpoint that was trained on since."""
        files = sorted(self.path.glob("evaluation*.json"))
        all_read = [e for file in files if (e := self._read(file, _read_evaluation)) is not None]
        old = [e for e in all_read if e.epoch is not None and e.epoch < self.steps_done]
        self.notes += [f"{e.name}.json is of epoch {e.epoch}, not {self.steps_done}; evaluate again" for e in old]
        return [e for e in all_read if e not in old]

    @cached_property
    def kind(self) -> str:
        """``search``, ``pretrain``, ``retrain``, ``tune``, or ``?``: by files, else by command, name or settings."""
        trained = "pretrain" if self.section("pretrain") else "retrain"
        files = {"search": self.files.architecture, trained: self.files.finished_file, "tune": self.files.job_file}
        typed = self.environment.get("command")
        words = [kind for kind, file in files.items() if file.exists()]
        words += [*(typed if isinstance(typed, list) else [])[1:2], self.path.name]
        sections = [kind for kind in KINDS if isinstance(self.config.get(kind), dict)]
        return next((word for word in words if word in KINDS), sections[0] if len(sections) == 1 else "?")

    @property
    def searched(self) -> bool:
        """True for a search."""
        return self.kind == "search"

    @property
    def trained(self) -> bool:
        """True for a training of a fixed network, finished or not."""
        return self.kind in ("pretrain", "retrain")

    @cached_property
    def is_finished(self) -> bool:
        """True if the last file of the run has been written."""
        last = {"search": self.files.genotype_file, "tune": self.files.best_file}
        return last.get(self.kind, self.files.finished_file).is_file()

    @property
    def state(self) -> str:
        """``finished`` or ``unfinished``."""
        return "finished" if self.is_finished else "unfinished"

    @property
    def changed(self) -> datetime:
        """The time of the last change of a file directly in the folder."""
        times = [self.path.stat().st_mtime]
        for file in self.path.iterdir():
            with suppress(FileNotFoundError):  # a temporary file of a job at work
                times += [file.stat().st_mtime] if file.is_file() else []
        return datetime.fromtimestamp(max(times[1:] or times))

    @property
    def seed(self) -> int | None:
        """The random seed."""
        return self.config.get("seed")

    @property
    def data_version(self) -> str:
        """The version of the data set, or its name in the settings."""
        return str(self.data.get("version") or self.section("data").get("name") or "-")

    @property
    def step(self) -> str:
        """The word for a row of the metrics: ``trial`` in a search by trials, else ``epoch``."""
        return "trial" if self.searched and self.section("search").get("strategy") in TRIAL_STRATEGIES else "epoch"

    @property
    def steps_done(self) -> int:
        """The number of epochs or trials done."""
        return int(self.metrics[-1]["epoch"]) + 1 if self.metrics else 0

    @property
    def steps_wanted(self) -> int | None:
        """The number of epochs, or of trials at most; None where the settings lack it."""
        section = self.section(self.kind)
        if self.step == "epoch":
            return section.get("epochs")
        wanted: int | None = (section.get("trials") or {}).get("trials")
        if wanted is not None:
            with suppress(ValidationError):  # settings of another version
                return SearchConfig.model_validate(section).most_trials
        return wanted

    @property
    def progress(self) -> str:
        """Epochs or trials done of the total, such as ``3/10``."""
        total = self.steps_wanted
        return f"{self.steps_done}/{'?' if total is None else total}"

    @property
    def plainest_evaluation(self) -> Evaluation | None:
        """The evaluation with the fewest options; baselines come after the network's own."""
        key = lambda e: (e.is_baseline, len(e.variant.split(", ")) if e.variant else 0, e.variant)  # noqa: E731
        return min(self.evaluations, key=key, default=None)

    @property
    def own_evaluation(self) -> Evaluation | None:
        """The plainest evaluation of the network itself."""
        evaluation = self.plainest_evaluation
        return None if evaluation is None or evaluation.is_baseline else evaluation

    @property
    def scores(self) -> dict[str, float]:
        """Every score: of the evaluations by file, and the last value of each column of the metrics."""
        scores = {f"{e.name} {name}": score for e in self.evaluations for name, score in e.scores.items()}
        return scores | (self.metrics[-1] if self.metrics else {})

    def section(self, name: str) -> dict[str, Any]:
        """Return a section of the settings, empty where there is none."""
        section = self.config.get(name)
        return section if isinstance(section, dict) else {}

    def read_all(self) -> RunContents:
        """Read every part; ``notes`` is complete then."""
        for name in ("environment", "data", "weights", "metrics", "genotype", "epochs", "evaluations"):
            getattr(self, name)
        return self

    def _read(self, path: Path, read: Callable[[Path], T]) -> T | None:
        return self._attempt(path.name, lambda: read(path), None) if path.is_file() else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``metrics.csv`` as numbers; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with keys such as ``data.height``.

    >>> flatten({"name": "a", "data": {"height": 64, "options": {}}})
    {'name': 'a', 'data.height': 64, 'data.options': {}}
    """
    items: dict[str, Any] = {}
    for key, value in data.items():
        nested = isinstance(value, dict) and value
        items |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return items


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def _read_evaluation(path: Path) -> Evaluation:
    report = _read_json(path)
    scores = [report["mAP"], report["mINP"], *report["cmc"]]
    if not report["cmc"] or not all(isinstance(s, (int, float)) and math.isfinite(s) for s in scores):
        raise ValueError("its scores are not finite numbers")
    return Evaluation(path.stem, report)


def _read_epoch(path: Path) -> EpochRecord:
    data = parse_yaml(read_text(path), source=path.name)
    weights = {str(name): [[_finite(v) for v in row] for row in rows] for name, rows in data["weights"].items()}
    names = {str(name): [str(option) for option in options] for name, options in data["names"].items()}
    genotype = data.get("genotype")
    known = isinstance(genotype, Mapping) and genotype.get("format") == FORMAT
    read = parse_genotype(genotype, source=path.name) if known else None
    return EpochRecord(int(data["epoch"]), weights, names, read)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
