"""The folder of a run: this module names, writes and reads its files. Nothing is overwritten silently."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from dcs_nas.config import Config, rename_config_keys
from dcs_nas.config.trainer import PRECISION_NAMES
from dcs_nas.data.fingerprint import DATA_FILE
from dcs_nas.environment import describe_environment
from dcs_nas.errors import InputError
from dcs_nas.extensions import Extension, from_record, load_recorded, require_recorded, to_record
from dcs_nas.files import LEFTOVER, write_json, write_text
from dcs_nas.processes import is_first, signal_done, wait_for
from dcs_nas.runs.contents import RunContents, read_metrics
from dcs_nas.runs.lock import require_free
from dcs_nas.runs.log import log_to
from dcs_nas.runs.opening import CONFIG, ENVIRONMENT, LOG, open_folder, require_same
from dcs_nas.settings import dump_yaml, make_paths_absolute, parse, read_yaml, to_yaml
from dcs_nas.space import AnyGenotype, load_genotype

log = logging.getLogger(__name__)
_CHANGE_BITS = {"versions": ("torch", "numpy", "python"), "machine": ("processor", "threads")}
_MAY_CHANGE: Any = {  # data are checked by fingerprint (dcs_nas.data.fingerprint), extensions by content
    "trainer": {"devices", "num_nodes", "timeout_minutes"},
    "search": {"trials": {"concurrency", "gpus"}},
    "data": {"root": True, "cache": True, "also": {"__all__": {"root"}}, "test": {"root"}},
    "results": True,
    "extensions": True,
}
_LONGEST_NAME = 150
_SHARED_SECONDS = 60  # a network file system may show files of another machine that late

_INSIDE = frozenset({"architecture", "checkpoints", "export", "graphs", "ranked", "tensorboard"})
_DEPTH = 5
_ALSO = (  # written below, by the modules of searches, tunings and loggers
    "evaluation*.json", "labels.json", "pool.yaml", "supernet", "trial_[0-9]*", "trials", "trials.json", "workers",
    "logs", "journal.log*", "tensorboard", "wandb", "mlflow", "mlflow.db*", f"{LEFTOVER}*",
)  # fmt: skip


class RunFolder:
    """The folder of a search, a training or a tuning: ``path``, and in it the files and folders below."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / CONFIG  # the resolved settings that the run began with
        self.environment_file = path / ENVIRONMENT  # versions, machine, command, extensions
        self.log_file = path / LOG  # with times
        self.data_file = path / DATA_FILE  # the images that the run began with
        self.metrics_file = path / "metrics.csv"  # a row of figures for each epoch
        self.genotype_file = path / "genotype.yaml"  # the result of a search, or the genotype that is trained
        self.weights_file = path / "weights.json"  # what the network took from a weights file
        self.finished_file = path / "finished.yaml"  # of a training, its last file: data and duration
        self.report_file = path / "report.html"
        self.job_file = path / "job.yaml"  # of a tuning, the settings that its trials begin with
        self.trials_file = path / "trials.csv"  # of a tuning, the table of its trials
        self.best_file = path / "best.yaml"  # of a tuning, the settings of its best trial
        self.checkpoints = path / "checkpoints"
        self.architecture = path / "architecture"  # of a search, the records of its epochs
        self.graphs = path / "graphs"
        self.exported = path / "export"
        self.ranked = path / "ranked"  # ranked lists
        self._rows: list[dict[str, Any]] | None = None

    @classmethod
    def default(cls, config: Config, kind: Literal["search", "pretrain", "retrain", "tune"]) -> RunFolder:
        """Return the default run folder of a job, ``results/NAME/KIND``."""
        return cls(config.results / config.name / kind)

    @classmethod
    @contextmanager
    def open(cls, path: Path, config: Config, *, resume: bool = False, overwrite: bool = False) -> Iterator[RunFolder]:
        """Create, resume or replace a run folder, and hold its lock within the context.

        Only the first process does this; the others wait for it.

        Raises:
            InputError: another process works in the folder, it holds another run and neither ``resume`` nor
                ``overwrite`` is set, there is nothing to resume, or the settings differ from those of the run.
        """
        run = cls(path)
        if not is_first():
            wait_for(f"{path} is open")
            run._require_shared()
            yield run
            return
        with open_folder(run, what="run", resume=resume, overwrite=overwrite):
            now = describe_environment(config.trainer.threads)
            if resume:
                run.require_settings(config)
                require_recorded(run.extensions(), path, config.extensions)
                run._warn_of_changes(now)
            else:
                extensions = {"extensions": to_record(config.extensions)} if config.extensions else {}
                write_json(run.environment_file, {**now, **extensions})
                write_text(run.config_file, to_yaml(make_paths_absolute(config)))
            signal_done(f"{path} is open")
            yield run

    @staticmethod
    def require_free(path: Path) -> None:
        """Raise ``InputError`` if another process works in the folder; call it before a long preparation."""
        if is_first():
            require_free(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def records(self) -> list[Path]:
        """Return the files that a run is read and resumed by, where the folder holds a run."""
        files = [path for path in vars(self).values() if isinstance(path, Path) and path.suffix]
        return [path for path in files if path != self.report_file] if self.is_run() else []

    def parts(self) -> list[Path]:
        """Return the files and folders there that runs write, ``config.yaml`` first: without it the folder is no run.

        What else lies in the folder is the user's.
        """
        names = [path.name for path in vars(self).values() if isinstance(path, Path) and path != self.path]
        return list(dict.fromkeys(path for name in (*names, *_ALSO) for path in self.path.glob(name)))

    def checkpoint(self, name: str) -> Path:
        """Return the file of a checkpoint: ``last``, ``previous`` or ``best``."""
        return self.checkpoints / f"{name}.ckpt"

    def evaluation_file(self, *variants: str) -> Path:
        """Return the file of scores; ``variants`` are its options, such as ``rerank``. A long name ends with a hash."""
        name = re.sub(r"[^A-Za-z0-9_.+-]", "-", "_".join(["evaluation", *variants]))
        if len(name) > _LONGEST_NAME:
            name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return self.path / f"{name}.json"

    def epoch_file(self, epoch: int) -> Path:
        """Return the file of the record of an epoch, from 0."""
        return self.architecture / f"epoch_{epoch:03d}.yaml"

    def is_run(self) -> bool:
        """Return whether there is a run in the folder."""
        return self.config_file.is_file() and self.environment_file.is_file()

    def config(self) -> Config:
        """Return the resolved settings that the run began with; ``InputError`` where there is no run."""
        if not self.config_file.is_file():
            raise InputError(f"{self.path} is not a run folder: it has no config.yaml; name a run folder")
        return parse(Config, _upgrade(read_yaml(self.config_file)), source=str(self.config_file))

    def require_settings(self, config: Config) -> None:
        """Raise ``InputError`` if a setting differs from the one that the run began with."""
        require_same(self.path, self.config(), config, may_change=_MAY_CHANGE)

    def require_genotype(self, genotype: AnyGenotype) -> None:
        """Raise ``InputError`` if the run began with another genotype."""
        if self.genotype_file.is_file() and self.genotype() != genotype:
            raise InputError(
                f"{self.path} began with another genotype; resume with its own, {self.genotype_file}, "
                "or use --overwrite"
            )

    def extensions(self) -> list[Extension]:
        """Return the user-supplied files that the run began with; ``InputError`` where the record is damaged."""
        try:
            return from_record(self._read_environment().get("extensions", []))
        except (ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"{self.environment_file} is damaged ({error}); restore it, or repeat the run") from None

    def load_extensions(self) -> None:
        """Import the user-supplied files that the run began with (``dcs_nas.extensions.load_recorded``)."""
        load_recorded(self.extensions(), self.path)

    def genotype(self) -> AnyGenotype:
        """Return the searched or trained genotype; raise ``InputError`` if there is none yet."""
        return load_genotype(self.genotype_file)

    def metrics(self) -> list[dict[str, Any]]:
        """Return one row of figures per epoch, without empty cells."""
        return read_metrics(self.metrics_file)

    def contents(self) -> RunContents:
        """Return a reader of the folder, which skips damaged and missing files with a note."""
        return RunContents(self)

    def read(self) -> RunContents:
        """Read the whole folder; raise ``InputError`` if ``config.yaml`` is missing or damaged."""
        read_yaml(self.config_file)
        return self.contents().read_all()

    def epoch_genotypes(self) -> list[tuple[int, AnyGenotype]]:
        """Return the genotypes that a search recorded, with their epochs from 1, in order."""
        numbered = [(path.stem.removeprefix("epoch_"), path) for path in self.architecture.glob("epoch_*.yaml")]
        genotypes = [(int(n) + 1, load_genotype(path)) for n, path in numbered if n.isdecimal()]
        return sorted(genotypes, key=lambda pair: pair[0])

    def write_metrics(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the row of an epoch, and drop rows at or after it from before an interruption."""
        if self._rows is None:
            self._rows = self.metrics() if self.metrics_file.is_file() else []
        self._rows = [*(row for row in self._rows if row["epoch"] < epoch), {"epoch": epoch, **values}]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in self._rows for key in row)))
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.metrics_file, text.getvalue())

    def write_epoch(
        self,
        epoch: int,
        genotype: AnyGenotype,
        *,
        names: Mapping[str, Sequence[Any]],
        weights: Mapping[str, Any],
        alphas: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the record of an epoch of a search, from 0.

        Args:
            epoch: the number of the epoch.
            genotype: the genotype derived after it.
            names: the candidates in the columns of the weights, by kind.
            weights: mixture weights, a list of rows or a tensor for each name.
            alphas: the architecture parameters in the same form.
        """
        content = {
            "epoch": epoch,
            "names": {name: list(columns) for name, columns in names.items()},
            "alphas": {name: _as_rows(values) for name, values in (alphas or {}).items()},
            "weights": {name: _as_rows(values) for name, values in weights.items()},
            "genotype": genotype.model_dump(mode="json", by_alias=True),
        }
        write_text(self.epoch_file(epoch), dump_yaml(content))

    def write_genotype(self, genotype: AnyGenotype) -> None:
        """Write ``genotype.yaml``, the last file of a search: it marks the search as finished."""
        write_text(self.genotype_file, genotype.to_yaml())

    def write_finished(self, facts: Mapping[str, Any]) -> None:
        """Write ``finished.yaml``, the last file of a retraining."""
        write_text(self.finished_file, dump_yaml(dict(facts)))

    def _read_environment(self) -> dict[str, Any]:
        file = self.environment_file
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def _warn_of_changes(self, now: Mapping[str, Any]) -> None:
        """Warn of changes that keep a resumed run from the bits of an uninterrupted one."""
        began = self._read_environment()
        changes = []
        for part, names in _CHANGE_BITS.items():
            then = began.get(part)
            if isinstance(then, dict):
                pairs = [(name, then[name], now[part][name]) for name in names if name in then and name in now[part]]
                changes += [f"{name} {old} then, {new} now" for name, old, new in pairs if old != new]
        if changes:
            with log_to(self.log_file):
                log.warning(
                    "%s resumes under other conditions, so results may differ in their last bits: %s",
                    self.path, "; ".join(changes),
                )  # fmt: skip

    def _require_shared(self) -> None:
        """Raise ``InputError`` if this process does not see the folder that the first process has opened."""
        for _ in range(_SHARED_SECONDS):
            if self.config_file.is_file():
                return
            time.sleep(1)
        raise InputError(
            f"{socket.gethostname()} does not see {self.path}, where the first process works; "
            "set results to a folder that all machines share"
        )


def find_runs(root: Path, depth: int = _DEPTH) -> Iterator[RunFolder]:
    """Yield the run folders in and below ``root``, in order of names; links and hidden folders are not followed."""
    run = RunFolder(root)
    if run.is_run():
        yield run
    if depth == 0:
        return
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in _INSIDE:
            yield from find_runs(Path(entry.path), depth - 1)


def list_runs(root: Path) -> list[RunContents]:
    """Return the runs in and below ``root``, latest first; raise ``InputError`` if there are none."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; name the one that holds your runs")
    runs = sorted((run.contents() for run in find_runs(root)), key=lambda run: run.changed, reverse=True)
    if not runs:
        raise InputError(f"{root} holds no runs; they are folders with config.yaml, such as dcs-nas search makes")
    return runs


def _upgrade(data: dict[str, Any]) -> dict[str, Any]:
    """Convert recorded settings: add defaults that older versions did not record, and rename keys."""
    data = rename_config_keys(data)
    search = data.get("search") or {}
    trials = search.get("trials") or {}
    if search.get("strategy") == "proposals" and "supernet" not in (trials.get("proposals") or {}):
        proposals = {"supernet": "bilevel", "batches": 8, "weight": 0.0, **(trials.get("proposals") or {})}
        data["search"] = {**search, "trials": {**trials, "proposals": proposals}}
    if search.get("strategy") == "predictor" and "share" not in (trials.get("predictor") or {}):
        predictor = {"share": 1.0, **(trials.get("predictor") or {})}
        data["search"] = {**search, "trials": {**trials, "predictor": predictor}}
    data["dcs"] = {"tau_min": 0.0, "scale": "sqrt", **(data.get("dcs") or {})}
    trainer = data.get("trainer") or {}
    if trainer.get("precision") in PRECISION_NAMES:
        data["trainer"] = {**trainer, "precision": PRECISION_NAMES[trainer["precision"]]}
    if "weights_share" in (data.get("retrain") or {}):
        retrain = dict(data["retrain"])
        data["retrain"] = {"weights_partial": retrain.pop("weights_share") < 0.9, **retrain}
    retrain = data.get("retrain") or {}
    options = retrain.get("backbone_options") or {}
    if "head" not in retrain and retrain.get("backbone") == "mobilenet_v2" and options.get("attention"):
        stages = {"attention_stages": ["stage2", "stage3", "stage5", "stage7"], **options}
        data["retrain"] = {**retrain, "backbone_options": stages}
    return data


def _as_rows(values: Any) -> Any:
    return values.detach().tolist() if hasattr(values, "detach") else values
