"""``dcs-nas tune``: settings tried by NNI's tuners, by our own processes or by NNI's experiment manager."""

from __future__ import annotations

import importlib
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer

from dcs_nas.cli.console import progress, say, show_log, table
from dcs_nas.cli.options import ConfigFile, Folder, Overrides, Overwrite
from dcs_nas.errors import InputError, TrainingError, choices, command

log = logging.getLogger(__name__)
TUNERS = {
    "TPE": "tpe_tuner.TpeTuner",
    "Random": "random_tuner.RandomTuner",
    "Evolution": "evolution_tuner.EvolutionTuner",
    "GridSearch": "gridsearch_tuner.GridSearchTuner",
}
_SEEDED = ("TPE", "Random")


def tune(
    config: ConfigFile,
    override: Overrides = None,
    genotype: Annotated[
        Path | None, typer.Option(help="For retrain: genotype file; by default that of the search of the same name.")
    ] = None,
    out: Folder = None,
    portal: Annotated[
        bool, typer.Option("--portal", help="Run in NNI's experiment manager, with its web portal (no password).")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; no finished trial is repeated.")] = False,
    overwrite: Overwrite = False,
    as_trial: Annotated[bool, typer.Option("--as-trial", hidden=True)] = False,
) -> None:
    """Try settings of a search or a retraining; ends with best.yaml and trials.csv."""
    from dcs_nas.cli.tune_folder import open_folder
    from dcs_nas.config import load_config
    from dcs_nas.runs import logging_to
    from dcs_nas.space import shipped_file

    given = [*(override or []), *(["tune.mode=portal"] if portal else [])]
    settings = load_config(shipped_file("configs", config), given)
    if as_trial:
        _run_as_trial(config, settings, out, genotype)
        return
    genotype = _check(settings, genotype)
    folder = out or settings.results / settings.name / "tune"
    show_log()
    with open_folder(folder, settings, resume=resume, overwrite=overwrite) as lock, logging_to(folder / "log.txt"):
        run = _run_in_portal if settings.tune and settings.tune.mode == "portal" else _run_plain
        run(settings, folder, genotype, lock)
        _conclude(settings, folder, genotype)


def make_tuner(config: Any) -> Any:
    """The tuner that ``tune.tuner`` names, seeded, its search space known.

    Raises ``InputError`` for an unknown tuner, and for options that it does not take.
    """
    from dcs_nas.cli.tune_space import nni_space

    tune = config.section("tune")
    if tune.tuner not in TUNERS:
        raise InputError(f"tune.tuner: unknown tuner '{tune.tuner}'; {choices(tune.tuner, TUNERS)}")
    module, name = TUNERS[tune.tuner].split(".")
    seed = {"seed": config.seed} if tune.tuner in _SEEDED else {}
    options = {"optimize_mode": tune.objective[1], **seed, **tune.tuner_options}
    if tune.tuner == "Evolution" and options.get("population_size", 32) < tune.concurrency:
        raise InputError(
            f"tune.tuner_options: population_size {options['population_size']} is less than concurrency "
            f"{tune.concurrency}; raise it"
        )
    kind = getattr(importlib.import_module(f"nni.algorithms.hpo.{module}"), name)
    logging.getLogger("nni").setLevel(logging.WARNING)
    with _seeded(config.seed):
        try:
            tuner = kind(**options)
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"tune.tuner_options: {tune.tuner} refuses {tune.tuner_options}: {error}") from None
        tuner.update_search_space(nni_space(tune))
    return tuner


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within it, generators that a tuner makes without a seed have this one; so have those of Python and numpy."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)

    class Seeded(np.random.RandomState):
        def __init__(self, given: Any = None) -> None:
            super().__init__(seed if given is None else given)

    with mock.patch.object(np.random, "RandomState", Seeded):
        yield


def _check(config: Any, genotype: Path | None) -> Path | None:
    """Everything that can be wrong before the first trial; gives the genotype that trials are to train."""
    from dcs_nas.cli.tune_space import check_space
    from dcs_nas.space import load_genotype

    tune = config.section("tune")
    section = config.section(tune.command)
    check_space(config, tune)
    make_tuner(config)
    if tune.mode == "portal":
        _experiment_config(config, Path(), Path(), trials=tune.trials)
    if tune.command == "search":
        if genotype is not None:
            raise InputError("--genotype is for tune.command retrain; a search starts without one")
        return None
    metric, _ = tune.objective
    if metric.startswith("validation/") and not section.validation and "retrain.validation" not in tune.space:
        raise InputError(
            f"tune.metric is {metric}, but retrain.validation is 0, so no people are held out; set it, e.g. to 0.2"
        )
    if section.backbone is None and genotype is None and "retrain.backbone" not in tune.space:
        genotype = config.results / config.name / "search" / "genotype.yaml"
    if genotype is not None:
        load_genotype(genotype)
    return genotype


