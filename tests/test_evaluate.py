"""Evaluation of a trained run by command and by configuration: scores, files, pictures, other data sets, means."""

from __future__ import annotations

import csv
import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from dcs_nas.config import DataSource, load_config
from dcs_nas.data.datamodule import ReidData
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.fingerprint import record_source
from dcs_nas.errors import InputError
from dcs_nas.evaluation import average, load_features
from dcs_nas.runs import RunFolder
from dcs_nas.training.checkpoints import EpochCheckpoint
from dcs_nas.training.evaluate import Evaluation, evaluate_run
from dcs_nas.training.retrain_job import run_retraining
from tests.command_line import refused, run_command
from tests.make_datasets import (
    cuhk03_names,
    write_cuhk03_mat,
    write_cuhk03_protocol,
    write_duke,
    write_market,
    write_msmt17,
)
from tests.run_folders import foreign_names

JOB = """
name: tiny
seed: 3
data: {name: market1501, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
augment: {pad: 2, erase: 0}
retrain: {backbone: resnet10_small, epochs: 1, warmup_epochs: 0}
trainer: {accelerator: cpu, threads: 1}
"""


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    duke = write_duke(folder / "duke")
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["data"]["also"] = [{"name": "dukemtmc", "root": str(duke)}]
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def trained(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on two data sets together."""
    folder = tmp_path_factory.mktemp("runs") / "retrain"
    run_retraining(load_config(job), folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(trained, tmp_path / "retrain"))


def _reconfigured(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = yaml.safe_load((folder / "config.yaml").read_text())
    change(data)
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    return folder


# Two data sets together, combine-all, cross-domain


def test_two_data_sets_are_trained_on_together_and_the_result_says_so(trained: Path) -> None:
    report = evaluate_run(trained).report
    assert report["trained_on"] == "market1501+dukemtmc"
    assert report["training_data"]["version"] == "Market-1501 + DukeMTMC-reID (train)"
    assert report["training_data"]["train"]["people"] == 8 + 1
    assert any(note.startswith("dukemtmc: train identities: 1 found") for note in report["training_data"]["deviations"])
    assert report["data"]["version"] == "Market-1501"
    assert "query identities: 6 found, 750 published" in report["data"]["deviations"]


def test_combine_all_trains_on_test_people_too_and_is_never_tested_on_them(
    job: Path, people: Path, tmp_path: Path
) -> None:
    data = ReidData(load_config(job, ["data.combine_all=true"]))
    assert len(data.identities) > 8 + 6
    with pytest.raises(InputError, match="trains on the test images of market1501.* set data.test to another data set"):
        data.test()
    same = ["data.combine_all=true", f"data.test={{name: market1501, root: {people}}}"]
    with pytest.raises(
        InputError, match="data.combine_all trains on the test images of market1501 in .* data.test names"
    ):
        ReidData(load_config(job, same))
    link = tmp_path / "link"
    link.symlink_to(people)
    same = ["data.combine_all=true", f"data.test={{name: market1501, root: {link}}}"]
    with pytest.raises(InputError, match="data.combine_all trains on the test images"):
        ReidData(load_config(job, same))
    other = ["data.combine_all=true", "data.also=[]", f"data.test={{name: synthetic, root: {people}}}"]
    assert len(ReidData(load_config(job, other)).test()[0]) == 12


def test_a_combine_all_run_is_evaluated_on_other_images_alone(run: Path, people: Path, tmp_path: Path) -> None:
    _reconfigured(run, lambda config: config["data"].update(combine_all=True))
    with pytest.raises(InputError, match="was trained on the test images of market1501 too"):
        evaluate_run(run)
    with pytest.raises(InputError, match="was trained on the test images of dukemtmc too"):
        evaluate_run(run, data_name="dukemtmc")
    with pytest.raises(InputError, match="was trained on the test images of synthetic too"):
        evaluate_run(run, data_name="synthetic", root=people)
    root = write_market(tmp_path / "others")
    assert evaluate_run(run, data_name="synthetic", root=root).report["data"]["name"] == "synthetic"


def test_the_configuration_names_another_data_set_to_test_on(run: Path, people: Path, job: Path) -> None:
    _reconfigured(run, lambda config: config["data"].update(test={"name": "synthetic", "root": str(people)}))
    assert evaluate_run(run).report["data"]["version"] == "synthetic"
    assert evaluate_run(run, data_name="market1501").report["data"]["version"] == "Market-1501"
    data = ReidData(load_config(job, [f"data.test={{name: synthetic, root: {people}}}"]))
    assert (data.dataset.name, data.test_dataset.name) == ("market1501+dukemtmc", "synthetic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.test={name: dukemtmc}", "data.test.root is not set; give the folder of dukemtmc"),
        ("data.also=[{name: dukemtmc}]", r"data.also\[0\].root is not set"),
        ("data.also=[{name: duke, root: /x}]", "unknown data set 'duke'; did you mean dukemtmc?"),
        ("data.also=[{root: /x}]", "'data.also.0.name' is missing"),
        ("data.also=[{name: dukemtmc, rot: /x}]", "unknown key 'data.also.0.rot'; did you mean root?"),
        ("data.test={name: msmt17, root: /x}", "needs the option 'version'"),
        ("evaluate.expand=-1", "evaluate.expand: Input should be greater than or equal to 0"),
    ],
)
def test_wrong_settings_are_one_clear_line(job: Path, change: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ReidData(load_config(job, [change]))
    assert "\n" not in str(caught.value)


# Settings


def test_the_configuration_sets_how_to_evaluate_and_options_replace_it(run: Path) -> None:
    settings = {"rerank": True, "rerank_k1": 4, "rerank_k2": 2, "rerank_lambda": 0.5, "expand": 2, "confidence": 100}
    settings |= {"flip": True, "average_precision": "trapezoid", "metric": "euclidean", "max_rank": 5}
    _reconfigured(run, lambda config: config.update(evaluate=settings))
    report = evaluate_run(run).report
    protocol = report["protocol"]
    assert protocol["rerank"] == {"method": "k-reciprocal", "k1": 4, "k2": 2, "weight": 0.5}
    assert protocol["expansion"] == {"method": "average query expansion", "neighbours": 2, "alpha": 0.0}
    assert (protocol["metric"], protocol["average_precision"], len(report["cmc"])) == ("euclidean", "trapezoid", 5)
    assert (report["flip"], report["confidence"]["resamples"], report["confidence"]["level"]) == (True, 100, 0.95)
    low, high = report["confidence"]["mAP"]
    assert low <= report["mAP"] <= high
    other = evaluate_run(run, rerank=False, expand=0, confidence=0, flip=False, average_precision="hits").report
    assert (other["protocol"]["rerank"], other["protocol"]["expansion"], other["confidence"]) == (None, None, None)
    assert other["mAP"] != report["mAP"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k1", 5], "rerank_k1 given, but re-ranking is off; add --rerank"),
        (["--lambda", 2, "--rerank"], "rerank_lambda: Input should be less than or equal to 1, found 2"),
        (["--expand-alpha", 3], "expand_alpha given, but query expansion is off; add --expand K"),
        (["--expand", 999], "expand is 999; expected at most"),
        (["--protocol", "cross_cam"], "protocol: Input should be 'cross_camera', 'single_gallery_shot' or"),
        (["--metric", "manhattan"], "metric: Input should be 'cosine' or 'euclidean', found 'manhattan'"),
        (["--features", "color-histogram", "--flip"], "flip adds the network's features of mirrored images"),
        (["--features", "color-histogram", "--neck", "before"], "neck chooses features of a run's head"),
        (
            ["--features", "colour"],
            "unknown features 'colour'; known: network, color-histogram, color-histogram-corrected",
        ),
        (["--top", 3], "--top 3 goes with --pictures N"),
        (["--data", "msmt17"], "--data msmt17 needs --root"),
        (["--data-option", "version"], "option 'version' is not of the form key=value"),
        (["--data-option", "version=V1"], "data set 'market1501'"),
        (["--save-features", "f.txt"], "does not end in .npz"),
        (["--checkpoint", "best"], "held out no identities (retrain.validation is 0)"),
    ],
)
def test_wrong_options_are_one_clear_line(
    capsys: pytest.CaptureFixture, run: Path, monkeypatch: pytest.MonkeyPatch, options: list, message: str
) -> None:
    monkeypatch.chdir(run)
    assert message in refused(capsys, "evaluate", run, *options)


# Files


VARIANTS = {
    "": [],
    "flip": ["--flip"],
    "rerank": ["--rerank", "--k1", 5],
    "expand-2": ["--expand", 2, "--expand-alpha", 1],
    "euclidean": ["--metric", "euclidean"],
    "single_gallery_shot": ["--protocol", "single_gallery_shot"],
    "no_camera_filter": ["--protocol", "no_camera_filter"],
    "trapezoid": ["--trapezoid"],
    "color-histogram": ["--features", "color-histogram"],
    "color-histogram-corrected": ["--features", "color-histogram-corrected", "--rerank"],
    "flip, rerank": ["--flip", "--rerank", "--metric", "euclidean", "--json", "FOLDER/elsewhere.json"],
    "dukemtmc": ["--data", "dukemtmc", "--confidence", 100],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_to_evaluate_leaves_one_score_which_rank_and_runs_repeat(
    capsys: pytest.CaptureFixture, run: Path, tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    copy = Path(shutil.copytree(run, tmp_path / "runs" / "copy", ignore=shutil.ignore_patterns("evaluation*")))
    options = [str(option).replace("FOLDER", str(tmp_path)) for option in VARIANTS[variant]]
    code, out, _ = run_command(capsys, "evaluate", copy, *options, "--save-features", tmp_path / "g.npz")
    assert code == 0
    (file,) = copy.glob("evaluation*.json")
    report = json.loads(file.read_text())
    code, ranked, _ = run_command(capsys, "rank", tmp_path / "g.npz", "--json", tmp_path / "rank.json")
    assert code == 0
    assert out.splitlines()[-3:] == ranked.splitlines()[-3:]
    again = json.loads((tmp_path / "rank.json").read_text())
    for key in ("mAP", "mINP", "cmc", "protocol", "queries", "confidence", "flip", "features", "data", "run"):
        assert again[key] == report[key]
    shown = run_command(capsys, "runs", tmp_path / "runs")[1]
    named = "" if not variant else f" ({file.stem.removeprefix('evaluation_').replace('_', ', ')})"
    assert f"{100 * report['mAP']:.2f} %{named} " in shown
    assert run_command(capsys, "evaluate", copy)[0] == 0
    plain = json.loads((copy / "evaluation.json").read_text())
    assert f"{100 * plain['mAP']:.2f} % " in run_command(capsys, "runs", tmp_path / "runs")[1]


def test_an_option_of_rank_replaces_what_the_file_was_evaluated_by(
    capsys: pytest.CaptureFixture, run: Path, tmp_path: Path
) -> None:
    plain, rich = tmp_path / "plain.npz", tmp_path / "rich.npz"
    settings = ["--rerank", "--expand", 2, "--metric", "euclidean", "--protocol", "no_camera_filter"]
    assert run_command(capsys, "evaluate", run, "--save-features", plain)[0] == 0
    assert run_command(capsys, "evaluate", run, *settings, "--save-features", rich)[0] == 0
    reports = []
    for file, options in (
        (rich, ["--no-rerank", "--expand", 0, "--metric", "cosine", "--protocol", "cross_camera"]),
        (plain, []),
        (rich, ["--k1", 4]),
    ):
        assert run_command(capsys, "rank", file, *options, "--json", tmp_path / "r.json")[0] == 0
        reports.append(json.loads((tmp_path / "r.json").read_text()))
    assert reports[0]["mAP"] == reports[1]["mAP"]
    assert reports[0]["protocol"] == reports[1]["protocol"]
    assert reports[2]["protocol"]["rerank"]["k1"] == 4


def test_features_are_saved_with_paths_and_rank_gives_the_same_scores(
    capsys: pytest.CaptureFixture, run: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("f.npz", "q.csv", "rank.csv", "rank.json")}
    steps = ["--rerank", "--k1", 5, "--k2", 3, "--expand", 2, "--trapezoid", "--confidence", 100]
    options = ["--save-features", files["f.npz"], "--csv", files["q.csv"]]
    code, out, err = run_command(capsys, "evaluate", run, *steps, *options)
    assert code == 0, err
    assert "mAP" in out
    assert "queries expanded by 2 neighbours, alpha 0, re-ranked with k1 5, k2 3, lambda 0.3" in err
    assert "95 % intervals, 100 bootstrap resamples" in err
    evaluated = json.loads((run / "evaluation_expand-2_rerank_k1-5_k2-3_trapezoid.json").read_text())
    saved = load_features(files["f.npz"])
    assert saved.query_paths is not None
    assert saved.query_paths[0].startswith("query/")
    ranked_options = ["--metric", "cosine", "--csv", files["rank.csv"], "--json", files["rank.json"]]
    assert run_command(capsys, "rank", files["f.npz"], *steps, *ranked_options)[0] == 0
    ranked = json.loads(files["rank.json"].read_text())
    for key in ("mAP", "mINP", "cmc", "protocol", "queries", "confidence"):
        assert ranked[key] == evaluated[key]
    assert files["rank.csv"].read_text() == files["q.csv"].read_text()
    rows = list(csv.DictReader(files["q.csv"].read_text().splitlines()))
    assert [row["name"] for row in rows] == saved.query_paths.tolist()
    assert np.mean([float(row["ap"]) for row in rows]) == pytest.approx(evaluated["mAP"])


def test_every_way_to_evaluate_has_its_own_file(capsys: pytest.CaptureFixture, run: Path, people: Path) -> None:
    for options in ([], ["--flip"], ["--expand", 3], ["--data", "synthetic", "--root", people]):
        assert run_command(capsys, "evaluate", run, *options)[0] == 0
    names = {file.name for file in run.glob("evaluation*.json")}
    assert names == {f"evaluation{end}.json" for end in ("", "_flip", "_expand-3", "_synthetic")}


def test_scores_of_one_data_set_never_replace_those_of_another_of_its_name(
    capsys: pytest.CaptureFixture, run: Path, people: Path, tmp_path: Path
) -> None:
    for root in (people, write_market(tmp_path / "other"), people):
        assert run_command(capsys, "evaluate", run, "--data", "synthetic", "--root", root)[0] == 0
    files = sorted(run.glob("evaluation_synthetic*.json"))
    assert [json.loads(file.read_text())["data"]["root"] for file in files] == [str(people), str(tmp_path / "other")]


def test_a_shorter_curve_has_a_file_of_its_own(capsys: pytest.CaptureFixture, run: Path) -> None:
    for options in ([], ["--max-rank", 3], ["--max-rank", 60]):
        assert run_command(capsys, "evaluate", run, *options)[0] == 0
    lengths = {file.name: len(json.loads(file.read_text())["cmc"]) for file in run.glob("evaluation*.json")}
    assert lengths == {"evaluation.json": 60, "evaluation_max-rank-3.json": 3}


def test_scores_are_kept_where_a_file_beside_them_cannot_be_written(
    capsys: pytest.CaptureFixture, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "is_a_folder.csv").mkdir()
    refused(capsys, "evaluate", run, "--csv", run / "is_a_folder.csv")
    assert (run / "evaluation.json").is_file()
    monkeypatch.setattr("dcs_nas.training.evaluate.extract_features", None)
    for wrong in (["--save-features", "f.txt"], ["--expand", 999]):
        refused(capsys, "evaluate", run, *wrong)


def test_pictures_show_the_hardest_queries_first_beside_the_cmc_curve(capsys: pytest.CaptureFixture, run: Path) -> None:
    code, out, _ = run_command(capsys, "evaluate", run, "--pictures", 3, "--top", 4)
    assert not foreign_names(run)
    assert code == 0
    folder = run / "ranked" / "evaluation"
    index = json.loads((folder / "ranked.json").read_text())
    scores = [entry["average_precision"] for entry in index]
    assert scores == sorted(scores)
    assert [entry["file"] for entry in index] == [f"{i:03d}_ap_{ap:.3f}.png" for i, ap in enumerate(scores, start=1)]
    expected = {"cmc.png", "cmc.svg", "overview.png", "ranked.json", *(entry["file"] for entry in index)}
    assert {file.name for file in folder.iterdir()} == expected
    assert str(folder / "overview.png") in out
    assert all(len(entry["images"]) == 4 for entry in index)
    assert run_command(capsys, "evaluate", run, "--pictures", 1)[0] == 0
    assert len(list(folder.glob("0*_ap_*.png"))) == 1


# Other data sets, splits and several runs


def test_options_of_the_data_set_to_test_on_are_passed_to_its_loader(run: Path, tmp_path: Path) -> None:
    root = write_msmt17(tmp_path / "MSMT17_V1")
    with pytest.raises(InputError, match="needs the option 'version'"):
        evaluate_run(run, data_name="msmt17", root=root)
    report = evaluate_run(run, data_name="msmt17", root=root, data_options={"version": "V1"}).report
    assert report["data"]["version"] == "MSMT17_V1, train"
    assert report["queries"]["used"] == 1


def test_classic_cuhk03_is_the_mean_over_its_splits_of_ten_drawn_galleries(
    capsys: pytest.CaptureFixture, run: Path, tmp_path: Path
) -> None:
    write_cuhk03_mat(tmp_path / "cuhk03" / "cuhk-03.mat")
    options = ["--data", "cuhk03", "--root", tmp_path / "cuhk03", "--data-option", "protocol=classic"]
    code, out, err = run_command(capsys, "evaluate", run, *options, "--splits", 3)
    assert code == 0, err
    assert "standard deviation" in out
    assert "mean of 10 drawn galleries, seed 0" in err
    report = json.loads((run / "evaluation_cuhk03_protocol-classic_3-splits.json").read_text())
    versions = [f"CUHK03 detected, classic protocol, split {i} of 20" for i in range(3)]
    assert [one["data"]["version"] for one in report["evaluations"]] == versions
    assert report["mAP"] == pytest.approx(np.mean([one["mAP"] for one in report["evaluations"]]))
    assert report["protocol"]["name"] == "single_gallery_shot"
    line = refused(capsys, "evaluate", run, *options, "--splits", 3, "--data-option", "split=2")
    assert "split=2 names one split" in line
    assert "unknown key 'split'" in refused(
        capsys, "evaluate", run, *["--data", "msmt17", "--root", tmp_path], "--data-option", "version=V1", "--splits", 2
    )


@pytest.mark.parametrize("protocol", ["classic", "new"])
def test_another_division_of_cuhk03_is_refused_in_any_folder(
    capsys: pytest.CaptureFixture, run: Path, tmp_path: Path, protocol: str
) -> None:
    roots = [tmp_path / "cuhk03", tmp_path / "moved"]
    write_cuhk03_mat(roots[0] / "cuhk-03.mat")
    write_cuhk03_protocol(roots[0], cuhk03_names())
    shutil.copytree(*roots)
    _train_on(run, name="cuhk03", root=str(roots[0]), options={"protocol": protocol})
    other = {"classic": "new", "new": "classic"}[protocol]
    for root in roots:
        line = refused(capsys, "evaluate", run, "--root", root, "--data-option", f"protocol={other}")
        assert "identities of its training are tested on; leave the options protocol, split and seed out" in line
        line = refused(capsys, "evaluate", run, "--root", root, "--splits", 20, "--data-option", "protocol=classic")
        assert "was trained on one split of cuhk03, whose identities are tested on in the others" in line
    same = ["--data-option", "split=0"] if protocol == "classic" else []
    assert run_command(capsys, "evaluate", run, *same)[0] == 0


def _train_on(run: Path, **source: Any) -> None:
    """Change a run's configuration and record as if it had been trained on this data set."""
    _reconfigured(run, lambda config: config.update(data=config["data"] | {"also": []} | source))
    dataset = load_dataset(source["name"], source["root"], **source["options"])
    record = record_source(DataSource(**source), dataset)
    (run / "data.json").write_text(json.dumps({"sources": [record.model_dump(mode="json")]}))


def test_identities_of_the_training_are_not_tested_on_in_a_copy_of_its_images(
    capsys: pytest.CaptureFixture, run: Path, people: Path, tmp_path: Path
) -> None:
    own = _write_undivided(tmp_path / "own", people)
    copy = shutil.copytree(own, tmp_path / "copy")
    _train_on(run, name="folder", root=str(own), options={"split": 0.5, "camera": "none"})
    for root in (own, copy):
        line = refused(capsys, "evaluate", run, "--root", root, "--data-option", "seed=1")
        assert "identities of its training are tested on; leave the options" in line
        assert run_command(capsys, "evaluate", run, "--root", root, "--data-option", "seed=0")[0] == 0


def _write_undivided(root: Path, people: Path) -> Path:
    for path in sorted((people / "bounding_box_test").glob("0*.jpg")):
        (root / path.name[:4]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.name[:4] / path.name)
    return root


def test_an_option_of_the_run_that_does_not_fit_another_folder_can_be_unset(
    capsys: pytest.CaptureFixture, run: Path, people: Path, tmp_path: Path
) -> None:
    own = _write_undivided(tmp_path / "own", people)
    _train_on(run, name="folder", root=str(own), options={"split": 0.5, "camera": "none"})
    for part in ("query", "gallery"):
        _write_undivided(tmp_path / "divided" / part, people)
    line = refused(capsys, "evaluate", run, "--root", tmp_path / "divided")
    assert f"the options camera=none, split=0.5 are those of {run}: --data-option KEY=VALUE changes one" in line
    unset = ["--data-option", "split=null"]
    assert run_command(capsys, "evaluate", run, "--root", tmp_path / "divided", *unset)[0] == 0


@pytest.mark.parametrize(
    ("name", "why"), [("folder", "less than 1"), ("csv", "less than 1"), ("market1501", "unknown key 'split'")]
)
def test_splits_of_a_data_set_without_numbered_ones_are_one_clear_line(
    capsys: pytest.CaptureFixture, run: Path, tmp_path: Path, name: str, why: str
) -> None:
    line = refused(capsys, "evaluate", run, "--data", name, "--root", tmp_path, "--splits", 3)
    assert "--splits 3 needs a data set with as many numbered splits, such as cuhk03" in line
    assert why in line


def test_several_runs_are_averaged(capsys: pytest.CaptureFixture, run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    code, out, _ = run_command(capsys, "evaluate", run, other, "--json", tmp_path / "mean.json")
    assert code == 0
    mean = json.loads((tmp_path / "mean.json").read_text())
    assert mean["standard_deviation"]["mAP"] == 0
    assert mean["mAP"] == json.loads((other / "evaluation.json").read_text())["mAP"]
    assert "mean of 2 runs" in out
    line = refused(capsys, "evaluate", run, other, "--save-features", tmp_path / "f.npz")
    assert "--save-features is about one evaluation, found several" in line
    assert f"{run} is given twice" in refused(capsys, "evaluate", run, other, other / ".." / "retrain" / ".." / run)
    assert "--splits 2 goes with one RUN, found 2" in refused(capsys, "evaluate", run, other, "--splits", 2)


def test_a_mean_holds_the_features_of_one_evaluation_at_a_time(
    capsys: pytest.CaptureFixture, run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def count(*_: Any) -> None:
        gc.collect()
        held.append(sum(type(thing) is Evaluation for thing in gc.get_objects()))

    monkeypatch.setattr("dcs_nas.cli.evaluate._write_average", count)
    assert run_command(capsys, "evaluate", run, trained)[0] == 0
    assert held == [0]


def test_a_mean_has_the_spread_of_its_parts_and_mixes_nothing() -> None:
    def report(score: float, **changes: Any) -> dict[str, Any]:
        return {
            "mAP": score,
            "mINP": 0.5,
            "cmc": [score, 1.0],
            "protocol": {"name": "x"},
            "data": {"name": "a"},
        } | changes

    mean = average([report(0.2), report(0.4)])
    assert mean["mAP"] == pytest.approx(0.3)
    assert mean["cmc"] == pytest.approx([0.3, 1.0])
    assert mean["standard_deviation"]["mAP"] == pytest.approx(0.2 / 2**0.5)
    with pytest.raises(InputError, match="of more than one data set have no mean; found a and b"):
        average([report(0.2), report(0.2, data={"name": "b"})])
    with pytest.raises(InputError, match="more than one protocol"):
        average([report(0.2), report(0.2, protocol={"name": "y"})])
    with pytest.raises(InputError, match="a mean needs two or more"):
        average([report(0.2)])


def test_a_damaged_note_on_the_training_data_is_named(run: Path) -> None:
    (run / "data.json").write_text("{")
    with pytest.raises(InputError, match=r"data\.json is damaged"):
        evaluate_run(run)


def test_no_picture_asked_for_still_draws_the_cmc_curve(capsys: pytest.CaptureFixture, run: Path) -> None:
    assert run_command(capsys, "evaluate", run, "--pictures", 0)[0] == 0
    assert {file.name for file in (run / "ranked" / "evaluation").iterdir()} == {"cmc.png", "cmc.svg"}
    with Image.open(run / "ranked" / "evaluation" / "cmc.png") as picture:
        assert picture.size[0] > 800


def test_the_score_of_an_unfinished_training_is_not_that_of_the_finished_one(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = load_config(job, ["retrain.epochs=2"]), tmp_path / "retrain"
    with monkeypatch.context() as patch:
        after = EpochCheckpoint.on_train_epoch_end

        def stop(self: EpochCheckpoint, *arguments: Any) -> None:
            after(self, *arguments)
            raise KeyboardInterrupt

        patch.setattr(EpochCheckpoint, "on_train_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            run_retraining(config, folder)
    code, _, said = run_command(capsys, "evaluate", folder)
    assert code == 0
    assert "is unfinished: its checkpoint is of epoch 1/2" in said
    assert RunFolder(folder).contents().own_evaluation is not None
    run_retraining(config, folder, resume=True)
    contents = RunFolder(folder).contents()
    assert contents.own_evaluation is None
    assert contents.notes == ["evaluation.json is of epoch 1, not 2; evaluate again"]
    run_command(capsys, "evaluate", folder)
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["epoch"] == 2
    own = RunFolder(folder).contents().own_evaluation
    assert own is not None
    assert own.report == report


def test_two_data_sets_of_ones_own_leave_two_scores(
    capsys: pytest.CaptureFixture, run: Path, people: Path, tmp_path: Path
) -> None:
    for number in (0, 1):
        folder = tmp_path / f"own{number}"
        for part, source in (("query", "query"), ("gallery", "bounding_box_test")):
            for path in sorted((people / source).glob("0*.jpg"))[number:]:
                place = folder / part / path.name[:4]
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place / path.name)
        shutil.copytree(folder / "gallery", folder / "train")
        code, _, said = run_command(
            capsys, "evaluate", run, "--data", "folder", "--root", folder, "--data-option", "camera=none"
        )
        assert code == 0, said
    assert len(list(run.glob("evaluation_folder_images-*.json"))) == 2
