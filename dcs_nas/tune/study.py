"""The study of a tuning: Optuna's sampler, pruner and storage, and the workers that assign and record trials."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GridSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from dcs_nas.config import Config, TuneConfig
from dcs_nas.errors import InputError, choices
from dcs_nas.runs.lock import is_free, require_free
from dcs_nas.runs.workers import Worker, open_journal, register_worker
from dcs_nas.tune.space import Parameter, read_space

TUNERS: dict[str, tuple[str, ...]] = {  # and the options that each of them takes
    "TPE": ("n_startup_trials", "n_ei_candidates", "multivariate", "constant_liar"),
    "Random": (),
    "Evolution": ("population_size", "mutation_prob", "crossover_prob", "swapping_prob"),
    "GridSearch": ("points",),
}
_PRUNERS = {"none": NopPruner, "median": MedianPruner, "hyperband": HyperbandPruner}
_STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_POINTS = 5
T = TypeVar("T")


class _Grid(GridSampler):
    """Optuna's grid without ``study.stop``, which requires Optuna's loop; ``TuneWorker`` counts trials instead."""

    def after_trial(self, *_: Any) -> None:
        """Do nothing."""


class TuneWorker(Worker):
    """One of the processes that work on a tuning's folder; it assigns trials and records their results.

    Trials of a dead worker are assigned first, with the same values and run folder. ``limit`` is the number of trials:
    ``tune.trials``, or fewer where a grid has fewer points.

    From one seed, a single worker assigns the same trials every time, interrupted or not: the sampler of each trial is
    created from the seed and the trial's number, and uses only the earlier trials.
    """

    def __init__(self, config: Config, folder: Path, study: optuna.Study, name: str) -> None:
        super().__init__(folder, study, name)
        self.config = config
        self.tune: TuneConfig = config.section("tune")
        self._space = read_space(config)
        grid = _grid(config, self._space) if self.tune.tuner == "GridSearch" else {}
        self.limit = min(self.tune.trials, math.prod(map(len, grid.values())) if grid else self.tune.trials)

    @classmethod
    @contextlib.contextmanager
    def start(cls, config: Config, folder: Path, study: optuna.Study) -> Iterator[TuneWorker]:
        """Register and yield a worker that is alive within the context."""
        with register_worker(folder) as name:
            yield cls(config, folder, study, name)

    def next(self) -> tuple[Trial, dict[str, Any]] | None:
        """Return a trial to run and its values, or None if there are enough."""
        with self.lock_trials():
            left = next(filter(self._is_left, self.list_in_state(TrialState.RUNNING)), None)
            if left is not None:
                self.study.sampler = make_sampler(self.config, self._space, left.number)
                trial = Trial(self.study, left._trial_id)
            else:
                number = len(self.trials)
                if number >= self.limit:
                    return None
                self.study.sampler = make_sampler(self.config, self._space, number)
                trial = self.study.ask()
            values = {parameter.key: parameter.draw(trial) for parameter in self._space}
            self.claim(trial)
        return trial, values

    def end(
        self, trial: Trial, value: float | None, *, seconds: float, message: str = "", pruned: bool = False
    ) -> FrozenTrial:
        """Record a trial's result; without a finite ``value`` the trial failed, unless the pruner stopped it."""
        if value is not None and not math.isfinite(value):
            value, message = None, f"its metric is {value}"
        trial.set_user_attr("seconds", round(seconds, 3))
        trial.set_user_attr("message", message)
        without_value = TrialState.PRUNED if pruned else TrialState.FAIL
        return self.study.tell(trial, value, without_value if value is None else TrialState.COMPLETE)

    @property
    def has_metric(self) -> bool:
        """True if a trial has reported the metric."""
        return any(trial.value is not None or trial.intermediate_values for trial in self.trials)

    def require_none_left(self) -> None:
        """Raise ``InputError`` if a trial whose worker died still runs in its run folder."""
        for trial in self.list_in_state(TrialState.RUNNING):
            if not self.is_alive(trial):
                require_free(self.folder / name_trial(trial))

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the values of a trial; of a trial killed at its start, only those that were drawn."""
        return {p.key: p.value(trial.params[p.key]) for p in self._space if p.key in trial.params}

    def rank_trials(self) -> list[FrozenTrial]:
        """Return the trials from the best to the worst, then those that did not finish, by number."""
        sign = -1 if self.config.objective[1] == "maximize" else 1
        done = TrialState.COMPLETE
        return sorted(
            self.trials, key=lambda t: (t.state != done, sign * t.values[0] if t.state == done else 0, t.number)
        )

    def _is_left(self, trial: FrozenTrial) -> bool:
        return not self.is_alive(trial) and is_free(self.folder / name_trial(trial))


def name_trial(trial: Trial | FrozenTrial) -> str:
    """Return the name of a trial and of its run folder."""
    return f"trial_{trial.number:03d}"


def get_state(trial: FrozenTrial) -> str:
    """Return running, finished, pruned or failed."""
    return _STATES[trial.state]


def make_sampler(config: Config, space: Sequence[Parameter], number: int) -> BaseSampler:
    """Return the sampler of trial ``number``, by ``tune.tuner``.

    Raises:
        InputError: an unknown tuner, or options that it does not accept.
    """
    tune: TuneConfig = config.section("tune")
    if tune.tuner not in TUNERS:
        raise InputError(f"tune.tuner: unknown tuner '{tune.tuner}'; {choices(tune.tuner, TUNERS)}")
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    kinds: dict[str, Callable[..., BaseSampler]]
    kinds = {"TPE": TPESampler, "Random": RandomSampler, "Evolution": NSGAIISampler}
    if tune.tuner == "GridSearch":
        kinds["GridSearch"] = lambda seed, points=_POINTS: _Grid(_grid(config, space), seed=config.seed)
    return _create(kinds[tune.tuner], tune.tuner, tune.tuner_options, TUNERS[tune.tuner], "tuner", seed=seed)


def make_pruner(config: Config) -> BasePruner:
    """Return the pruner, by ``tune.pruner``; raise ``InputError`` for options that it does not accept."""
    tune: TuneConfig = config.section("tune")
    kind, options = _PRUNERS[tune.pruner], tune.pruner_options
    if tune.pruner == "hyperband":
        options = {"max_resource": config.section(tune.command).epochs, **options}
    return _create(kind, tune.pruner, options, inspect.signature(kind).parameters, "pruner")


def first_step(config: Config) -> int:
    """Return the step of a trial's first epoch: Optuna's Hyperband counts from 1, its median pruner from 0."""
    return int(config.section("tune").pruner == "hyperband")


def _create(
    kind: Callable[..., T], name: str, options: Mapping[str, Any], known: Collection[str], setting: str, **fixed: Any
) -> T:
    """Return an object of one of Optuna's classes; raise ``InputError`` for options that it does not accept."""
    for option in options:
        if option not in known:
            advice = choices(option, known) if known else "leave it out"
            raise InputError(f"tune.{setting}_options: Optuna's {name} takes no '{option}'; {advice}")
    try:
        return kind(**fixed, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"tune.{setting}_options: {name} refuses {dict(options)}: {error}") from None


