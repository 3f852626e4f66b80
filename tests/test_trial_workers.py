"""Several processes that train the trials of one search."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcs_nas.errors import InputError
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.runs.workers import Worker, open_journal, register_worker
from dcs_nas.space import load_genotype
from dcs_nas.strategies import parallel
from dcs_nas.strategies.job import STRATEGIES, run_search
from dcs_nas.strategies.trial_strategy import JOINS, TrialStrategy
from dcs_nas.strategies.trials import Outcome, TrialFolder
from tests.run_folders import foreign_names
from tests.trial_searches import Job, on_table, trials_of


def test_workers_train_every_genotype_once_and_a_dead_ones_trial_is_handed_out_again(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers' loop, in this process: one claims a trial, writes it and dies, two go on."""
    folder = tables / "run"
    config = on_table("bench_cells", "evolution", "trials.concurrency=2")
    started: list[Path] = []

    class Child:
        def is_running(self) -> bool:
            return True

        def ask_to_stop(self) -> None:
            pass

        def stop(self) -> None:
            pass

    def start(run: Any, *_: Any) -> Child:
        started.append(run.path)
        return Child()

    handed: list[int] = []

    def work(_: float) -> None:
        """In place of waiting for workers: what they do meanwhile."""
        strategy = STRATEGIES["evolution"](config, None)
        assert isinstance(strategy, TrialStrategy)
        trials = TrialFolder(config.search.trials, RunFolder(folder), strategy.space, most=16)
        study = parallel._open_study(folder)
        if not handed:
            dead = parallel._next(Worker(folder, study, "dead"))  # its lock in workers/ is not held
            assert dead is not None
            handed.append(dead.number)
            trials.write(dead.number, parallel._proposal(dead), Outcome(score=0.123, parameters=1, seconds=1))
        with register_worker(folder) as one, register_worker(folder) as two:
            claimed = [parallel._next(Worker(folder, study, name)) for name in (one, two)]
            for trial in claimed:
                if trial is not None:
                    handed.append(trial.number)
                    parallel._train(trial, strategy, trials)

    monkeypatch.setattr(parallel, "_start_worker", start)
    monkeypatch.setattr(parallel, "time", SimpleNamespace(sleep=work))
    found = run_search(config, folder)
    assert len(started) == 2
    assert handed.count(0) == 2
    assert trials_of(folder)[0]["score"] == 0.123  # not trained again
    assert sorted(set(handed)) == list(range(16))
    assert len(handed) == 17
    identities = [load_genotype(path).identity() for path in folder.glob("trials/*/trial.yaml")]
    assert len(set(identities)) == len(identities) == 16
    assert found == load_genotype(folder / "genotype.yaml")
    assert len(open_journal(folder).get_all_studies()) == 1
    assert run_search(config, folder, resume=True) == found


def test_a_search_of_one_process_continues_with_workers_as_processes(trial_job: Job, tmp_path: Path) -> None:
    few = ["search.trials.epochs=1", "search.trials.trials=4", "search.trials.predictor.start=4", "search.epochs=1"]
    run_search(trial_job("proposals", *few), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "run")
    (tmp_path / "run/genotype.yaml").unlink()
    for number in range(1, 4):
        shutil.rmtree(tmp_path / f"run/trials/{number:03d}")
    found = run_search(trial_job("proposals", *few, "search.trials.concurrency=2"), tmp_path / "run", resume=True)
    scores = [[trial["score"] for trial in trials_of(tmp_path / name)] for name in ("one", "run")]
    assert scores[0] == scores[1]  # the supernet's order looks at no score
    assert found == load_genotype(tmp_path / "one/genotype.yaml")
    assert len(read_metrics(tmp_path / "run/metrics.csv")) == 4
    assert not foreign_names(tmp_path / "run")


def test_a_worker_whose_search_has_ended_begins_none(
    trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOINS, str(tmp_path / "run"))
    with pytest.raises(InputError, match="the first process of the search in .* has ended; continue with --resume"):
        run_search(trial_job("random", "search.trials.concurrency=2"), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
