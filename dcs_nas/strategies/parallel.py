"""Trials of one search in several processes, on every machine that shares the run folder, by Optuna's storage.

The process that holds the run folder proposes; workers train. A worker is the same command with ``--resume``: the first
process starts ``search.trials.concurrency`` of them, others may join from elsewhere.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState, create_trial

from dcs_nas.config import TrialsConfig
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.files import write_text
from dcs_nas.runs import RunFolder
from dcs_nas.runs.lock import count_living, is_free
from dcs_nas.runs.workers import ChildProcess, Worker, open_journal, register_worker
from dcs_nas.settings import make_paths_absolute, parse, to_yaml
from dcs_nas.strategies.trial_strategy import JOINS, TrialStrategy
from dcs_nas.strategies.trials import Proposal, TrialFolder

POLL_SECONDS = 0.2
_STUDY, _PROPOSAL, _ENDED = "search", "proposal", "ended"
_OPEN = (TrialState.WAITING, TrialState.RUNNING)


def search_in_parallel(strategy: TrialStrategy, trials: TrialFolder) -> None:
    """Propose trials and observe their outcomes, until no more may begin and all have ended.

    Raises:
        TrainingError: a worker that this process has started has failed.
    """
    folder, settings = trials.run.path, strategy.settings.trials
    (folder / "workers").mkdir(exist_ok=True)
    study = _open_study(folder)
    _add_recorded(study, trials)
    study.set_user_attr(_ENDED, False)
    settings_file = folder / "workers" / "config.yaml"  # those of now: a resumed search may have its images elsewhere
    write_text(settings_file, to_yaml(make_paths_absolute(strategy.config)))
    children = [_start_worker(trials.run, settings_file, number, settings) for number in range(settings.concurrency)]
    try:
        while _advance(study, strategy, trials, workers=max(len(children), count_living(folder))):
            for child in children:
                if not child.is_running():
                    raise TrainingError(f"a worker of {folder} has ended: {child.describe_failure() or 'too early'}")
            time.sleep(POLL_SECONDS)
        study.set_user_attr(_ENDED, True)
    finally:
        for child in children:  # together, not one after the other
            child.ask_to_stop()
        for child in children:
            child.stop()


def work_on_trials(strategy: TrialStrategy, run: RunFolder) -> None:
    """Train the proposals of the first process, one trial after another, until the search has ended.

    Raises:
        InputError: the first process has ended before the search.
    """
    study = _open_study(run.path)
    trials = strategy.open_trials(run)
    with register_worker(run.path) as name:
        worker = Worker(run.path, study, name)
        while not study.user_attrs.get(_ENDED, False):
            trial = _next(worker)
            if trial is not None:
                _train(trial, strategy, trials)
            elif is_free(run.path) and not study.user_attrs.get(_ENDED, False):
                raise InputError(f"the first process of the search in {run.path} has ended; continue with --resume")
            else:
                time.sleep(POLL_SECONDS)


def _open_study(folder: Path) -> optuna.Study:
    return optuna.create_study(
        study_name=_STUDY,
        storage=open_journal(folder),
        direction="maximize",
        load_if_exists=True,
        sampler=RandomSampler(seed=0),  # draws nothing: proposals have no parameters of Optuna's
    )


def _add_recorded(study: optuna.Study, trials: TrialFolder) -> None:
    """Enter the trials of a search that one process began."""
    number = len(study.get_trials(deepcopy=False))
    while (trial := trials.read(number)) is not None:
        study.add_trial(create_trial(value=trial.score))
        number += 1


def _advance(study: optuna.Study, strategy: TrialStrategy, trials: TrialFolder, *, workers: int) -> bool:
    """Observe ended trials and propose one for each free worker; return whether a trial is open."""
    known = study.get_trials(deepcopy=False)
    observed = {trial.number for trial in trials.done}
    ended = [each for each in known if each.state == TrialState.COMPLETE and each.number not in observed]
    for each in sorted(ended, key=lambda each: (each.datetime_complete, each.number)):
        trial = trials.read(each.number)
        if trial is None:  # a network file system may show late what another machine has written
            return True
        trials.end(trial)
        strategy.observe(trial)
    pending = [_proposal(each) for each in known if each.state in _OPEN]
    while len(pending) < workers and trials.may_begin(len(pending)):
        proposal = strategy.next_proposal(trials, pending)
        if proposal is None:
            break
        study.enqueue_trial({}, user_attrs={_PROPOSAL: proposal.model_dump(mode="json", by_alias=True)})
        pending.append(proposal)
    return bool(pending)


def _next(worker: Worker) -> OptunaTrial | None:
    """Return a trial that a dead worker has left, or one that waits; None where there is neither."""
    with worker.lock_trials():
        left = next((each for each in worker.list_in_state(TrialState.RUNNING) if not worker.is_alive(each)), None)
        if left is None and not worker.list_in_state(TrialState.WAITING):
            return None
        trial = worker.study.ask() if left is None else OptunaTrial(worker.study, left._trial_id)
        worker.claim(trial)
        return trial


def _train(trial: OptunaTrial, strategy: TrialStrategy, trials: TrialFolder) -> None:
    done = trials.read(trial.number)  # written by a worker that died then
    if done is None:
        proposal = _proposal(trial)
        done = trials.write(trial.number, proposal, strategy.evaluate(trial.number, proposal, trials))
    trial.study.tell(trial, done.score)


def _proposal(trial: Any) -> Proposal:
    return parse(Proposal, trial.user_attrs[_PROPOSAL], source=f"trial {trial.number}")


def _start_worker(run: RunFolder, settings_file: Path, number: int, settings: TrialsConfig) -> ChildProcess:
    command = [sys.executable, "-m", "dcs_nas", "search", str(settings_file), "--out", str(run.path), "--resume"]
    device = settings.gpus[number] if settings.gpus else None
    log = run / f"logs/worker_{number}.txt"
    return ChildProcess(command, log, device=device, processes=settings.concurrency, environment={JOINS: str(run.path)})
