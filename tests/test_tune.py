"""The tune command: its space, its trials as processes, failures, pruning, interruption and resume, several workers."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from dcs_nas.cli import main
from dcs_nas.config import Config, load_config
from dcs_nas.environment import describe_environment
from dcs_nas.errors import InputError
from dcs_nas.runs.lock import LOCK, lock_folder
from dcs_nas.space import find_shipped_file
from dcs_nas.tune import tuning
from dcs_nas.tune.space import DISTRIBUTIONS, format_overrides, read_space
from dcs_nas.tune.study import TUNERS, TuneWorker, create_study, get_state, load_study, name_trial, open_storage
from tests.chains import chain_space, random_chain
from tests.run_folders import foreign_names

ROOT = Path(__file__).parents[1]
FAKE = (sys.executable, str(Path(__file__).parent / "fake_trial.py"))
SPACE = {"retrain.lr": {"loguniform": [1e-5, 1e-2]}, "loss.ib_weight": {"choice": [0, 0.1, 1]}}
RETRAIN = {"backbone": "resnet18", "validation": 0.2}
LOSS = {"ib_kind": "ibb"}


def _job(space: Any = SPACE, **tune: Any) -> Config:
    data = {"name": "job", "loss": LOSS, "retrain": RETRAIN, "tune": {"space": space, "trials": 4, **tune}}
    return Config.model_validate(data)


def _file(tmp_path: Path, space: Any = SPACE, **tune: Any) -> Path:
    data = {
        "results": str(tmp_path / "results"),
        "loss": LOSS,
        "retrain": RETRAIN,
        "tune": {"space": space, "trials": 4, **tune},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def _folder(tmp_path: Path) -> Path:
    return tmp_path / "results" / "job" / "tune"


def _tune(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(tuning, "PROGRAM", FAKE)
    monkeypatch.setattr(tuning, "POLL_SECONDS", 0.02)
    with pytest.raises(SystemExit) as stopped:
        main(["tune", *(str(a) for a in arguments)])
    return int(stopped.value.code or 0)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _said(capsys: pytest.CaptureFixture) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dcs-nas: ")]
    assert len(lines) == 1
    return lines[0]


# the space


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"choice": [0, 0.1, "ibb"]}, lambda v: v in (0, 0.1, "ibb")),
        ({"choice": [None, True, [40, 70]]}, lambda v: v is None or v is True or v == [40, 70]),
        ({"randint": [1, 3]}, lambda v: type(v) is int and v in (1, 2)),
        ({"uniform": [0.1, 0.9]}, lambda v: 0.1 <= v <= 0.9),
        ({"quniform": [0, 1, 0.25]}, lambda v: v in (0, 0.25, 0.5, 0.75, 1)),
        ({"loguniform": [1e-5, 1e-2]}, lambda v: 1e-5 <= v <= 1e-2),
        ({"qloguniform": [1, 64, 2]}, lambda v: v == 1 or (v % 2 == 0 and 1 < v <= 64)),
        ({"normal": [0.5, 0.1]}, lambda v: abs(v - 0.5) < 0.5),
        ({"qnormal": [4, 2, 1]}, lambda v: v == round(v)),
        ({"lognormal": [-3, 1]}, lambda v: 0 < v < 20),
        ({"qlognormal": [2, 1, 1]}, lambda v: v >= 0 and v == round(v)),
    ],
)
@pytest.mark.parametrize("tuner", ["Random", "GridSearch"])
def test_every_distribution_is_drawn_from_within_its_bounds(given: Any, fits: Any, tuner: str, tmp_path: Path) -> None:
    config = _job({"data.options.anything": given}, tuner=tuner, trials=10)
    with _worker(config, tmp_path) as worker:
        found = [values["data.options.anything"] for _, values in iter(worker.next, None)]
    assert len(found) == 10 if tuner == "Random" else found
    assert all(map(fits, found))
    assert format_overrides({"data.options.anything": found[0]})[0].startswith("data.options.anything=")
    if tuner == "GridSearch" and given == {"quniform": [0, 1, 0.25]}:
        assert sorted(found) == [0, 0.25, 0.5, 0.75, 1]


def test_a_normal_distribution_has_its_mean_and_spread(tmp_path: Path) -> None:
    config = _job({"data.options.anything": {"normal": [5, 2]}}, tuner="Random", trials=200)
    with _worker(config, tmp_path) as worker:
        found = [values["data.options.anything"] for _, values in iter(worker.next, None)]
    mean = sum(found) / 200
    assert abs(mean - 5) < 0.5
    assert abs((sum((v - mean) ** 2 for v in found) / 200) ** 0.5 - 2) < 0.4


def test_values_reach_the_configuration_as_they_were_drawn(tmp_path: Path) -> None:
    path = _file(tmp_path)
    values = {"retrain.lr": 1.2345678901234567e-05, "retrain.milestones": [3, 9], "retrain.channels": None}
    values["data.options"] = {"folder": "行人 \U0001f6b6"}
    config = load_config(path, format_overrides(values))
    assert config.retrain is not None
    assert config.retrain.lr == values["retrain.lr"]
    assert config.retrain.milestones == (3, 9)
    assert config.retrain.channels is None
    assert config.data.options == values["data.options"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"retrain.lrr": {"uniform": [0, 1]}}, "did you mean lr?"),
        ({"retrian.lr": {"uniform": [0, 1]}}, "did you mean retrain?"),
        ({"retrain.lr.max": {"uniform": [0, 1]}}, "'retrain.lr' is a value, not a section"),
        ({"retrain": {"choice": [1]}}, "tune.space.retrain: the configuration refuses 1"),
        ({"results": {"choice": ["a"]}}, "'results' is not for tuning"),
        ({"search.lr": {"uniform": [0, 1]}}, "'search.lr' has no effect, since tune.command is 'retrain'"),
        ({"pretrain.lr": {"uniform": [0, 1]}}, "'pretrain.lr' has no effect, since tune.command is 'retrain'"),
        ({"retrain.lr": {}}, "retrain.lr: found nothing, expected one distribution"),
        ({"retrain.lr": {"unifrom": [0, 1]}}, "unknown distribution 'unifrom'; did you mean uniform?"),
        ({"retrain.lr": {"uniform": [1]}}, "uniform takes the numbers [low, high], found [1]"),
        ({"retrain.lr": {"quniform": [0, 1]}}, "quniform takes the numbers [low, high, q]"),
        ({"retrain.lr": {"uniform": ["a", 1]}}, "uniform takes the numbers"),
        ({"retrain.lr": {"uniform": [0, float("inf")]}}, "uniform takes the numbers"),
        ({"retrain.epochs": {"randint": [1.5, 4]}}, "randint takes the whole numbers [low, high]"),
        ({"retrain.lr": {"uniform": [1, 0.1]}}, "uniform needs low < high"),
        ({"retrain.lr": {"loguniform": [0, 1]}}, "loguniform needs low > 0"),
        ({"retrain.lr": {"normal": [1, 0]}}, "normal needs sigma > 0"),
        ({"retrain.lr": {"quniform": [0, 1, -1]}}, "quniform needs q > 0"),
        ({"retrain.lr": {"choice": []}}, "choice has no values"),
        ({"retrain.lr": {"choice": [1, 2, 1.0]}}, "choice lists 1.0 twice"),
        ({"retrain.lr": {"uniform": [-1, 1]}}, "refuses -1: retrain.lr: Input should be greater than 0"),
        ({"retrain.epochs": {"uniform": [1, 9]}}, "retrain.epochs: the configuration refuses 4.05"),
        ({"retrain.optimizer": {"choice": ["adam", "lion"]}}, "refuses 'lion': retrain.optimizer: Input should be"),
    ],
)
def test_a_space_that_makes_no_sense_is_one_clear_line(space: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_space(_job(space))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_value_that_only_goes_with_another_keys_value_is_accepted() -> None:
    space = {"loss.ib_weight": {"choice": [0, 0.5]}, "loss.ib_kind": {"choice": ["none", "plugin"]}}
    data = {"name": "job", "retrain": RETRAIN, "tune": {"space": space}}
    read_space(Config.model_validate(data))
    alone = Config.model_validate({**data, "tune": {"space": {"loss.ib_weight": space["loss.ib_weight"]}}})
    with pytest.raises(InputError, match="refuses 0.5: loss: ib_weight is 0.5, but ib_kind is 'none'"):
        read_space(alone)


@pytest.mark.parametrize("name", ["tune_demo", "tune_workers"])
def test_the_shipped_tunings_can_start(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert [parameter.key for parameter in read_space(config)] == list(config.tune.space)
    assert {parameter.kind for parameter in read_space(config)} <= set(DISTRIBUTIONS)


# settings


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"tuner": "TEP"}, "tune.tuner: unknown tuner 'TEP'; did you mean TPE?"),
        ({"tuner": "Hyperband"}, "unknown tuner 'Hyperband'; known: TPE, Random, Evolution, GridSearch"),
        ({"tuner_options": {"tpe_args": {"gamma": 3}}}, "Optuna's TPE takes no 'tpe_args'; known: n_startup_trials"),
        ({"tuner": "Random", "tuner_options": {"population_size": 3}}, "Random takes no 'population_size'"),
        ({"tuner": "Evolution", "tuner_options": {"population_size": 1}}, "must be greater than or equal to 2"),
        ({"tuner": "GridSearch", "tuner_options": {"points": 0}}, "points is 0"),
        ({"pruner": "hyprband"}, "tune.pruner: Input should be 'none', 'median' or 'hyperband'"),
        ({"pruner": "median", "pruner_options": {"warmup": 1}}, "median takes no 'warmup'; did you mean"),
        ({"pruner": "hyperband", "pruner_options": {"max_resource": "x"}}, "tune.pruner_options: hyperband refuses"),
        ({"pruner_options": {"n_warmup_steps": 1}}, "set pruner: median or hyperband"),
        ({"metric": "validation/mAP"}, "metric and goal go together"),
        ({"mode": "portal"}, "mode was for NNI's experiment manager, which is no longer used"),
        ({"portal": {"port": 8081}}, "portal was for NNI's experiment manager"),
        ({"training_service": {"platform": "remote"}}, "by the same command with --resume"),
        ({"platform": "remote"}, "platform"),
        ({"gpus": [0], "concurrency": 2}, "concurrency 2 is more than the 1 devices"),
        ({"storage": "nosql://name:secret@host/db"}, "tune.storage: cannot open ...@host/db: "),
        ({"storage": "nosql:/name:secret@host/db"}, "tune.storage: cannot open ...@host/db: "),
        ({"storage": "nosql://host/db?password=secret"}, "tune.storage: cannot open nosql://host/db: "),
        ({"command": "search"}, "has no section 'search'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tune: dict, message: str
) -> None:
    assert _tune(monkeypatch, _file(tmp_path, **tune)) == 1
    said = _said(capsys)
    assert message in said
    assert "secret" not in said
    assert not (tmp_path / "results").exists()


def test_a_recorded_tuning_of_an_earlier_version_is_still_read() -> None:
    recorded = {"mode": "plain", "portal": {"port": 8080, "everywhere": False}, "training_service": None}
    assert _job(**recorded) == _job()


def test_a_metric_that_needs_held_out_people_wants_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert _tune(monkeypatch, _file(tmp_path), "-o", "retrain.validation=0") == 1
    assert "retrain.validation is 0, so no identities are held out; set it" in _said(capsys)
    for distribution in ({"choice": [0, 0.2]}, {"quniform": [0, 0.4, 0.1]}):
        assert _tune(monkeypatch, _file(tmp_path, {**SPACE, "retrain.validation": distribution})) == 1
        assert "no identities are held out; leave 0 out of tune.space" in _said(capsys)


def test_a_genotype_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert _tune(monkeypatch, _file(tmp_path), "-o", "retrain.backbone=null") == 1
    assert "search/genotype.yaml" in _said(capsys)


def test_help_loads_neither_torch_nor_optuna() -> None:
    code = "import sys; from dcs_nas.cli import _run; _run(['tune', '--help'], False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--resume" in shown
    assert not {"torch", "nni", "numpy", "optuna"} & set(shown.splitlines()[-1].split())


# workers


@contextmanager
def _worker(config: Config, folder: Path, *, joins: bool = False) -> Iterator[TuneWorker]:
    """A worker on a tuning of its own, or one that ``joins`` the tuning of the folder."""
    (folder / "workers").mkdir(exist_ok=True)
    with open_storage(config.section("tune"), folder) as storage:
        if not joins:
            create_study(config, storage)
        with TuneWorker.start(config, folder, load_study(config, storage)) as worker:
            yield worker


def _all(worker: TuneWorker) -> list[dict[str, Any]]:
    return [{**worker.values(t), "value": t.value, "state": t.state} for t in worker.trials]


@pytest.mark.parametrize("name", TUNERS)
def test_an_interrupted_tuning_proposes_what_the_uninterrupted_one_would_have(name: str, tmp_path: Path) -> None:
    config = _job(tuner=name, trials=14)
    if name == "Evolution":
        config = _job(tuner=name, trials=14, tuner_options={"population_size": 4})
    found = []
    for stops in ((), (2, 9)):
        folder = tmp_path / str(len(stops))
        folder.mkdir()
        killed = 0
        while True:
            with _worker(config, folder, joins=killed > 0) as worker:
                while begun := worker.next():
                    trial, values = begun
                    if killed < len(stops) and trial.number == stops[killed]:
                        killed += 1
                        break
                    worker.end(trial, None if trial.number == 6 else values["retrain.lr"], seconds=0)
                else:
                    found.append(_all(worker))
                    break
    assert found[0] == found[1]
    assert len(found[0]) == 14
    assert len({(row["retrain.lr"], row["loss.ib_weight"]) for row in found[0]}) > 10
    assert [row["state"] for row in found[0]].count(TrialState.FAIL) == 1


def test_tpe_comes_closer_than_chance_does(tmp_path: Path) -> None:
    def late_distance(tuner: str, options: dict[str, Any]) -> float:
        config = _job({"retrain.lr": {"uniform": [0.001, 1]}}, tuner=tuner, tuner_options=options, trials=30)
        (tmp_path / tuner).mkdir()
        with _worker(config, tmp_path / tuner) as worker:
            for trial, values in iter(worker.next, None):
                worker.end(trial, -abs(values["retrain.lr"] - 0.3), seconds=0)
            return -sum(trial.value or 0 for trial in worker.trials[10:]) / 20

    assert late_distance("TPE", {"n_startup_trials": 5}) < 0.7 * late_distance("Random", {})


def test_two_workers_share_the_trials_and_the_living_takes_over_from_the_dead(tmp_path: Path) -> None:
    config = _job(trials=5)
    with _worker(config, tmp_path) as one:
        with _worker(config, tmp_path, joins=True) as two:
            begun = [worker.next() for worker in (one, two, one, two)]
            assert [trial.number for trial, _ in begun if trial] == [0, 1, 2, 3]
            two.end(begun[1][0], 0.5, seconds=0)
        trial, values = one.next()  # two has ended with trial 3
        assert (trial.number, values) == (3, begun[3][1])
        assert one.next()[0].number == 4
        assert one.next() is None


def test_a_trial_that_outlives_its_worker_is_left_alone_until_it_ends(tmp_path: Path) -> None:
    config = _job(trials=1)
    with _worker(config, tmp_path) as worker:
        trial, values = worker.next()
    with _worker(config, tmp_path, joins=True) as worker:
        with lock_folder(tmp_path / name_trial(trial)):
            assert worker.next() is None
            with pytest.raises(InputError, match="trial_000 is in use by"):
                worker.require_none_left()
        assert worker.next()[1] == values


def test_a_metric_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    with _worker(_job(), tmp_path) as worker:
        ended = worker.end(worker.next()[0], float("nan"), seconds=0)
    assert (ended.state, ended.user_attrs["message"]) == (TrialState.FAIL, "its metric is nan")


# whole tunings with a stand-in for the training


def test_a_tuning_runs_its_trials_and_writes_the_best_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path, folder = _file(tmp_path, trials=6, concurrency=3), _folder(tmp_path)
    assert _tune(monkeypatch, path) == 0
    out, err = capsys.readouterr()
    rows = _rows(folder)
    scores = [float(row["validation/mAP"]) for row in rows]
    assert len(rows) == 6
    assert scores == sorted(scores, reverse=True)
    assert rows[0]["trial"] in out
    assert "trial_000, epoch 2: validation/mAP" in err
    assert "6/6: trial_" in err
    best = load_config(folder / "best.yaml")
    assert best.retrain is not None
    assert best.retrain.lr == float(rows[0]["retrain.lr"])
    assert best.loss.ib_weight == float(rows[0]["loss.ib_weight"])
    assert best == load_config(
        path, ["tune=null", f"retrain.lr={best.retrain.lr}", f"loss.ib_weight={best.loss.ib_weight}"]
    )
    whole = "-o retrain.validation=0"  # trained on all identities
    assert f"next: dcs-nas retrain {folder / 'best.yaml'} {whole} --out {folder.parent / 'best'}" in err
    assert {"config.yaml", "environment.json", "log.txt", "job.yaml"} <= {p.name for p in folder.iterdir()}
    assert not list((folder / "workers").iterdir())
    assert foreign_names(folder) <= {"began.txt"}  # of the stand-in


def test_one_worker_gives_the_same_trials_from_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, trials=3, tuner_options={"n_startup_trials": 2})
    found = []
    for seed in (0, 0, 1):
        assert _tune(monkeypatch, path, "-o", f"seed={seed}", "--overwrite") == 0
        found.append(
            [{key: value for key, value in row.items() if key != "seconds"} for row in _rows(_folder(tmp_path))]
        )
    assert found[0] == found[1] != found[2]


def test_the_best_epoch_counts_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, trials=1, metric="train/loss", goal="maximize")
    values = []
    for take in ("last", "best"):
        assert _tune(monkeypatch, path, "-o", f"tune.take={take}", "--overwrite") == 0
        values.append(float(_rows(_folder(tmp_path))[0]["train/loss"]))
    assert values[1] > values[0]


def test_trials_take_turns_on_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _tune(monkeypatch, _file(tmp_path, gpus=[2, 5], concurrency=2)) == 0
    began = (_folder(tmp_path) / "began.txt").read_text().splitlines()
    assert {line.split()[1] for line in began} == {"2", "5"}


_GOOD_FIRST = 1  # by which the grid begins with its first choice


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_trial_that_does_badly_is_stopped_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str) -> None:
    space = {"retrain.lr": {"choice": [3e-4]}, "loss.ib_weight": {"choice": [1, 7]}}
    options = {"n_startup_trials": 1} if pruner == "median" else {"max_resource": 3, "reduction_factor": 4}
    path = _file(tmp_path, space, tuner="GridSearch", pruner=pruner, pruner_options=options)
    assert _tune(monkeypatch, path, "-o", f"seed={_GOOD_FIRST}") == 0
    rows = {row["loss.ib_weight"]: row["state"] for row in _rows(_folder(tmp_path))}
    assert rows == {"1": "finished", "7": "pruned"}


def test_hyperband_prunes_after_1_3_9_epochs_and_the_median_pruner_after_its_warm_up(tmp_path: Path) -> None:
    class Process:
        seconds = 0.0

        def __init__(self) -> None:
            self.epochs = 0

        def is_running(self) -> bool:
            return True

        def stop(self) -> None: ...

        def read_new_epochs(self) -> list[tuple[int, float]]:
            self.epochs += 1
            return [(self.epochs - 1, score)]

    def prune(number: int, **tune: Any) -> set[int]:
        nonlocal score
        (folder := tmp_path / tune["pruner"]).mkdir()
        pruned = set()
        config = _job(trials=number, **tune)
        with _worker(config, folder) as worker:
            for trial, _ in iter(worker.next, None):
                score, process = 1 / (trial.number + 1), Process()
                while process.epochs < 9 and tuning._poll_trial(worker, trial, process) is None:
                    pass
                if get_state(worker.trials[trial.number]) == "pruned":
                    pruned.add(process.epochs)
                else:
                    worker.end(trial, score, seconds=0)
        return pruned

    score = 0.0
    assert prune(30, pruner="hyperband", pruner_options={"max_resource": 9}) == {1, 3, 9}
    assert prune(3, pruner="median", pruner_options={"n_startup_trials": 1, "n_warmup_steps": 5}) == {6}


def test_a_failed_trial_is_told_with_its_last_line_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    space = {**SPACE, "loss.ib_weight": {"choice": [1, 9]}}
    assert _tune(monkeypatch, _file(tmp_path, space, trials=6, tuner="GridSearch")) == 0
    rows = _rows(_folder(tmp_path))
    failed = [row for row in rows if row["state"] == "failed"]
    assert 0 < len(failed) < 6
    assert all(row["message"] == "exit code 1: dcs-nas: the loss is nan in step 3" for row in failed)
    assert rows[-len(failed) :] == failed
    assert f"{failed[0]['trial']} failed: exit code 1: dcs-nas: the loss is nan" in capsys.readouterr().err


def test_a_tuning_without_any_result_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    space = {**SPACE, "loss.ib_weight": {"choice": [9]}}
    assert _tune(monkeypatch, _file(tmp_path, space, trials=2)) == 1
    assert "none of 2 trials" in _said(capsys)


def test_a_metric_that_no_trial_has_stops_the_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert _tune(monkeypatch, _file(tmp_path, metric="train/los", goal="minimize")) == 1
    said = "has no column 'train/los'; did you mean train/loss? known: train/loss, validation/mAP; --resume with"
    assert said in _said(capsys)
    file = tmp_path / "job.yaml"
    with lock_folder(_folder(tmp_path) / "workers" / "another"):
        assert _tune(monkeypatch, file, "--resume", "-o", "tune.metric=train/loss") == 1
        assert "began with tune.metric=train/los, not train/loss" in _said(capsys)
    assert _tune(monkeypatch, file, "--resume", "-o", "tune.metric=train/loss") == 0
    assert "train/loss" in _rows(_folder(tmp_path))[0]
    assert _tune(monkeypatch, file, "--resume", "-o", "tune.metric=validation/mAP") == 1
    assert "began with tune.metric=train/loss, not validation/mAP" in _said(capsys)


def test_a_trial_without_the_metric_is_a_failure_where_another_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"retrain.lr": {"choice": [3e-4]}, "loss.ib_weight": {"choice": [1, 6]}}
    assert _tune(monkeypatch, _file(tmp_path, space, tuner="GridSearch"), "-o", f"seed={_GOOD_FIRST}") == 0
    good, bad = _rows(_folder(tmp_path))
    assert (good["state"], bad["state"]) == ("finished", "failed")
    assert "has no column 'validation/mAP'" in bad["message"]


def test_a_space_that_is_used_up_ends_the_tuning_and_its_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"retrain.lr": {"choice": [1e-4, 1e-3, 1e-2]}}
    path, steps = _file(tmp_path, space, trials=10, tuner="GridSearch"), []
    monkeypatch.setattr(tuning, "PROGRAM", FAKE)
    tuning.run_tuning(load_config(path), _folder(tmp_path), progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert sorted(row["retrain.lr"] for row in _rows(_folder(tmp_path))) == ["0.0001", "0.001", "0.01"]


def test_no_trial_begins_after_the_hours_are_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert _tune(monkeypatch, _file(tmp_path, hours=1e-9)) == 1
    assert "none of 0 trials" in _said(capsys)


def test_a_folder_is_neither_overwritten_nor_resumed_by_accident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = _file(tmp_path, trials=2)
    assert _tune(monkeypatch, path, "--resume") == 1
    assert "no tuning to resume" in _said(capsys)
    assert _tune(monkeypatch, path) == 0
    capsys.readouterr()
    for arguments, message in (
        ([], "holds a tuning already; continue it with --resume"),
        (["--resume", "-o", "retrain.epochs=3"], "began with retrain.epochs=120, not 3"),
        (["--resume", "-o", "tune.tuner=Random"], "began with tune.tuner=TPE, not Random"),
        (["--resume", "-o", "data.cache=elsewhere"], "began with data.cache="),  # what trials would not take
        (["--resume", "--overwrite"], "exclude each other"),
    ):
        assert _tune(monkeypatch, path, *arguments) == 1
        assert message in _said(capsys)
    with lock_folder(_folder(tmp_path) / "workers" / "another"):
        assert _tune(monkeypatch, path, "--overwrite") == 1
        assert "in use by" in _said(capsys)
    assert _tune(monkeypatch, path, "--overwrite") == 0


def test_a_tuning_by_nni_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path, folder = _file(tmp_path), _folder(tmp_path)
    folder.mkdir(parents=True)
    shutil.copy(path, folder / "config.yaml")
    (folder / "trials.json").write_text('{"format": 1, "trials": [], "events": []}')
    assert _tune(monkeypatch, path, "--resume") == 1
    assert "is a tuning by NNI's tuners, which this version does not continue" in _said(capsys)


def test_resume_adds_trials_and_repeats_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = _file(tmp_path, trials=3), _folder(tmp_path)
    assert _tune(monkeypatch, path) == 0
    assert _tune(monkeypatch, path, "--resume", "-o", "tune.trials=5") == 0
    began = [line.split()[0] for line in (folder / "began.txt").read_text().splitlines()]
    assert began == [f"trial_{i:03d}" for i in range(5)]
    again = tmp_path / "again"
    assert _tune(monkeypatch, _file(tmp_path, trials=5), "--out", again) == 0
    assert [{**row, "seconds": 0} for row in _rows(folder)] == [{**row, "seconds": 0} for row in _rows(again)]


def test_trials_are_recorded_in_a_database_where_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    address = f"sqlite:///{tmp_path / 'study.db'}"
    path, folder = _file(tmp_path, trials=1, storage=address), _folder(tmp_path)
    assert _tune(monkeypatch, path) == 0
    assert not any(address in file.read_text() for file in folder.rglob("*") if file.is_file())
    with open_storage(load_config(path).section("tune"), folder) as storage:
        assert len(optuna.load_study(study_name="job", storage=storage).trials) == 1
    assert _tune(monkeypatch, path, "--resume", "-o", "tune.trials=2") == 0
    assert len(_rows(folder)) == 2
    capsys.readouterr()
    assert _tune(monkeypatch, path, "--out", tmp_path / "other") == 1
    assert "tune.storage holds a study 'job' already" in _said(capsys)
    assert _tune(monkeypatch, path, "--resume", "-o", "tune.storage=null") == 1
    assert "has no study 'job'; give tune.storage as it was" in _said(capsys)
    assert _tune(monkeypatch, path, "--overwrite") == 0
    assert len(_rows(folder)) == 1


@pytest.mark.parametrize(
    "item", ["tune.storage={}", "-otune.storage={}", "tune={{trials: 3, storage: '{}', hours: 1}}"]
)
def test_no_record_holds_the_password_of_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dcs-nas", "tune", "job", "-o", item.format("mysql://name:secret@host/db")])
    with lock_folder(tmp_path):
        records = [(tmp_path / LOCK).read_text(), " ".join(describe_environment()["command"])]
    assert all("dcs-nas tune job -o" in text and "secret" not in text for text in records)


# interruption


def _start(path: Path, *arguments: str) -> subprocess.Popen:
    code = f"from dcs_nas.tune import tuning; tuning.PROGRAM = {FAKE!r}; from dcs_nas.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "tune", str(path), *arguments], stderr=subprocess.PIPE, text=True
    )


def _wait_for(what: Any, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def _alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


def test_an_interrupted_tuning_leaves_no_process_and_goes_on_with_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"retrain.lr": {"loguniform": [1e-5, 1e-2]}, "loss.ib_weight": {"choice": [8]}}
    path, folder = _file(tmp_path, space, trials=3, concurrency=2), _folder(tmp_path)
    with _start(path) as process:
        files = _wait_for(lambda: (found := list(folder.glob("*/pids"))) and len(found) == 2 and found)
        pids = [int(pid) for file in files for pid in _wait_for(file.read_text).split()]
        assert all(_alive(pid) for pid in pids)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "interrupted" in err
    assert not any(_alive(pid) for pid in pids)
    monkeypatch.setenv("FAKE_TRIALS_END", "1")
    assert _tune(monkeypatch, path, "--resume") == 0
    began = [line.split() for line in (folder / "began.txt").read_text().splitlines()]
    assert sorted(words[0] for words in began) == [f"trial_{i:03d}" for i in (0, 0, 1, 1, 2)]
    assert sum("--resume" in words for words in began) == 2
    assert [row["state"] for row in _rows(folder)] == ["finished"] * 3


def test_a_second_process_joins_and_the_trial_of_a_killed_one_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"retrain.lr": {"loguniform": [1e-5, 1e-2]}, "loss.ib_weight": {"choice": [8]}}
    path, folder = _file(tmp_path, space, trials=3), _folder(tmp_path)
    with _start(path) as process:
        (file,) = _wait_for(lambda: list(folder.glob("*/pids")))
        trial, child = map(int, _wait_for(file.read_text).split())
        monkeypatch.setenv("FAKE_TRIALS_END", "1")
        assert _tune(monkeypatch, path, "--resume") == 0
        assert {row["trial"]: row["state"] for row in _rows(folder)} == {
            "trial_000": "running",
            "trial_001": "finished",
            "trial_002": "finished",
        }
        process.kill()
        process.communicate()
    for pid in (trial, child):
        os.kill(pid, signal.SIGKILL)
    assert _tune(monkeypatch, path, "--resume") == 0
    assert [row["state"] for row in _rows(folder)] == ["finished"] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_ask_to_stop_and_have_their_old_meaning_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with tuning.catch_signals() as stopped:
        assert not stopped()
        os.kill(os.getpid(), number)
        assert _wait_for(stopped)
    assert signal.getsignal(number) is before


# real trials


def test_the_retraining_of_a_chain_is_tuned(tmp_path: Path, people: Path, capsys: pytest.CaptureFixture) -> None:
    stages = [{"blocks": 1, "stride": 2, "widths": [4, 8], "kernels": [3], "attention": ["none", "dcs"]}]
    genotype = tmp_path / "found.yaml"
    genotype.write_text(random_chain(chain_space(stages), 0).to_yaml())
    data = {"name": "market1501", "root": str(people), "height": 32, "width": 16, "identities_per_batch": 4}
    job = {
        "results": str(tmp_path / "results"),
        "data": {**data, "images_per_identity": 2},
        "retrain": {"epochs": 1, "warmup_epochs": 0, "validation": 0.4, "validate_every": 1},
        "trainer": {"accelerator": "cpu", "threads": 1},
        "tune": {"space": {"retrain.lr": {"loguniform": [1e-4, 1e-2]}}, "trials": 1},
    }
    path, folder = tmp_path / "job.yaml", _folder(tmp_path)
    path.write_text(yaml.safe_dump(job))
    with pytest.raises(SystemExit) as stopped:
        main(["tune", str(path), "--genotype", str(genotype)])
    assert stopped.value.code in (None, 0)
    (row,) = _rows(folder)
    assert row["state"] == "finished"
    assert (folder / "trial_000" / "genotype.yaml").read_text() == (folder / "genotype.yaml").read_text()
    genotype.write_text(random_chain(chain_space(stages), 1).to_yaml())
    with pytest.raises(SystemExit):
        main(["tune", str(path), "--genotype", str(genotype), "--resume"])
    assert "began with another genotype; resume with its own" in _said(capsys)


@pytest.mark.parametrize(
    ("overrides", "objective"),
    [
        (["tune.command=retrain"], ("validation/mAP", "maximize")),
        (["tune.command=search"], ("best/mAP", "maximize")),
        (["tune.command=search", "search.strategy=bilevel"], ("architecture/loss", "minimize")),
        (
            ["tune.command=search", "search.strategy=bilevel", "search.weight_share=1", "search.relaxation.kind=gumbel",
             "search.derivation=retrieval", "search.validation=0.2"],
            ("validation/mAP", "maximize"),
        ),
        (["tune.metric=weights/loss", "tune.goal=minimize"], ("weights/loss", "minimize")),
    ],
)  # fmt: skip
def test_a_tuning_is_judged_by_what_its_job_measures(overrides: list[str], objective: tuple[str, str]) -> None:
    space = "tune={space: {retrain.lr: {uniform: [0.1, 0.2]}}}"
    assert load_config(find_shipped_file("configs", "demo"), [space, *overrides]).objective == objective
