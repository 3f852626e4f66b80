"""The tune command: its space, its trials as processes, failures, interruption and resume, NNI's own configuration."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from dcs_nas.cli import main, tune_trials
from dcs_nas.cli.tune import TUNERS, make_tuner
from dcs_nas.cli.tune_folder import open_folder
from dcs_nas.cli.tune_portal import training_service, warning
from dcs_nas.cli.tune_space import DISTRIBUTIONS, check_space, from_nni, nni_space, overrides
from dcs_nas.cli.tune_study import Record, Study
from dcs_nas.config import Config, load_config
from dcs_nas.errors import InputError

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


def _tune(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(tune_trials, "PROGRAM", FAKE)
    monkeypatch.setattr(tune_trials, "POLL_SECONDS", 0.02)
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
    ("given", "expected"),
    [
        ({"choice": [0, 0.1, "ibb"]}, {"_type": "choice", "_value": [0, 0.1, "ibb"]}),
        ({"choice": [None, True, [40, 70]]}, {"_type": "choice", "_value": ["null", "true", "[40, 70]"]}),
        ({"randint": [1, 5]}, {"_type": "randint", "_value": [1, 5]}),
        ({"uniform": [0.1, 0.9]}, {"_type": "uniform", "_value": [0.1, 0.9]}),
        ({"quniform": [0, 1, 0.25]}, {"_type": "quniform", "_value": [0, 1, 0.25]}),
        ({"loguniform": [1e-5, 1e-2]}, {"_type": "loguniform", "_value": [1e-5, 1e-2]}),
        ({"qloguniform": [1, 64, 2]}, {"_type": "qloguniform", "_value": [1, 64, 2]}),
        ({"normal": [0.5, 0.1]}, {"_type": "normal", "_value": [0.5, 0.1]}),
        ({"qnormal": [4, 2, 1]}, {"_type": "qnormal", "_value": [4, 2, 1]}),
        ({"lognormal": [-3, 1]}, {"_type": "lognormal", "_value": [-3, 1]}),
        ({"qlognormal": [2, 1, 1]}, {"_type": "qlognormal", "_value": [2, 1, 1]}),
    ],
)
def test_every_distribution_becomes_one_that_nni_accepts_and_draws_from(given: Any, expected: Any) -> None:
    from nni.common.hpo_utils import validate_search_space

    config = _job({"data.options.anything": given}, tuner="Random")
    space = nni_space(config.tune)
    assert space == {"data.options.anything": expected}
    assert validate_search_space(space, raise_exception=True)
    check_space(config, config.tune)
    values = from_nni(config.tune, make_tuner(config).generate_parameters(0))
    assert overrides(values)[0].startswith("data.options.anything=")
    if "choice" in given:
        assert values["data.options.anything"] in given["choice"]


def test_the_distributions_are_those_of_nni() -> None:
    from nni.common.hpo_utils.validation import common_search_space_types

    assert set(DISTRIBUTIONS) == set(common_search_space_types)


def test_values_reach_the_configuration_as_they_were_drawn(tmp_path: Path) -> None:
    path = _file(tmp_path)
    values = {"retrain.lr": 1.2345678901234567e-05, "retrain.milestones": [3, 9], "retrain.channels": None}
    config = load_config(path, overrides(values))
    assert config.retrain is not None
    assert config.retrain.lr == values["retrain.lr"]
    assert config.retrain.milestones == (3, 9)
    assert config.retrain.channels is None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"retrain.lrr": {"uniform": [0, 1]}}, "unknown key 'retrain.lrr'; did you mean lr?"),
        ({"retrian.lr": {"uniform": [0, 1]}}, "unknown key 'retrian.lr'; did you mean retrain?"),
        ({"retrain.lr.max": {"uniform": [0, 1]}}, "retrain.lr is a value, not a section"),
        ({"retrain": {"choice": [1]}}, "'retrain' is a section; name one of its settings: backbone"),
        ({"results": {"choice": ["a"]}}, "'results' is not for tuning"),
        ({"search.lr": {"uniform": [0, 1]}}, "'search.lr' has no effect, since tune.command is 'retrain'"),
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
    config = _job(space)
    with pytest.raises(InputError) as error:
        check_space(config, config.tune)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_value_that_only_goes_with_another_keys_value_is_accepted() -> None:
    space = {"loss.ib_weight": {"choice": [0, 0.5]}, "loss.ib_kind": {"choice": ["none", "plugin"]}}
    data = {"name": "job", "retrain": RETRAIN, "tune": {"space": space}}
    config = Config.model_validate(data)
    check_space(config, config.tune)
    alone = Config.model_validate({**data, "tune": {"space": {"loss.ib_weight": space["loss.ib_weight"]}}})
    with pytest.raises(InputError, match="refuses 0.5: loss: ib_weight is 0.5, but ib_kind is 'none'"):
        check_space(alone, alone.tune)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"tuner": "TEP"}, "tune.tuner: unknown tuner 'TEP'; did you mean TPE?"),
        ({"tuner_options": {"sede": 3}}, "TPE refuses {'sede': 3}"),
        ({"tuner_options": {"tpe_args": {"gama": 3}}}, "gama"),
        ({"tuner": "Evolution", "tuner_options": {"population_size": 1}, "concurrency": 2}, "raise it"),
        ({"metric": "validation/mAP"}, "metric and goal go together"),
        ({"training_service": {"platform": "local"}}, "it needs mode: portal"),
        ({"gpus": [0], "concurrency": 2}, "concurrency 2 is more than the 1 devices"),
        ({"mode": "portal", "training_service": {"platform": "remote"}}, "machine_list is not set"),
        ({"mode": "portal", "training_service": {"platform": "lokal"}}, "NNI refuses it"),
        ({"mode": "portal", "training_service": {"platform": "local", "gpu": 1}}, "does not have field(s) gpu"),
        ({"command": "search"}, "has no section 'search'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tune: dict, message: str
) -> None:
    assert _tune(monkeypatch, _file(tmp_path, **tune)) == 1
    assert message in _said(capsys)
    assert not (tmp_path / "results").exists()


def test_a_metric_that_needs_held_out_people_wants_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert _tune(monkeypatch, _file(tmp_path), "-o", "retrain.validation=0") == 1
    assert "retrain.validation is 0, so no people are held out" in _said(capsys)


def test_a_genotype_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert _tune(monkeypatch, _file(tmp_path), "-o", "retrain.backbone=null") == 1
    assert "search/genotype.yaml" in _said(capsys)


# the tuners


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of records in a temporary folder need not outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("name", TUNERS)
def test_a_tuner_proposes_the_same_again_from_the_same_seed_and_results(name: str, tmp_path: Path) -> None:
    config = _job(tuner=name)
    studies = []
    for part in ("a", "b"):
        study = Study(make_tuner(config), tmp_path / part, limit=25)
        for _ in range(25):
            trial = study.next()
            assert trial is not None
            study.finish(trial.number, trial.proposal["retrain.lr"], seconds=1.0)
        studies.append(study.trials)
    assert studies[0] == studies[1]
    assert len({json.dumps(trial.proposal) for trial in studies[0]}) > 20


@pytest.mark.parametrize("name", TUNERS)
def test_a_replayed_study_goes_on_as_the_uninterrupted_one_would_have(name: str, tmp_path: Path) -> None:
    config = _job(tuner=name, concurrency=2)

    def run(folder: Path, *, stops: tuple[int, ...]) -> list[Any]:
        study = Study(make_tuner(config), folder, limit=25)
        waiting = []
        for step in range(35):
            if step in stops:
                study = Study(make_tuner(config), folder, limit=25)
                for trial in waiting:
                    assert study.next() == trial
            while len(waiting) < 2 and (trial := study.next()):
                waiting.append(trial)
            if waiting:
                trial = waiting.pop(0 if step % 3 else -1)
                value = None if trial.number % 7 == 6 else trial.proposal["retrain.lr"]
                study.finish(trial.number, value, seconds=0.0)
        return study.trials

    assert run(tmp_path / "a", stops=()) == run(tmp_path / "b", stops=(3, 17, 25))


def test_tpe_comes_closer_than_chance_does(tmp_path: Path) -> None:
    def late_distance(tuner: str, options: dict[str, Any]) -> float:
        config = _job({"retrain.lr": {"uniform": [0.001, 1]}}, tuner=tuner, tuner_options=options)
        study = Study(make_tuner(config), tmp_path / tuner, limit=30)
        while trial := study.next():
            study.finish(trial.number, -abs(trial.proposal["retrain.lr"] - 0.3), seconds=0.0)
        return -sum(trial.value for trial in study.trials[10:] if trial.value is not None) / 20

    assert late_distance("TPE", {"tpe_args": {"n_startup_jobs": 5}}) < 0.7 * late_distance("Random", {})


def test_a_record_that_the_tuner_does_not_repeat_is_refused(tmp_path: Path) -> None:
    study = Study(make_tuner(_job()), tmp_path, limit=4)
    study.next()
    with pytest.raises(InputError, match="it now proposes otherwise for trial_000"):
        Study(make_tuner(_job().model_copy(update={"seed": 5})), tmp_path, limit=4)
    (tmp_path / "trials.json").write_text("{")
    with pytest.raises(InputError, match="trials.json is damaged"):
        Record.read(tmp_path)


def test_a_metric_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    study = Study(make_tuner(_job()), tmp_path, limit=4)
    trial = study.next()
    assert trial is not None
    assert study.finish(trial.number, float("nan"), seconds=0.0).message == "its metric is nan"
    assert Record.read(tmp_path).trials[0].state == "failed"


# whole tunings with a stand-in for the training


def test_a_tuning_runs_its_trials_and_writes_the_best_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = _file(tmp_path, trials=6, concurrency=3)
    assert _tune(monkeypatch, path) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "results" / "job" / "tune"
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
    assert f"next: dcs-nas retrain {folder / 'best.yaml'} --out {folder.parent / 'best'}" in err
    assert {"config.yaml", "environment.json", "log.txt", "job.yaml"} <= {p.name for p in folder.iterdir()}


def test_the_best_epoch_counts_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = {"metric": "train/loss", "goal": "maximize"}
    path = _file(tmp_path, trials=1, **loss)
    folder = tmp_path / "results" / "job" / "tune"
    values = []
    for take in ("last", "best"):
        assert _tune(monkeypatch, path, "-o", f"tune.take={take}", "--overwrite") == 0
        values.append(float(_rows(folder)[0]["train/loss"]))
    assert values[1] > values[0]


def test_trials_take_turns_on_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _tune(monkeypatch, _file(tmp_path, gpus=[2, 5], concurrency=2)) == 0
    began = (tmp_path / "results" / "job" / "tune" / "began.txt").read_text().splitlines()
    assert {line.split()[1] for line in began} == {"2", "5"}


def test_a_failed_trial_is_told_with_its_last_line_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    space = {**SPACE, "loss.ib_weight": {"choice": [1, 9]}}
    assert _tune(monkeypatch, _file(tmp_path, space, trials=6, tuner="GridSearch")) == 0
    rows = _rows(tmp_path / "results" / "job" / "tune")
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
    assert "has no column 'train/los'; did you mean train/loss? known: train/loss, validation/mAP" in _said(capsys)


def test_a_space_that_is_used_up_ends_the_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"retrain.lr": {"choice": [1e-4, 1e-3, 1e-2]}}
    assert _tune(monkeypatch, _file(tmp_path, space, trials=10, tuner="GridSearch")) == 0
    assert len(_rows(tmp_path / "results" / "job" / "tune")) == 3


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
        (["--resume", "--overwrite"], "exclude each other"),
    ):
        assert _tune(monkeypatch, path, *arguments) == 1
        assert message in _said(capsys)
    assert _tune(monkeypatch, path, "--overwrite") == 0


def test_resume_adds_trials_and_repeats_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, trials=3)
    folder = tmp_path / "results" / "job" / "tune"
    assert _tune(monkeypatch, path) == 0
    assert _tune(monkeypatch, path, "--resume", "-o", "tune.trials=5") == 0
    began = [line.split()[0] for line in (folder / "began.txt").read_text().splitlines()]
    assert began == [f"trial_{i:03d}" for i in range(5)]
    whole = _file(tmp_path, trials=5)
    again = tmp_path / "again"
    assert _tune(monkeypatch, whole, "--out", again) == 0
    assert [t.proposal for t in Record.read(folder).trials] == [t.proposal for t in Record.read(again).trials]


# interruption


def _start(path: Path, *arguments: str) -> subprocess.Popen:
    code = f"from dcs_nas.cli import main, tune_trials; tune_trials.PROGRAM = {FAKE!r}; main()"
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
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_interrupted_tuning_leaves_no_process_and_goes_on_with_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"retrain.lr": {"loguniform": [1e-5, 1e-2]}, "loss.ib_weight": {"choice": [8]}}
    path = _file(tmp_path, space, trials=3, concurrency=2)
    folder = tmp_path / "results" / "job" / "tune"
    with _start(path) as process:
        files = _wait_for(lambda: (found := list(folder.glob("*/pids"))) and len(found) == 2 and found)
        pids = [int(pid) for file in files for pid in _wait_for(file.read_text).split()]
        assert all(_alive(pid) for pid in pids)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "interrupted" in err
    assert not any(_alive(pid) for pid in pids)
    assert [trial.state for trial in Record.read(folder).trials] == ["running", "running"]
    monkeypatch.setenv("FAKE_TRIALS_END", "1")
    assert _tune(monkeypatch, path, "--resume") == 0
    began = [line.split() for line in (folder / "began.txt").read_text().splitlines()]
    assert sorted(words[0] for words in began) == [f"trial_{i:03d}" for i in (0, 0, 1, 1, 2)]
    assert sum("--resume" in words for words in began) == 2
    assert [row["state"] for row in _rows(folder)] == ["finished"] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_ask_to_stop_and_have_their_old_meaning_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with tune_trials.interruptions() as stopped:
        assert not stopped()
        os.kill(os.getpid(), number)
        assert _wait_for(stopped)
    assert signal.getsignal(number) is before


def test_a_trial_that_outlives_a_killed_tuning_keeps_its_folder(tmp_path: Path) -> None:
    config = _job()
    with open_folder(tmp_path / "tune", config, resume=False, overwrite=False) as lock:
        trial = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    with (
        pytest.raises(InputError, match="in use by another dcs-nas tune, or by a trial that outlived one"),
        open_folder(tmp_path / "tune", config, resume=True, overwrite=False),
    ):
        pass
    trial.kill()
    trial.wait()
    with open_folder(tmp_path / "tune", config, resume=True, overwrite=False):
        pass


# NNI's experiment manager


@pytest.mark.parametrize("name", ["tune_remote", "tune_kubernetes"])
def test_the_sample_files_are_what_nni_accepts(name: str, tmp_path: Path) -> None:
    from nni.experiment.config import KubeflowConfig, RemoteConfig

    from dcs_nas.cli.tune import _experiment_config

    config = load_config(Path(__file__).parents[1] / "configs" / f"{name}.yaml")
    check_space(config, config.tune)
    service = config.tune.training_service
    key = tmp_path / "key"
    key.write_text("")
    for machine in service.get("machineList", []):
        machine["sshKeyFile"] = str(key)
    experiment = _experiment_config(config, tmp_path, tmp_path, trials=config.tune.trials)
    made = experiment.training_service
    assert isinstance(made, RemoteConfig if name == "tune_remote" else KubeflowConfig)
    command = "python3 -m dcs_nas tune job.yaml --as-trial"
    sent = experiment.json()
    assert sent["maxTrialNumber"] == 40
    assert sent["maxExperimentDuration"] == "86400s"
    assert sent["searchSpace"] == nni_space(config.tune)
    if name == "tune_remote":
        assert sent["trialCommand"] == command
        assert [m["host"] for m in sent["trainingService"]["machineList"]] == ["192.0.2.11", "192.0.2.12"]
    else:
        assert sent["trainingService"]["master"]["command"] == command
        assert sent["trainingService"]["storage"]["path"] == "/export/nni"


def test_the_demo_is_a_tuning_that_can_start() -> None:
    config = load_config(Path(__file__).parents[1] / "configs" / "tune_demo.yaml")
    check_space(config, config.tune)
    assert set(make_tuner(config).generate_parameters(0)) == set(config.tune.space)


def test_help_loads_neither_torch_nor_nni() -> None:
    code = "import sys; from dcs_nas.cli import _run; _run(['tune', '--help'], False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--portal" in shown
    assert not {"torch", "nni", "numpy"} & set(shown.splitlines()[-1].split())


def test_the_settings_are_not_changed_by_what_nni_is_given(tmp_path: Path) -> None:
    config = load_config(Path(__file__).parents[1] / "configs" / "tune_kubernetes.yaml")
    before = config.model_dump()
    training_service(config.tune, tmp_path, tmp_path)
    assert config.model_dump() == before


def test_the_open_portal_is_told_of_before_it_opens() -> None:
    closed, opened = _job(mode="portal"), _job(mode="portal", portal={"everywhere": True})
    assert "127.0.0.1:8080, this machine only, without a password" in warning(closed.tune)
    assert "EVERY interface, without a password" in warning(opened.tune)
    remote = _job(mode="portal", training_service={"platform": "remote"})
    assert "port 8081 is open to other machines" in warning(remote.tune)


def test_a_trial_of_nni_is_refused_outside_of_nni(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert _tune(monkeypatch, _file(tmp_path), "--as-trial") == 1
    assert "--as-trial is for NNI" in _said(capsys)


SLOW = pytest.mark.skipif(not os.environ.get("DCS_NAS_TEST_PORTAL"), reason="slow; set DCS_NAS_TEST_PORTAL=1")


def _real(tmp_path: Path, people: Path, **tune: Any) -> tuple[Path, int]:
    """A tuning of real, tiny trainings in NNI's manager, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = {"height": 48, "width": 24, "people_per_batch": 4, "images_per_person": 2}
    data = {
        "results": str(tmp_path / "results"),
        "data": {"name": "synthetic", "root": str(people), **sizes},
        "retrain": {
            "backbone": "resnet10_small",
            "epochs": 2,
            "warmup_epochs": 0,
            "validation": 0.4,
            "validate_every": 1,
        },
        "trainer": {"accelerator": "cpu", "threads": 1},
        "tune": {"space": {"retrain.lr": {"loguniform": [1e-4, 1e-2]}}, "trials": 3, "mode": "portal", **tune},
    }
    data["tune"]["portal"] = {"port": port, "everywhere": tune.get("portal", {}).get("everywhere", False)}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(data))
    return path, port


