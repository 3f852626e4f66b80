"""A tuning: its folder, its trials one after another or several at once, its results."""

from __future__ import annotations

import csv
import io
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial

from dcs_nas.config import Config, TuneConfig
from dcs_nas.environment import describe_environment
from dcs_nas.errors import InputError, TrainingError, choices
from dcs_nas.files import write_json, write_text
from dcs_nas.runs import RunFolder, log_to, open_folder, read_metrics, require_same
from dcs_nas.runs.lock import count_living
from dcs_nas.runs.workers import ChildProcess
from dcs_nas.settings import make_paths_absolute, to_yaml
from dcs_nas.space import load_genotype
from dcs_nas.tune.space import apply_values, format_overrides, read_space
from dcs_nas.tune.study import (
    TuneWorker,
    create_study,
    first_step,
    get_state,
    load_study,
    make_pruner,
    make_sampler,
    name_trial,
    open_storage,
    require_new,
)

log = logging.getLogger(__name__)
PROGRAM: tuple[str, ...] = (sys.executable, "-m", "dcs_nas")
POLL_SECONDS = 0.2
_MAY_CHANGE: Any = {"results": True, "tune": {"trials", "concurrency", "hours", "gpus", "storage"}}


def run_tuning(
    config: Config,
    folder: Path,
    *,
    genotype: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[FrozenTrial, dict[str, Any]]]:
    """Run the trials of the section ``tune``, and return them with their values, best first.

    ``folder`` then holds config.yaml, job.yaml and genotype.yaml (what trials train), journal.log (Optuna's record),
    trials.csv, best.yaml, log.txt, logs/ and a run folder per trial. Any number of processes, on any machine that
    shares the folder, may work on it with ``resume``.

    No child process is left when it raises.

    Raises:
        InputError: bad settings or folders, or a finished trial without the metric where no trial has had it.
        TrainingError: no trial had a result.
        KeyboardInterrupt: a signal has arrived.
    """
    genotype = _check(config, genotype)
    _open_folder(folder, config, genotype, resume=resume, overwrite=overwrite)
    with (
        open_storage(config.section("tune"), folder) as storage,
        TuneWorker.start(config, folder, load_study(config, storage)) as worker,
        log_to(RunFolder(folder).log_file),
    ):
        _run_trials(worker, progress or (lambda done, total: None))
        worker.require_none_left()
        trials = _write_results(worker)
        running = sum(get_state(trial) == "running" for trial in trials)
        if running:
            log.info("%d trials still run in other processes", running)
        elif not any(get_state(trial) == "finished" for trial in trials):
            last = f"; the last: {trials[-1].user_attrs['message']}" if trials else ""
            raise TrainingError(f"none of {len(trials)} trials in {folder} gave a result{last}")
        return [(trial, worker.values(trial)) for trial in trials]


def _check(config: Config, genotype: Path | None) -> Path | None:
    """Check the settings before the first trial, and return the genotype that the trials train."""
    tune: TuneConfig = config.section("tune")
    section = config.section(tune.command)
    space = read_space(config)
    make_sampler(config, space, 0)
    make_pruner(config)
    if tune.command == "search":
        if genotype is not None:
            raise InputError("--genotype is for tune.command retrain; a search starts without one")
        return None
    metric, _ = config.objective
    shares = next((one.examples() for one in space if one.key == "retrain.validation"), [section.validation])
    if metric.startswith("validation/") and not all(shares):
        fix = "leave 0 out of tune.space" if "retrain.validation" in tune.space else "set it, e.g. to 0.2"
        raise InputError(f"tune.metric is {metric}, but retrain.validation is 0, so no identities are held out; {fix}")
    if section.backbone is None and genotype is None and "retrain.backbone" not in tune.space:
        genotype = RunFolder.default(config, "search").genotype_file
    return genotype


def _open_folder(path: Path, config: Config, genotype: Path | None, *, resume: bool, overwrite: bool) -> None:
    """Create or replace a tuning's folder, or check that it can be resumed.

    Only settings of ``_MAY_CHANGE`` may change on resume.

    Raises:
        InputError: another setting changed, the folder holds another tuning, or a process works on it.
    """
    if resume and not overwrite:
        _require_resumable(path, config, genotype)
        return
    tune: TuneConfig = config.section("tune")
    genotype_text = None if genotype is None else load_genotype(genotype).to_yaml()
    if tune.storage is not None:
        with open_storage(tune, path) as storage:
            require_new(storage, config.name, overwrite=overwrite)
    run = RunFolder(path)
    with open_folder(run, what="tuning", resume=resume, overwrite=overwrite):
        (path / "workers").mkdir()
        with open_storage(tune, path) as storage:
            create_study(config, storage)
        write_json(run.environment_file, describe_environment())
        write_text(run.job_file, to_yaml(make_paths_absolute(config.model_copy(update={"tune": None}))))
        if genotype_text is not None:
            write_text(run.genotype_file, genotype_text)
        _record(run, config)


