"""Runs whose images, or whose user, are in another folder than when they began."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcs_nas.config import Config, DataSource
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.fingerprint import record_source
from dcs_nas.runs import RunFolder
from dcs_nas.settings import Settings
from tests.command_line import refused, run_command
from tests.run_folders import start_run

JOB = """
name: tiny
data: {name: market1501, root: base, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
augment: {pad: 2}
retrain: {backbone: resnet10_small, epochs: 1, warmup_epochs: 0}
trainer: {accelerator: cpu, threads: 1}
"""


@pytest.fixture
def place(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a job, its images in ``base``, and a run that read them by that relative name."""
    folder = tmp_path / "first place"
    folder.mkdir()
    shutil.copytree(people, folder / "base")
    (folder / "job.yaml").write_text(JOB)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture) -> Path:
    assert run_command(capsys, "retrain", "job.yaml", "--out", "run")[0] == 0
    return place / "run"


def _other_images(place: Path) -> Path:
    """A copy of the data in which one image has a byte more."""
    shutil.copytree(place / "base", place / "other")
    with next((place / "other" / "query").iterdir()).open("ab") as image:
        image.write(b"\0")
    return place / "other"


def _interrupted(run: Path) -> None:
    (run / "finished.yaml").unlink()


def _paths(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Every setting that holds a path."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Settings):
                yield from ((f"{name}.{inner}", path) for inner, path in _paths(one))
            elif isinstance(one, Path):
                yield name, one


def test_a_run_keeps_every_path_as_it_is_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("space.yaml").write_text("{}")
    source = {"name": "synthetic", "root": "b"}
    cost = {"kind": "latency", "latency_table": "table.yaml", "form": "multiplicative"}
    sections: dict[str, Any] = {
        "data": {"root": "~/a", "cache": "c", "also": [source], "test": source},
        "search": {"strategy": "bilevel", "space": "space.yaml", "cost": cost},
        "retrain": {"weights": "w.pth"},
    }
    for changes in ({}, {"retrain": {"inherit": "run"}}):
        start_run(tmp_path / "run", Config.model_validate({"name": "a", **sections, **changes}), overwrite=True)
        monkeypatch.chdir(tmp_path)
        kept = RunFolder(tmp_path / "run").config()
        monkeypatch.chdir(tmp_path / "here")
        found = dict(_paths(kept))
        assert all(path.is_absolute() for path in found.values())
        assert len(found) == 7
        assert found["data.root"] == Path.home() / "a"
        assert kept.search is not None
        assert kept.search.space == str(tmp_path / "here" / "space.yaml")
        (tmp_path / "run" / "environment.json").write_text("{}")


def test_the_name_of_a_space_that_ships_stays_a_name(tmp_path: Path) -> None:
    config = Config.model_validate({"name": "a", "search": {"space": "demo_cells"}})
    kept = start_run(tmp_path / "run", config).config()
    assert kept.search is not None
    assert kept.search.space == "demo_cells"


def test_a_run_is_evaluated_from_another_folder(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command(capsys, "evaluate", run)
    assert (code, "other images" in out + err) == (0, False)
    assert os.listdir(tmp_path) == ["first place"]


def test_moved_images_are_the_same_and_others_are_never_scored_under_their_title(
    run: Path, place: Path, capsys: pytest.CaptureFixture
) -> None:
    other = _other_images(place)
    (place / "base").rename(place / "moved")
    line = refused(capsys, "evaluate", run)
    assert f"there is no folder {place / 'base'}, where {run} has read market1501" in line
    assert f"dcs-nas evaluate '{run}' --root DIR" in line
    code, out, err = run_command(capsys, "evaluate", run, "--root", "moved")
    assert (code, "other images" in out + err) == (0, False)
    own = (run / "evaluation.json").read_bytes()
    code, out, err = run_command(capsys, "evaluate", run, "--root", "other")
    assert code == 0
    (said,) = (line for line in err.splitlines() if line.startswith(f"{other} holds other images of market1501 ("))
    assert f"than {run} began with (" in said
    assert "Market-1501, other images (" in " ".join(out.split())
    assert (run / "evaluation.json").read_bytes() == own
    (file,) = run.glob("evaluation_images-????????.json")
    assert json.loads(file.read_text())["data"]["other_images"] is True


def test_two_sets_of_one_name_are_told_apart(place: Path, capsys: pytest.CaptureFixture) -> None:
    _other_images(place)
    test = ["-o", "data.test={name: market1501, root: other}"]
    assert run_command(capsys, "retrain", "job.yaml", "--out", "run", *test)[0] == 0
    for options in ([], ["--root", "base"]):
        code, out, err = run_command(capsys, "evaluate", "run", *options)
        assert (code, "other images" in out + err) == (0, False)
    (place / "other").rename(place / "moved")
    assert "no folder" in refused(capsys, "evaluate", "run")
    code, out, err = run_command(capsys, "evaluate", "run", "--root", "moved")
    assert (code, "other images" in out + err) == (0, False)


def test_images_that_were_trained_on_are_refused_wherever_they_lie(place: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["-o", "data.combine_all=true", "-o", "data.identities_per_batch=2"]
    assert run_command(capsys, "retrain", "job.yaml", "--out", "run", *given)[0] == 0
    (place / "base").rename(place / "moved")
    line = refused(capsys, "evaluate", "run", "--root", "moved")
    assert "the run was trained on the test images of market1501 too (data.combine_all)" in line


def test_a_run_goes_on_with_images_that_were_moved_and_remembers_where(
    run: Path, place: Path, capsys: pytest.CaptureFixture
) -> None:
    _other_images(place)
    (place / "base").rename(place / "moved")
    _interrupted(run)
    line = refused(capsys, "retrain", "job.yaml", "--out", "run", "--resume", "-o", "data.root=other")
    assert "run began with other images of market1501 (" in line
    assert "or divides them otherwise; resume with the same images, or use --overwrite" in line
    code, _, _ = run_command(capsys, "retrain", "job.yaml", "--out", "run", "--resume", "-o", "data.root=moved")
    assert code == 0
    assert run_command(capsys, "evaluate", "run")[0] == 0
    assert json.loads((run / "evaluation.json").read_text())["data"]["root"] == str(place / "moved")


def test_a_run_of_an_older_version_still_works_and_says_what_is_not_checked(
    run: Path, place: Path, capsys: pytest.CaptureFixture
) -> None:
    _other_images(place)
    data = json.loads((run / "data.json").read_text())
    del data["sources"]
    (run / "data.json").write_text(json.dumps(data))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"], config["results"] = "base", "results"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    code, _, err = run_command(capsys, "evaluate", "run", "--root", "other")
    assert code == 0
    assert f"run keeps no fingerprint of its images, so they are not compared with those of {place / 'other'}" in err
    _interrupted(run)
    assert run_command(capsys, "retrain", "job.yaml", "--out", "run", "--resume")[0] == 0
    assert len(json.loads((run / "data.json").read_text())["sources"]) == 1


def test_a_damaged_record_is_named(run: Path, capsys: pytest.CaptureFixture) -> None:
    for content in ("[]", '{"sources": 3}', '{"sources": [{}]}', "{"):
        (run / "data.json").write_text(content)
        assert "data.json" in refused(capsys, "evaluate", "run")


def test_the_fingerprint_goes_by_names_labels_and_sizes_alone(people: Path, tmp_path: Path) -> None:
    def fingerprint(root: Path, reverse: bool = False, divide: bool | None = None) -> str:
        dataset = load_dataset("market1501", root)
        if reverse:
            dataset = replace(dataset, train=dataset.train[::-1], query=dataset.gallery, gallery=dataset.query)
        if divide:
            dataset = replace(dataset, train=dataset.gallery, gallery=dataset.train)
        record = record_source(DataSource(name="market1501", root=root), dataset)
        return record.division if divide is not None else record.fingerprint

    copy = Path(shutil.copytree(people, tmp_path / "copy"))
    assert fingerprint(copy) == fingerprint(people) == fingerprint(copy, reverse=True)
    assert fingerprint(copy, divide=True) != fingerprint(people, divide=False) == fingerprint(copy, divide=False)
    image = next((copy / "bounding_box_train").iterdir())
    content = image.read_bytes()
    os.utime(image, (0, 0))
    assert fingerprint(copy) == fingerprint(people)
    image.write_bytes(content + b"\0")
    assert fingerprint(copy) != fingerprint(people)
    image.unlink()
    assert fingerprint(copy) != fingerprint(people)
    image.with_name(image.name.replace("_c1", "_c9").replace("_c2", "_c1")).write_bytes(content)
    assert fingerprint(copy) != fingerprint(people)


def test_images_that_are_divided_otherwise_are_not_the_same(people: Path) -> None:
    dataset, source = load_dataset("market1501", people), DataSource(name="market1501", root=people)
    then = record_source(source, dataset)
    swapped = record_source(source, replace(dataset, train=dataset.gallery, gallery=dataset.train))
    older = then.model_copy(update={"division": ""})
    assert then.fingerprint == swapped.fingerprint
    assert [then.is_same(other) for other in (then, older, swapped)] == [True, True, False]
