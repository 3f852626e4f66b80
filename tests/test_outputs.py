"""Files that options name as outputs: what they never replace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import typer

from dcs_nas.cli import app
from dcs_nas.cli.outputs import OUTPUT
from dcs_nas.config import Config
from tests.command_line import refused, run_command
from tests.run_folders import start_run
from tests.test_cli import save_features

COMMANDS = [c.callback for c in app.registered_commands]
COMMANDS += [c.callback for group in app.registered_groups for c in group.typer_instance.registered_commands]


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save_features(tmp_path / "f.npz")


def test_every_option_that_names_a_file_to_write_is_checked() -> None:
    import inspect

    outputs = set()
    for command in COMMANDS:
        assert command is not None
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            marks = getattr(parameter.annotation, "__metadata__", ())
            option = next((m for m in marks if isinstance(m, typer.models.OptionInfo)), None)
            if option is None or not str(option.metavar).startswith("FILE"):
                continue
            if OUTPUT in marks:
                outputs.add((command.__name__, parameter.name))
                assert hasattr(command, "__wrapped__"), command
            else:
                assert parameter.name in ("genotype", "weights", "labels", "extension"), (command, parameter)
    assert {("rank", "json"), ("rank", "csv"), ("evaluate", "save_features"), ("extract", "out")} <= outputs
    assert len(outputs) >= 11


@pytest.mark.parametrize("name", ["f.npz", "./f.npz", "link.npz"])
def test_an_output_that_is_an_input_is_refused(capsys: pytest.CaptureFixture, features: Path, name: str) -> None:
    Path("link.npz").symlink_to(features)
    before = features.read_bytes()
    said = refused(capsys, "rank", "f.npz", "--json", name)
    assert f"--json {Path(name)} is an input of this command, which writing would destroy; name another file" in said
    assert features.read_bytes() == before


def test_an_output_that_is_an_image_of_an_input_folder_is_refused(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for image in (Path("gallery/inside/0.png"), Path("q.jpg")):
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    said = refused(capsys, "find", "run", "q.jpg", "gallery", "--out", "gallery/inside/0.png")
    assert "--out gallery/inside/0.png is an input of this command, which writing would destroy" in said
    run = start_run(tmp_path / "run", Config(name="a"))
    (run.path / "nearest.png").touch()  # a picture of before
    said = refused(capsys, "find", "run", "q.jpg", "gallery", "--out", "run/nearest.png")
    assert "is an input" not in said


def test_two_outputs_are_two_files(capsys: pytest.CaptureFixture, features: Path) -> None:
    assert "is named for two outputs" in refused(capsys, "rank", features, "--json", "a", "--csv", "./a")
    assert not Path("a").exists()


def test_the_record_of_a_run_is_no_output(capsys: pytest.CaptureFixture, features: Path, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", Config(name="a"))
    for file in ("config.yaml", "environment.json"):
        before = (run.path / file).read_bytes()
        assert f"{file} belongs to the run in run" in refused(capsys, "rank", features, "--json", f"run/{file}")
        assert (run.path / file).read_bytes() == before
    shutil.copy("run/environment.json", "environment.json")  # beside no run
    assert run_command(capsys, "rank", features, "--json", "environment.json")[0] == 0
    for _ in range(2):  # its own file of before is replaced
        assert run_command(capsys, "rank", features, "--json", "run/scores.json")[0] == 0