def _record(run: RunFolder, config: Config) -> None:
    """Write the settings, without the address of the storage: it may hold a password."""
    recorded = config.model_copy(update={"tune": config.section("tune").model_copy(update={"storage": None})})
    write_text(run.config_file, to_yaml(make_paths_absolute(recorded)))


def _require_resumable(path: Path, config: Config, genotype: Path | None) -> None:
    run = RunFolder(path)
    if not run.config_file.is_file():
        raise InputError(f"there is no tuning to resume in {path}; start it without --resume")
    if (path / "trials.json").is_file():
        raise InputError(
            f"{path} is a tuning by NNI's tuners, which this version does not continue; its trials.csv and best.yaml "
            "stay; start again with another --out, or with --overwrite"
        )
    began = run.config()
    if run.best_file.is_file() or count_living(path):
        require_same(path, began, config, may_change=_MAY_CHANGE)
    else:  # no trial has a result: the name of the metric may be corrected
        tune = began.section("tune").model_copy(update={"metric": config.section("tune").metric})
        require_same(path, began.model_copy(update={"tune": tune}), config, may_change=_MAY_CHANGE)
        _record(run, config)
    if genotype is not None and genotype.is_file():
        run.require_genotype(load_genotype(genotype))


class TrialProcess(ChildProcess):
    """One trial as a process group in the tuning's folder; it resumes if its run folder holds a run.

    Its job is ``job.yaml`` with ``values``, its genotype ``genotype.yaml`` if there is one, its output
    ``logs/LABEL.txt``. Epochs up to ``seen`` are not reported again.
    """

    def __init__(
        self,
        folder: Path,
        label: str,
        values: Mapping[str, Any],
        config: Config,
        *,
        device: int | None = None,
        seen: int = -1,
    ) -> None:
        tuning, self._run = RunFolder(folder), RunFolder(folder / label)
        self._tune: TuneConfig = config.section("tune")
        self._metric, self._goal = config.objective
        self._seen = seen
        arguments = [str(tuning.job_file), "--out", str(self._run.path)]
        arguments += [part for override in format_overrides(values) for part in ("-o", override)]
        if tuning.genotype_file.is_file():
            arguments += ["--genotype", str(tuning.genotype_file)]
        if self._run.config_file.is_file():
            arguments.append("--resume")
        self._stamp: tuple[int, int] | None = None
        command, log = [*PROGRAM, self._tune.command, *arguments], folder / "logs" / f"{label}.txt"
        super().__init__(command, log, device=device, processes=self._tune.concurrency)

    def read_new_epochs(self) -> list[tuple[int, float]]:
        """Return (epoch from 0, metric) of the epochs that metrics.csv has gained since the last call."""
        path = self._run.metrics_file
        try:
            status = path.stat()
        except FileNotFoundError:
            return []
        if (status.st_mtime_ns, status.st_ino) == self._stamp:
            return []
        self._stamp = status.st_mtime_ns, status.st_ino
        new = [row for row in read_metrics(path) if self._metric in row and row["epoch"] > self._seen]
        rows = [(int(row["epoch"]), row[self._metric]) for row in new]
        self._seen = rows[-1][0] if rows else self._seen
        return rows

    def read_result(self) -> float:
        """Return the metric of the ended trial; raise ``InputError`` if metrics.csv lacks it."""
        metric, path = self._metric, self._run.metrics_file
        rows = read_metrics(path) if path.is_file() else []
        values = [row[metric] for row in rows if metric in row]
        if not values:
            known = dict.fromkeys(key for row in rows for key in row if key != "epoch")
            raise InputError(f"{path} has no column '{metric}'; {choices(metric, known)}")
        if self._tune.take == "last":
            return values[-1]
        return max(values) if self._goal == "maximize" else min(values)


