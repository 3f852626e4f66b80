"""The folder of a tuning: config.yaml, job.yaml, trials.json, trials.csv, best.yaml, logs/, a run folder per trial."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcs_nas.cli.tune_space import from_nni, with_values
from dcs_nas.cli.tune_study import Trial
from dcs_nas.config import Config, TuneConfig
from dcs_nas.environment import environment
from dcs_nas.files import write_json, write_text
from dcs_nas.runs import RunFolder
from dcs_nas.runs.start import BEGAN, opened, require_same
from dcs_nas.settings import to_yaml, with_absolute_paths

_OTHERWISE = "another dcs-nas tune, or by a trial that outlived one"
_WHERE_KEPT: Any = {"results": True, "data": {"cache"}}
_MAY_CHANGE = ("trials", "concurrency", "hours", "gpus", "mode", "portal", "training_service")


@contextmanager
def open_folder(path: Path, config: Config, *, resume: bool, overwrite: bool) -> Iterator[int]:
    """Make, continue or replace a tuning's folder, alone in it; gives the lock that trials inherit.

    Since trials hold the lock too, ``--resume`` never meets one that outlived a killed tuning. How much is run and
    where may change on resume; raises ``InputError`` for any other change, and where the folder holds another tuning.
    """
    with opened(path, what="tuning", resume=resume, overwrite=overwrite, otherwise=_OTHERWISE) as lock:
        os.set_inheritable(lock.fileno(), True)
        if resume:
            require_same(path, _fixed(RunFolder(path).config()), _fixed(config))
        else:
            write_json(path / "environment.json", environment())
        write_text(path / "job.yaml", to_yaml(with_absolute_paths(config.model_copy(update={"tune": None}))))
        write_text(path / BEGAN, to_yaml(with_absolute_paths(_without_secrets(config))))
        yield lock.fileno()


def ranked(trials: Sequence[Trial], tune: TuneConfig) -> list[Trial]:
    """The trials from the best to the worst, then those without a result, by number."""
    sign = -1 if tune.objective[1] == "maximize" else 1
    return sorted(trials, key=lambda t: (t.value is None, 0 if t.value is None else sign * t.value, t.number))


def write_results(path: Path, config: Config, trials: Sequence[Trial]) -> list[Trial]:
    """Write trials.csv and, where a trial has finished, best.yaml; gives the trials, best first."""
    tune: TuneConfig = config.section("tune")
    found = ranked(trials, tune)
    _write_table(path, found, tune)
    if found and found[0].value is not None:
        best = with_values(config.model_copy(update={"tune": None}), from_nni(tune, found[0].proposal))
        head = f"# {found[0].label}: {tune.objective[0]} {found[0].value}"
        write_text(path / "best.yaml", f"{head}\n{to_yaml(with_absolute_paths(best))}")
    return found


def _write_table(path: Path, trials: Sequence[Trial], tune: TuneConfig) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", tune.objective[0], *tune.space, "seconds", "message"])
    for trial in trials:
        values = from_nni(tune, trial.proposal)
        shown = ["" if trial.value is None else repr(trial.value), *values.values()]
        writer.writerow([trial.label, trial.state, *shown, trial.seconds, trial.message])
    write_text(path / "trials.csv", text.getvalue())


def _fixed(config: Config) -> dict[str, Any]:
    """What has to be the same on resume: sections flat by one level, the space and the free options as they are."""
    flat = {}
    for section, content in with_absolute_paths(config).model_dump(mode="json", exclude=_WHERE_KEPT).items():
        for key, value in content.items() if isinstance(content, dict) else [("", content)]:
            if section != "tune" or key not in _MAY_CHANGE:
                flat[f"{section}.{key}".removesuffix(".")] = value
    return flat


def _without_secrets(config: Config) -> Config:
    """Without NNI's training service, which may hold passwords, and which may change on resume."""
    tune: TuneConfig = config.section("tune")
    return config.model_copy(update={"tune": tune.model_copy(update={"training_service": None})})