def _run_plain(config: Any, folder: Path, genotype: Path | None, lock: int) -> None:
    """Trials as processes of our own, the tuner in this process: nothing listens on any port."""
    from dcs_nas.cli.tune_space import from_nni
    from dcs_nas.cli.tune_study import Study, Trial
    from dcs_nas.cli.tune_trials import TrialProcess, run_trials

    settings = config.section("tune")
    study = Study(make_tuner(config), folder, limit=settings.trials)
    bar = progress("trials")

    def begin(trial: Trial, device: int | None) -> TrialProcess:
        values = from_nni(settings, trial.proposal)
        return TrialProcess(
            folder / "job.yaml",
            folder / trial.label,
            _log_of(folder, trial),
            values,
            tune=settings,
            genotype=genotype,
            device=device,
            lock=lock,
        )

    def ended(trial: Trial) -> None:
        _report_end(config, folder, trial)
        bar(sum(t.state != "running" for t in study.trials), settings.trials)

    def epoch(trial: Trial, number: int, value: float) -> None:
        log.info("%s, epoch %d: %s %.5g", trial.label, number + 1, settings.objective[0], value)

    run_trials(study, settings, begin, epoch=epoch, ended=ended)


def _run_in_portal(config: Any, folder: Path, genotype: Path | None, lock: int) -> None:
    """Trials started by NNI's experiment manager, watched until it is done; then nothing of it is left."""
    import nni
    from nni.experiment import Experiment

    from dcs_nas.cli.tune_portal import end_all, portal_environment, require_address, started_by, warning, write_code
    from dcs_nas.cli.tune_study import Record
    from dcs_nas.cli.tune_trials import interruptions

    settings = config.section("tune")
    before = {trial.number for trial in Record.read(folder).ended()}
    if len(before) >= settings.trials:
        return
    code = write_code(config, folder, genotype)
    nni.silence_stdout()
    experiment = Experiment(_experiment_config(config, folder, code, trials=settings.trials - len(before)))
    say(warning(settings))
    bar = progress("trials")
    with interruptions() as stopped:
        try:
            with portal_environment(settings, code):
                experiment.start(settings.portal.port)
            require_address(experiment, settings)
            while not stopped():
                record = Record.read(folder)
                for trial in record.ended():
                    if trial.number not in before:
                        before.add(trial.number)
                        _report_end(config, folder, trial)
                        bar(len(before), settings.trials)
                status = experiment.get_status()
                if status == "ERROR":
                    raise TrainingError(f"NNI's experiment failed; see {folder / 'nni' / experiment.id / 'log'}")
                if status in ("DONE", "STOPPED") and len(record.ended()) == len(record.trials):
                    return
                time.sleep(1)
            raise KeyboardInterrupt
        finally:
            processes = started_by(experiment)
            experiment.stop()
            end_all(processes)


def _experiment_config(config: Any, folder: Path, code: Path, *, trials: int) -> Any:
    """NNI's own configuration of the experiment; what NNI refuses in it is an ``InputError``."""
    from nni.experiment.config import CustomAlgorithmConfig, ExperimentConfig

    from dcs_nas.cli.tune_portal import training_service
    from dcs_nas.cli.tune_space import nni_space

    settings = config.section("tune")
    service, command = training_service(settings, folder, code)
    limit = {"max_experiment_duration": f"{round(3600 * settings.hours)}s"} if settings.hours else {}
    try:
        found = ExperimentConfig(
            experiment_name=config.name,
            search_space=nni_space(settings),
            trial_command=command,
            trial_code_directory=str(code),
            trial_concurrency=settings.concurrency,
            max_trial_number=trials,
            experiment_working_directory=str(folder / "nni"),
            tuner=CustomAlgorithmConfig(
                class_name=f"{__name__}.recorded_tuner",
                code_directory=str(code),
                class_args={"folder": str(folder.resolve())},
            ),
            training_service=service,
            **limit,
        )
        found.validate()
    except (AssertionError, AttributeError, OSError, TypeError, ValueError) as error:
        what = " ".join(str(error).split()) or "an assertion of its own"
        raise InputError(f"tune.training_service: NNI refuses it: {what}; see docs/tune.md") from None
    return found