@contextmanager
def catch_signals() -> Iterator[Callable[[], bool]]:
    """Catch Ctrl-C, SIGTERM and SIGHUP within the context; yield a function that returns whether one has arrived."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_trials(worker: TuneWorker, progress: Callable[[int, int], None]) -> None:
    """Run trials, ``tune.concurrency`` at a time, until there are enough or the time is over."""
    tune = worker.tune
    deadline = time.monotonic() + 3600 * tune.hours if tune.hours else math.inf
    devices: list[int | None] = list(tune.gpus) or [None] * tune.concurrency
    running: list[tuple[Trial, TrialProcess]] = []
    with catch_signals() as stopped:
        try:
            while not stopped():
                while len(running) < tune.concurrency and time.monotonic() < deadline and not stopped():
                    assignment = worker.next()
                    if assignment is None:
                        break
                    trial, values = assignment
                    steps = worker.trials[trial.number].intermediate_values
                    seen = max(steps) - first_step(worker.config) if steps else -1
                    device = devices.pop(0)
                    process = TrialProcess(
                        worker.folder, name_trial(trial), values, worker.config, device=device, seen=seen
                    )
                    running.append((trial, process))
                if not running:
                    return
                for trial, process in list(running):
                    ended = _poll_trial(worker, trial, process)
                    if ended is not None:
                        running.remove((trial, process))
                        devices.append(process.device)
                        _report_end(worker, ended, progress)
                time.sleep(POLL_SECONDS)
            raise KeyboardInterrupt
        finally:
            for _, process in running:  # together, not one after the other
                process.ask_to_stop()
            for _, process in running:
                process.stop()


def _poll_trial(worker: TuneWorker, trial: Trial, process: TrialProcess) -> FrozenTrial | None:
    """Report new epochs of a trial, stop it if the pruner decides so, and return the trial if it has ended."""
    over, bad = not process.is_running(), False
    for epoch, value in process.read_new_epochs():
        log.info("%s, epoch %d: %s %.5g", name_trial(trial), epoch + 1, worker.config.objective[0], value)
        if math.isfinite(value):
            trial.report(value, epoch + first_step(worker.config))
            bad = bad or trial.should_prune()
    if over:
        result, failure = None, process.describe_failure()
        if not failure:
            try:
                result = process.read_result()
            except InputError as error:
                if not worker.has_metric:
                    raise InputError(f"tune.metric: {error}; --resume with -o tune.metric=NAME") from None
                failure = str(error)
        return worker.end(trial, result, seconds=process.seconds, message=failure)
    if bad:
        process.stop()
        return worker.end(trial, None, seconds=process.seconds, pruned=True)
    return None


def _report_end(worker: TuneWorker, trial: FrozenTrial, progress: Callable[[int, int], None]) -> None:
    """Log the end of a trial and write the results so far."""
    _write_results(worker)
    done = sum(t.state.is_finished() for t in worker.trials)
    progress(done, worker.limit)
    ended = f"{done}/{worker.limit}: {name_trial(trial)} {get_state(trial)}"
    if trial.value is None:
        log.warning("%s: %s", ended, trial.user_attrs["message"])
        return
    values = ", ".join(f"{key}={format_value(value)}" for key, value in worker.values(trial).items())
    metric, seconds = worker.config.objective[0], trial.user_attrs["seconds"]
    log.info("%s, %s %.5g, %.0f s: %s", ended, metric, trial.value, seconds, values)


def format_value(value: Any) -> str:
    """Format a value for a table."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _write_results(worker: TuneWorker) -> list[FrozenTrial]:
    """Write trials.csv and, if a trial has finished, best.yaml; return the trials, best first."""
    run, space, metric = RunFolder(worker.folder), worker.tune.space, worker.config.objective[0]
    trials = worker.rank_trials()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", metric, *space, "seconds", "message"])
    for trial in trials:
        values, facts = worker.values(trial), trial.user_attrs
        cells = ["" if trial.value is None else repr(trial.value), *(values.get(key, "") for key in space)]
        writer.writerow(
            [name_trial(trial), get_state(trial), *cells, facts.get("seconds", 0.0), facts.get("message", "")]
        )
    write_text(run.trials_file, text.getvalue())
    if trials and get_state(trials[0]) == "finished":
        best = apply_values(worker.config.model_copy(update={"tune": None}), worker.values(trials[0]))
        head = f"# {name_trial(trials[0])}: {metric} {trials[0].value}"
        write_text(run.best_file, f"{head}\n{to_yaml(make_paths_absolute(best))}")
    return trials
