"""Commands that a command prints, at its end or in an error: pasted into a shell, they run."""

from __future__ import annotations

import html
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from dcs_nas.cli.train import free_folder
from dcs_nas.runs import RunFolder
from tests.command_line import refused, run_command

CELLS = "cells: 2\nchannels: 4\nnodes: 1\nreductions: [1]\nstem: stride2\noperations: [skip_connect, avg_pool_3x3]\n"
DATA = {"name": "market1501", "height": 32, "width": 16, "identities_per_batch": 4, "images_per_identity": 4}
SEARCH = {"strategy": "bilevel", "space": "cells.yaml", "epochs": 1, "guard": {"eigenvalue_iterations": 0}}
RETRAIN = {"epochs": 1, "warmup_epochs": 0}
JOB = {"name": "a", "data": DATA, "trainer": {"accelerator": "cpu", "threads": 1}}
WAYS: dict[str, tuple[dict[str, object], list[str]]] = {
    "both sections": ({"job": {"search": SEARCH, "retrain": RETRAIN}}, []),
    "an own folder": ({"job": {"search": SEARCH, "retrain": RETRAIN}}, ["--out", "my runs/the search"]),
    "a folder named retrain": ({"job": {"search": SEARCH, "retrain": RETRAIN}}, ["--out", "my runs/retrain"]),
    "the section in another file": ({"job": {"search": SEARCH}, "job then": {"retrain": RETRAIN}}, []),
    "the section nowhere": ({"job": {"search": SEARCH}}, ["-o", "data.identities_per_batch=2"]),
    "the section by an override": ({"job": {"search": SEARCH}}, ["-o", "retrain={epochs: 1, warmup_epochs: 0}"]),
    "the other section by overrides": (
        {"job": {}, "then": {"retrain": RETRAIN}},
        ["-o", "search.space=cells.yaml", "-o", "search.epochs=1"],
    ),
    "a backbone": ({"job": {"search": SEARCH, "retrain": {**RETRAIN, "backbone": "resnet10_small"}}}, []),
    "a backbone in another file": (
        {"job": {"search": SEARCH}, "first": {"retrain": {**RETRAIN, "backbone": "resnet10_small"}}},
        [],
    ),
    "a backbone in one of two others": (
        {
            "job": {"search": SEARCH},
            "first": {"retrain": {**RETRAIN, "backbone": "resnet10_small"}},
            "second": {"retrain": RETRAIN},
        },
        [],
    ),
    "a chain": (
        {"job": {"search": SEARCH, "retrain": {**RETRAIN, "channels": 8, "cells": 3}}},
        ["-o", "search.space=demo_chain"],
    ),
}