def _addresses(process: psutil.Process, port: int) -> set[str]:
    """Where it, or one of its children, listens on a port."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            found |= {c.laddr.ip for c in each.net_connections("inet") if c.status == "LISTEN" and c.laddr.port == port}
        except psutil.Error:
            continue
    return found


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def _portal(path: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "dcs_nas", "tune", str(path), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@SLOW
def test_nnis_manager_runs_the_trials_behind_a_loopback_portal(tmp_path: Path, people: Path) -> None:
    path, port = _real(tmp_path, people, concurrency=2)
    with _portal(path) as process:
        assert _wait_for(lambda: _addresses(psutil.Process(process.pid), port), 120) == {"127.0.0.1"}
        _wait_for(lambda: "PERIODICAL" in _get(f"http://127.0.0.1:{port}/api/v1/nni/metric-data"), 300)
        family = psutil.Process(process.pid).children(recursive=True)
        listening = sorted(
            f"{c.laddr.ip}:{c.laddr.port}"
            for each in family
            for c in each.net_connections("inet")
            if c.status == "LISTEN"
        )
        _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert "this machine only, without a password" in err
    assert listening == [f"127.0.0.1:{port}"]
    rows = _rows(tmp_path / "results" / "job" / "tune")
    assert [row["state"] for row in rows] == ["finished"] * 3
    assert load_config(tmp_path / "results" / "job" / "tune" / "best.yaml").retrain is not None
    assert not any(_alive(each.pid) for each in family)
    with socket.socket() as tried:
        assert tried.connect_ex(("127.0.0.1", port)) != 0


@SLOW
def test_ctrl_c_ends_nnis_manager_and_its_trials_and_resume_goes_on_without_it(tmp_path: Path, people: Path) -> None:
    path, port = _real(tmp_path, people, portal={"everywhere": True})
    folder = tmp_path / "results" / "job" / "tune"
    with _portal(path) as process:
        _wait_for(lambda: (folder / "trial_000" / "metrics.csv").is_file(), 200)
        family = psutil.Process(process.pid).children(recursive=True)
        assert _addresses(psutil.Process(process.pid), port) & {"0.0.0.0", "::"}
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "EVERY interface" in err
    assert len(family) > 3
    assert not any(_alive(each.pid) for each in family)
    done = [trial.number for trial in Record.read(folder).ended()]
    with _portal(path, "-o", "tune.mode=plain", "--resume") as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [row["state"] for row in _rows(folder)] == ["finished"] * 3
    assert not any(f"trial_{number:03d}, epoch" in err for number in done)