def recorded_tuner(folder: str) -> Any:
    """The tuner that NNI's manager loads: our record and its replay around the tuner that the folder's job names."""
    from nni import NoMoreTrialError
    from nni.tuner import Tuner

    from dcs_nas.cli.tune_portal import TRIAL
    from dcs_nas.cli.tune_study import Study
    from dcs_nas.cli.tune_trials import last_line
    from dcs_nas.runs import RunFolder

    place = Path(folder)
    config = RunFolder(place).config()
    lock = threading.Lock()  # NNI tells of ended trials in a thread of its own

    class RecordedTuner(Tuner):
        def update_search_space(self, search_space: Any) -> None:
            self.study = Study(make_tuner(config), place, limit=config.section("tune").trials)
            self.begun: dict[int, tuple[Any, float]] = {}

        def generate_parameters(self, parameter_id: int, **_: Any) -> dict[str, Any]:
            with lock:
                trial = self.study.next()
            if trial is None:
                raise NoMoreTrialError("no more trials")
            self.begun[parameter_id] = trial, time.monotonic()
            return {**trial.proposal, TRIAL: trial.number}

        def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **_: Any) -> None:
            self._finish(parameter_id, value["default"] if isinstance(value, dict) else float(value))

        def trial_end(self, parameter_id: int, success: bool, **_: Any) -> None:
            if not success:
                self._finish(parameter_id, None)

        def _finish(self, parameter_id: int, value: float | None) -> None:
            with lock:
                if parameter_id not in self.begun:
                    return
                trial, began = self.begun.pop(parameter_id)
                output = _log_of(place, trial)
                told = last_line(output) if output.is_file() else "failed; its output is in NNI's portal"
                message = "" if value is not None else told
                self.study.finish(trial.number, value, seconds=time.monotonic() - began, message=message)

    return RecordedTuner()


def _run_as_trial(job: Path, config: Any, folder: Path | None, genotype: Path | None) -> None:
    """One trial of NNI's experiment, wherever NNI has started it: its values from NNI, its results to NNI."""
    import nni

    from dcs_nas.cli.tune_portal import TRIAL
    from dcs_nas.cli.tune_space import from_nni
    from dcs_nas.cli.tune_study import Trial
    from dcs_nas.cli.tune_trials import POLL_SECONDS, TrialProcess, interruptions
    from dcs_nas.files import write_text
    from dcs_nas.settings import to_yaml

    settings = config.section("tune")
    if "NNI_TRIAL_JOB_ID" not in os.environ:
        raise InputError("--as-trial is for NNI, which starts trials so; run dcs-nas tune CONFIG without it")
    folder = folder or Path(os.environ.get("NNI_OUTPUT_DIR", "."))
    proposal = nni.get_next_parameter()
    trial = Trial(number=proposal.pop(TRIAL), proposal=proposal)
    plain = folder / "job.yaml"
    if not plain.is_file():
        write_text(plain, to_yaml(config.model_copy(update={"tune": None})))
    values = from_nni(settings, trial.proposal)
    with interruptions() as stopped:
        process = TrialProcess(
            plain, folder / trial.label, _log_of(folder, trial), values, tune=settings, genotype=genotype
        )
        try:
            over = False
            while not over:
                if stopped():
                    raise KeyboardInterrupt
                over = not process.running()
                for _, value in process.news():
                    nni.report_intermediate_result(value)
                time.sleep(POLL_SECONDS)
        finally:
            process.stop()
    failure = process.failure()
    if failure:
        raise TrainingError(failure)
    nni.report_final_result(process.value())


def _log_of(folder: Path, trial: Any) -> Path:
    return folder / "logs" / f"{trial.label}.txt"


def _report_end(config: Any, folder: Path, trial: Any) -> None:
    """A line for a trial that ended, and the results so far."""
    from dcs_nas.cli.tune_folder import write_results
    from dcs_nas.cli.tune_space import from_nni
    from dcs_nas.cli.tune_study import Record

    settings = config.section("tune")
    record = Record.read(folder)
    write_results(folder, config, record.trials)
    told = f"{len(record.ended())}/{settings.trials}: {trial.label} {trial.state}"
    if trial.value is None:
        log.warning("%s: %s", told, trial.message)
        return
    values = ", ".join(f"{key}={_short(value)}" for key, value in from_nni(settings, trial.proposal).items())
    log.info("%s, %s %.5g, %.0f s: %s", told, settings.objective[0], trial.value, trial.seconds, values)


def _conclude(config: Any, folder: Path, genotype: Path | None) -> None:
    """Show the best trials and where everything is; ``TrainingError`` where none has a result."""
    from dcs_nas.cli.train import free_folder
    from dcs_nas.cli.tune_folder import write_results
    from dcs_nas.cli.tune_space import from_nni
    from dcs_nas.cli.tune_study import Record

    settings = config.section("tune")
    trials = write_results(folder, config, Record.read(folder).trials)
    good = [trial for trial in trials if trial.value is not None]
    if not good:
        last = f"; the last: {trials[-1].message}" if trials else ""
        raise TrainingError(f"none of {len(trials)} trials in {folder} gave a result{last}")
    rows = [
        [t.label, f"{t.value:.5g}", *(_short(v) for v in from_nni(settings, t.proposal).values())] for t in good[:5]
    ]
    table(f"{folder}: the best of {len(trials)} trials", ["trial", settings.objective[0], *settings.space], rows)
    chosen = () if genotype is None else ("--genotype", genotype)
    say(f"all trials: {folder / 'trials.csv'}")
    say(f"best: {folder / 'best.yaml'}")
    place = free_folder(folder.parent / "best")
    say(f"next: {command(settings.command, folder / 'best.yaml', *chosen, '--out', place)}")


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