@pytest.fixture
def place(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a space in its name and in that of the images' folder."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copytree(people, folder / "my people")
    (folder / "cells.yaml").write_text(CELLS)
    monkeypatch.chdir(folder)
    return folder


def _commands(text: str) -> list[list[str]]:
    """The words of every command in lines of output, as a shell splits them, without the program's name."""
    found = re.findall(r": dcs-nas ([a-z]+ .*)$", text, re.MULTILINE)
    return [shlex.split(command) for command in found]


def _paste(capsys: pytest.CaptureFixture, words: list[str]) -> str:
    """What the pasted command says; a training that would take long is cut to one epoch."""
    short = ["-o", "retrain.epochs=1"] if "retrain.epochs=120" in words else []
    code, _, err = run_command(capsys, *words, *short)
    assert code == 0, (words, err)
    return err


def _write(configs: dict[str, object]) -> None:
    for name, sections in configs.items():
        assert isinstance(sections, dict)
        Path(f"{name}.yaml").write_text(yaml.safe_dump({**JOB, **sections}))


@pytest.mark.parametrize("way", WAYS)
def test_the_commands_from_a_search_to_its_scores_can_be_pasted(
    capsys: pytest.CaptureFixture, place: Path, way: str
) -> None:
    configs, options = WAYS[way]
    _write(configs)
    given = ["-o", "data.root=my people", "-o", "seed=7", *options]
    code, _, err = run_command(capsys, "search", "job.yaml", *given)
    assert code == 0, err
    (retrain,) = _commands(err)
    assert {"data.root=my people", "seed=7"} <= set(retrain)
    (evaluate,) = _commands(_paste(capsys, retrain))
    folder = Path(evaluate[-1])
    assert RunFolder(folder).config().seed == 7
    if "--out" in options:
        assert folder.parent == Path("my runs")
    _paste(capsys, evaluate)
    if way in ("both sections", "an own folder"):  # where the default folder of the training is taken by now
        (again,) = _commands(run_command(capsys, "search", "job.yaml", *given, "--overwrite")[2])
        assert again[-1] == f"{folder}-2"
        _paste(capsys, again)


def test_the_report_names_the_command_that_draws_maps(capsys: pytest.CaptureFixture, place: Path) -> None:
    attention = {"backbone": "resnet10_small", "backbone_options": {"attention": "dcs"}}
    _write({"job": {"retrain": {**RETRAIN, **attention}}})
    assert run_command(capsys, "retrain", "job.yaml", "-o", "data.root=my people", "--out", "my run")[0] == 0
    _paste(capsys, ["report", "my run"])
    (words,) = re.findall(r"dcs-nas (report .*? --maps 6) draws", html.unescape(Path("my run/report.html").read_text()))
    _paste(capsys, shlex.split(words))


def test_a_command_without_its_section_names_one_that_has_it(capsys: pytest.CaptureFixture, place: Path) -> None:
    _write({"job": {"search": SEARCH}, "then": {"retrain": {**RETRAIN, "backbone": "resnet10_small"}}})
    given = ["-o", "data.root=my people", "-o", "search.epochs=1", "--out", "my runs/x"]
    line = refused(capsys, "retrain", "job.yaml", *given)
    assert "the configuration 'job.yaml' has no section 'retrain'" in line
    (words,) = _commands(line)
    assert words == ["retrain", "then.yaml", "-o", "data.root=my people", "--out", "my runs/x"]
    _paste(capsys, words)
    (words,) = _commands(refused(capsys, "search", "then.yaml", *given[:2], "--out", "my runs/y"))
    _paste(capsys, words)
    line = refused(capsys, "retrain", "market1501_search")
    assert _commands(line) == [["retrain", "market1501_retrain"]]


def test_a_search_that_is_evaluated_is_told_how_to_train(capsys: pytest.CaptureFixture, place: Path) -> None:
    for sections in ({"search": SEARCH}, {"search": SEARCH, "retrain": RETRAIN}):
        _write({"job": sections})
        given = ["-o", "data.root=my people", "--out", f"run {len(sections)}"]
        assert run_command(capsys, "search", "job.yaml", *given)[0] == 0
        (words,) = _commands(refused(capsys, "evaluate", f"run {len(sections)}"))
        _paste(capsys, words)


def test_data_without_test_images_are_exported_not_evaluated(capsys: pytest.CaptureFixture, place: Path) -> None:
    _write({"job": {"retrain": {**RETRAIN, "backbone": "resnet10_small"}}})
    for part in ("query", "bounding_box_test"):
        shutil.rmtree(place / "my people" / part)
    (place / "my people" / "bounding_box_train").rename(place / "my people" / "train")
    for image in sorted((place / "my people" / "train").iterdir()):
        person, camera = image.name.split("_")[:2]
        (image.parent / person / camera[:2]).mkdir(parents=True, exist_ok=True)
        image.rename(image.parent / person / camera[:2] / image.name)
    given = ["-o", "data.root=my people", "-o", "data.name=folder"]
    (words,) = _commands(run_command(capsys, "retrain", "job.yaml", *given)[2])
    assert words[0] == "export"
    _paste(capsys, [*words, "--format", "pt2"])


def test_the_best_of_a_tuning_can_be_pasted(capsys: pytest.CaptureFixture, place: Path) -> None:
    tune = {"space": {"retrain.lr": {"choice": [0.001]}}, "trials": 1, "metric": "train/loss", "goal": "minimize"}
    _write({"job": {"retrain": {**RETRAIN, "backbone": "resnet10_small"}, "tune": tune}})
    code, _, err = run_command(capsys, "tune", "job.yaml", "-o", "data.root=my people", "--out", "my runs/tuning")
    assert code == 0, err
    (words,) = _commands(err)
    (evaluate,) = _commands(_paste(capsys, words))
    _paste(capsys, evaluate)
    again = ["tune", "job.yaml", "-o", "data.root=my people", "--out", "my runs/tuning", "--resume"]
    (resumed,) = _commands(run_command(capsys, *again)[2])
    assert resumed[-1] == f"{words[-1]}-2"


def test_a_free_folder_is_the_first_that_does_not_exist(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "a") == tmp_path / "a"
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
    assert free_folder(tmp_path / "a") == tmp_path / "a-3"