@contextlib.contextmanager
def open_storage(tune: TuneConfig, folder: Path) -> Iterator[BaseStorage]:
    """Open the record of the trials: the journal in the folder, or the database that ``tune.storage`` names."""
    if tune.storage is None:
        yield open_journal(folder)
        return
    try:
        storage = RDBStorage(tune.storage)
    except Exception as error:  # drivers of databases raise exceptions of any kind
        where = re.sub(r"^.*@|\?.*$", lambda part: "...@" if part[0].endswith("@") else "", tune.storage)
        reason = str(error).replace(tune.storage, where).splitlines()[0]
        raise InputError(f"tune.storage: cannot open {where}: {reason}; see docs/tune.md") from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def require_new(storage: BaseStorage, name: str, *, overwrite: bool) -> None:
    """Raise ``InputError`` if the storage holds a study of that name and ``overwrite`` is not set."""
    if not overwrite and name in optuna.get_all_study_names(storage):
        raise InputError(
            f"tune.storage holds a study '{name}' already; continue it with --resume, replace it with --overwrite, or "
            "give the job another name"
        )


def create_study(config: Config, storage: BaseStorage) -> None:
    """Create the study of the job's name; delete an existing one."""
    direction = config.objective[1]
    try:
        optuna.create_study(study_name=config.name, storage=storage, direction=direction)
    except DuplicatedStudyError:
        optuna.delete_study(study_name=config.name, storage=storage)
        optuna.create_study(study_name=config.name, storage=storage, direction=direction)


def load_study(config: Config, storage: BaseStorage) -> optuna.Study:
    """Return the study of the job's name; raise ``InputError`` if the storage has none."""
    try:
        return optuna.load_study(study_name=config.name, storage=storage, pruner=make_pruner(config))
    except KeyError:
        raise InputError(
            f"the record of this tuning has no study '{config.name}'; give tune.storage as it was, or start again with "
            "--overwrite"
        ) from None


def _grid(config: Config, space: Sequence[Parameter]) -> Mapping[str, list[Any]]:
    points = config.section("tune").tuner_options.get("points", _POINTS)
    if not isinstance(points, int) or points < 1:
        raise InputError(f"tune.tuner_options: points is {points!r}, expected a whole number of at least 1")
    return {parameter.key: parameter.grid(points) for parameter in space}
