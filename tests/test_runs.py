"""``dcs-nas runs``: what it lists, compares and deletes, and its page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcs_nas.runs import RunFolder, find_runs
from tests.command_line import refused, run_command

METRICS = "epoch,train/loss,validation/mAP\n0,3.5,\n1,2.5,0.25\n"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def _make(folder: Path, command: str, *, age: int = 0, finished: bool = True, **config: Any) -> Path:
    """A run folder without a checkpoint, last changed ``age`` seconds before others."""
    folder.mkdir(parents=True)
    settings = {"name": "x", "seed": 1, "data": {"name": "market1501"}, command: {"epochs": 4, "lr": 0.1}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "environment.json").write_text(json.dumps({"command": ["dcs-nas", command, "x"]}))
    (folder / "metrics.csv").write_text(METRICS)
    if finished:
        (folder / {"search": "genotype.yaml"}.get(command, "finished.yaml")).write_text("{}")
    for file in folder.iterdir():
        os.utime(file, (1_800_000_000 - age, 1_800_000_000 - age))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    trained = _make(root / "a" / "retrain", "retrain", age=60)
    (trained / "evaluation.json").write_text(json.dumps({"mAP": 0.5, "mINP": 0.25, "cmc": [0.75, 1.0]}))
    (trained / "data.json").write_text(json.dumps({"version": "Market-1501 <b>"}))
    os.utime(trained / "evaluation.json", (1_800_000_000 - 60, 1_800_000_000 - 60))
    os.utime(trained / "data.json", (1_800_000_000 - 60, 1_800_000_000 - 60))
    _make(root / "a" / "search", "search", finished=False, seed=2)
    _make(root / "a" / "search" / "checkpoints" / "hidden", "search")
    (root / "notes").mkdir()
    return root


def test_runs_are_listed_with_state_and_scores_the_latest_first(
    capsys: pytest.CaptureFixture, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run_command(capsys, "runs", results)
    assert code == 0
    lines = [re.split(r"\s*│\s*", line)[1:-1] for line in out.splitlines() if line.startswith("│")]
    assert [line[0] for line in lines] == ["a/search", "a/retrain"]
    assert [line[1:3] for line in lines] == [["search", "unfinished"], ["retrain", "finished"]]
    assert [line[4:] for line in lines] == [
        ["market1501", "2", "2/4", "-"],
        ["Market-1501 <b>", "1", "2/4", "50.00 %"],
    ]
    monkeypatch.chdir(results.parent)
    assert run_command(capsys, "runs")[1] == run_command(capsys, "runs", "list")[1]


def test_a_narrow_terminal_keeps_short_names_whole_and_long_ones_leave_room(
    capsys: pytest.CaptureFixture, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run_command(capsys, "runs", results)[1]
    assert re.search(r"│ a/retrain *│ retrain │ finished *│", shown)
    _make(results / ("long" * 15) / "search", "search", age=30)
    shown = run_command(capsys, "runs", results)[1]
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"│ 50\.00 %", shown)


def test_damaged_files_are_dashes_and_other_folders_are_no_runs(results: Path) -> None:
    folder = results / "a" / "retrain"
    for name in ("config.yaml", "environment.json", "evaluation.json", "metrics.csv"):
        (folder / name).write_text("{[,\n\0")
    facts = RunFolder(folder).contents()
    assert (facts.kind, facts.plainest_evaluation, facts.seed, facts.progress) == ("retrain", None, None, "0/?")
    assert [run.path.name for run in find_runs(results)] == ["retrain", "search"]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["genotype.yaml", "finished.yaml"], "retrain"),
        (["architecture/epoch_000.yaml"], "search"),
        (["job.yaml"], "tune"),
        ([], "?"),
    ],
)
def test_the_files_of_a_run_show_its_kind_where_the_settings_fit_several(
    tmp_path: Path, files: list[str], kind: str
) -> None:
    folder = _make(tmp_path / "run", "search", finished=False, retrain={"epochs": 2})
    (folder / "environment.json").write_text(json.dumps({"command": ["my_script.py"]}))
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    assert RunFolder(folder).contents().kind == kind


def test_a_resumed_run_writes_again_the_rows_of_the_epochs_it_repeats(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    for epoch in range(3):
        first.write_metrics(epoch, {"loss": 3.0 - epoch})
    resumed = RunFolder(tmp_path)
    resumed.write_metrics(1, {"loss": 0.5, "validation/mAP": 0.25})
    assert resumed.metrics() == [{"epoch": 0, "loss": 3.0}, {"epoch": 1, "loss": 0.5, "validation/mAP": 0.25}]
    assert resumed.metrics() == RunFolder(tmp_path).contents().metrics


def test_the_page_holds_links_that_lead_somewhere_and_escapes_names(
    capsys: pytest.CaptureFixture, results: Path
) -> None:
    page = results / "pages" / "index.html"
    assert run_command(capsys, "runs", results, "--html", page)[0] == 0
    text = page.read_text()
    assert "Market-1501 &lt;b&gt;" in text
    assert "<b>" not in text
    links = re.findall(r'href="([^"]+)"', text)
    assert len(links) == 3
    assert all((page.parent / link).is_file() for link in links)
    assert "50.00 %" in text


def test_a_comparison_shows_the_settings_that_differ_and_all_scores(
    capsys: pytest.CaptureFixture, results: Path
) -> None:
    code, out, _ = run_command(capsys, "runs", "compare", results / "a" / "retrain", results / "a" / "search")
    assert code == 0
    rows = {line[0]: line[1:] for line in (re.split(r"\s*│\s*", r)[1:-1] for r in out.splitlines() if "│" in r)}
    assert rows["seed"] == ["1", "2"]
    assert rows["retrain.lr"] == ["0.1", "-"]
    assert rows["evaluation rank-1"] == ["0.7500", "-"]
    assert rows["validation/mAP"] == ["0.2500", "0.2500"]
    assert "name" not in rows
    assert "data.name" not in rows
    assert RunFolder(results / "a" / "retrain").contents().scores["evaluation mAP"] == 0.5
    assert "expected two or more" in refused(capsys, "runs", "compare", results / "a" / "retrain")


def test_nothing_is_deleted_without_a_yes(
    capsys: pytest.CaptureFixture, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = results / "a" / "retrain"
    assert "give --yes" in refused(capsys, "runs", "delete", run)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked = []
    answers = iter([False, True])
    monkeypatch.setattr("typer.confirm", lambda text, **_: (asked.append(text), next(answers))[1])
    code, _, err = run_command(capsys, "runs", "delete", run)
    assert (code, run.is_dir()) == (0, True)
    assert "kept" in err
    assert "retrain, finished, epochs 2/4" in asked[0]
    assert "6 files" in asked[0]
    assert run_command(capsys, "runs", "delete", run)[0] == 0
    assert not run.exists()


def test_a_yes_deletes_the_run_alone_and_only_a_run(capsys: pytest.CaptureFixture, results: Path) -> None:
    assert "is not a run folder" in refused(capsys, "runs", "delete", results / "notes", "--yes")
    link = results / "link"
    link.symlink_to(results / "a" / "retrain")
    assert "is a link" in refused(capsys, "runs", "delete", link, "--yes")
    code, _, err = run_command(capsys, "runs", "delete", results / "a" / "search", "--yes")
    assert (code, (results / "a" / "search").exists(), (results / "a" / "retrain").is_dir()) == (0, False, True)
    assert "deleted" in err


def test_a_file_that_is_renamed_meanwhile_does_not_fail_the_list(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = RunFolder(results / "a" / "search").contents().changed
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: [*listed(self), self / ".writing-gone"])
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    assert RunFolder(results / "a" / "search").contents().changed >= before


def test_scores_of_long_options_have_a_file_of_their_own(tmp_path: Path) -> None:
    files = {RunFolder(tmp_path).evaluation_file(f"root-{'x' * 300}", end) for end in "ab"}
    assert len(files) == 2
    for file in files:
        assert len(file.name) < 200
        file.touch()


def test_what_no_run_wrote_stays_where_a_run_is_deleted(capsys: pytest.CaptureFixture, results: Path) -> None:
    run = results / "a" / "retrain"
    (run / "notes.txt").write_text("a week of work")
    _make(run / "another", "search")
    _, _, err = run_command(capsys, "runs", "delete", run, "--yes")
    assert "except another, notes.txt, which are not of the run" in err
    assert sorted(path.name for path in run.iterdir() if path.name != ".lock") == ["another", "notes.txt"]
    assert RunFolder(run / "another").is_run()


def test_what_is_no_folder_of_runs_is_named(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert "there is no folder" in refused(capsys, "runs", tmp_path / "nowhere")
    assert "holds no runs" in refused(capsys, "runs", tmp_path)
    assert "is not a run folder" in refused(capsys, "runs", "compare", tmp_path, tmp_path)


def test_listing_loads_no_torch_and_the_shell_completes_commands(results: Path) -> None:
    code = "import sys; from dcs_nas.cli import _run; assert _run(sys.argv[1:], False) == 0; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "runs", str(results)], check=True, capture_output=True)
    typed = {"COMP_WORDS": "dcs-nas run", "COMP_CWORD": "1", "_DCS_NAS_COMPLETE": "complete_bash"}
    asked = "from dcs_nas.cli import main; main([])"
    found = subprocess.run([sys.executable, "-c", asked], env={**os.environ, **typed}, capture_output=True, text=True)
    assert found.stdout.split() == ["runs"]
