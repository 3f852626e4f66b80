"""Operations, attention blocks and data sets of one's own, from a file that the configuration names."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from dcs_nas import api, extensions, registry
from dcs_nas.cli import main
from dcs_nas.config import load_config
from dcs_nas.data.datasets import DATASETS, load_dataset
from dcs_nas.errors import InputError
from dcs_nas.extensions import load_extensions
from dcs_nas.models.blocks import ATTENTION, build_attention
from dcs_nas.models.cell_costs import CellCosts
from dcs_nas.models.operations import OPERATIONS, build_operation
from dcs_nas.runs import RunFolder
from dcs_nas.settings import dump_yaml, read_yaml
from dcs_nas.space import read_space
from tests.command_line import refused
from tests.own_code import new_process

SAMPLES = Path(__file__).parents[1] / "docs" / "samples"
SPACE = """
cells: 2
channels: 4
nodes: 1
reductions: [1]
stem: stride2
operations: [none, skip_connect, shuffle_conv]
attention: [none]
"""
JOB = """
name: own
data: {name: synthetic, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
augment: {pad: 2, erase: 0}
search: {strategy: bilevel, epochs: 1}
retrain: {epochs: 1, warmup_epochs: 0}
trainer: {accelerator: cpu, threads: 1, loggers: []}
extensions: [my_ops.py]
"""
HEAD = "from torch import nn\nfrom dcs_nas.models.operations import OPERATIONS, SeparableConv\n"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def _clean(state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.rmtree(state, ignore_errors=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    new_process()
    yield
    new_process()


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, its space and its extension in one folder."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(SAMPLES / "own_operation.py", folder / "my_ops.py")
    (folder / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data |= {"results": str(folder / "results")}
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["search"]["space"] = str(folder / "space.yaml")
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def runs(job: Path, state: Path) -> Path:
    """The folder of a search and of what was trained from it, on a genotype of the own operation alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state / "runs"))
        found = api.search(job)
        genotype = read_yaml(found.folder / "genotype.yaml")
        for cell in genotype["cells"].values():
            cell["nodes"] = [[{"op": "shuffle_conv", "from": 0}, {"op": "shuffle_conv", "from": 1}]]
        (job.parent / "own.yaml").write_text(dump_yaml(genotype))
        api.retrain(job, genotype=job.parent / "own.yaml")
    new_process()
    return found.folder.parent


def _write(path: Path, body: str) -> Path:
    path.write_text(HEAD + body)
    return path


def _operation(name: str, module: str) -> str:
    return (
        f'@OPERATIONS.register("{name}")\ndef make(channels, stride, *, height, width, affine):\n    return {module}\n'
    )


def _runs_well(*arguments: object) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([str(a) for a in arguments])
    assert exit_info.value.code == 0


def test_the_samples_are_shorter_than_twenty_lines() -> None:
    for file in ("own_operation.py", "own_dataset.py"):
        assert len((SAMPLES / file).read_text().splitlines()) < 20


def test_a_search_over_an_own_operation_records_its_file_and_draws_it(runs: Path, job: Path) -> None:
    environment = json.loads((runs / "search" / "environment.json").read_text())
    [entry] = environment["extensions"]
    assert entry["path"] == str(job.parent / "my_ops.py")
    assert len(entry["sha256"]) == 64
    assert entry["names"] == [["operation", "shuffle_conv"]]
    assert read_yaml(runs / "search" / "config.yaml")["extensions"] == [entry["path"]]
    record = read_yaml(runs / "search" / "architecture" / "epoch_000.yaml")
    assert "shuffle_conv" in record["names"]["operations"]


def test_a_genotype_of_an_own_operation_is_drawn_without_its_code(job: Path, runs: Path, tmp_path: Path) -> None:
    _runs_well("visualize", job.parent / "own.yaml", "--out", tmp_path, "--format", "svg")
    text = (tmp_path / "normal.svg").read_text()
    assert "shuffle_" in text
    assert "shuffle_conv" not in OPERATIONS


def test_whoever_ran_the_file_evaluates_profiles_and_reports_its_run_without_naming_it(
    job: Path, runs: Path, tmp_path: Path
) -> None:
    load_extensions([job.parent / "my_ops.py"])
    new_process()
    _runs_well("evaluate", runs / "retrain", "--json", tmp_path / "scores.json")
    new_process()
    _runs_well("profile", runs / "retrain", "--rounds", 0)
    new_process()
    _runs_well("report", runs / "retrain", "--out", tmp_path / "report.html")
    assert "never run here" not in (tmp_path / "report.html").read_text()


def test_a_run_of_somebody_else_runs_no_code_until_it_is_named(
    job: Path, runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, "evaluate", runs / "retrain")
    own = job.parent / "my_ops.py"
    assert line.endswith(f"which you have never run here; read it, then allow it by --extension {own}")
    assert "never run here" in refused(capsys, "profile", runs / "search" / "config.yaml", "--rounds", 0)
    assert not extensions._loaded
    _runs_well("evaluate", runs / "retrain", "--extension", own, "--json", tmp_path / "scores.json")
    new_process()
    RunFolder(runs / "retrain").load_extensions()  # now it is known
    assert "shuffle_conv" in OPERATIONS


def test_a_report_of_somebody_elses_run_says_what_it_leaves_out_and_why(runs: Path, tmp_path: Path) -> None:
    _runs_well("report", runs / "retrain", "--out", tmp_path / "report.html")
    assert "which you have never run here" in (tmp_path / "report.html").read_text()
    assert "shuffle_conv" not in OPERATIONS


def test_a_changed_or_missing_file_of_a_run_is_one_line_and_another_can_be_given(
    job: Path, runs: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    own = job.parent / "my_ops.py"
    text = own.read_text()
    load_extensions([own])
    new_process()
    try:
        own.write_text(text + "# another\n")
        with pytest.raises(InputError, match=r"my_ops.py, which has changed since \(SHA-256 \w{12} then, \w{12} now\)"):
            RunFolder(runs / "retrain").load_extensions()
        own.rename(tmp_path / "my_ops.py")
        with pytest.raises(InputError, match="no longer exists; name the file by --extension FILE"):
            RunFolder(runs / "retrain").load_extensions()
        api.load_extensions(tmp_path / "my_ops.py")
        with caplog.at_level(logging.WARNING, "dcs_nas"):
            logging.getLogger("dcs_nas").propagate = True
            RunFolder(runs / "retrain").load_extensions()
        assert "was made with another my_ops.py than the one in use" in caplog.text
    finally:
        own.write_text(text)


def test_a_run_is_resumed_with_the_same_file_alone(job: Path, runs: Path, tmp_path: Path) -> None:
    own = job.parent / "my_ops.py"
    text = own.read_text()
    shutil.copy(own, tmp_path / "moved.py")
    api.search(job, [f"extensions=[{tmp_path / 'moved.py'}]"], resume=True)
    with pytest.raises(InputError, match=r"began with the extension .*my_ops.py; name it in extensions"):
        api.search(job, ["extensions=[]"], resume=True)
    try:
        own.write_text(text + "# another\n")
        new_process()
        with pytest.raises(InputError, match=r"my_ops.py has changed since the run in .* began; restore"):
            api.search(job, resume=True)
    finally:
        own.write_text(text)


def test_without_its_file_an_own_operation_is_one_line_that_says_what_to_do(
    job: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "profile", job.parent / "own.yaml", "--rounds", 0)
    assert "unknown operation 'shuffle_conv'; " in line
    assert "name the file by -o extensions=[FILE] to a configuration, by --extension FILE otherwise" in line
    _runs_well("profile", job.parent / "own.yaml", "--rounds", 0, "--extension", job.parent / "my_ops.py")


def test_paths_are_relative_to_the_configuration_and_on_the_command_line_to_the_current_folder(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(job).extensions == (job.parent / "my_ops.py",)
    assert load_config(job, ["extensions=[a.py, a.py]"]).extensions == (tmp_path / "a.py",)
    with pytest.raises(InputError, match=r"extensions: expected a list of Python files, e.g. \[my_ops.py\]"):
        load_config(job, ["extensions=a.py"])


def test_the_same_file_or_a_copy_of_it_twice_is_harmless_and_a_changed_one_replaces_it(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.py", _operation("own_a", "nn.Identity()"))
    [first] = load_extensions([file])
    shutil.copy(file, tmp_path / "b.py")
    assert load_extensions([file, tmp_path / "b.py"]) == [first, first]
    _write(file, _operation("own_b", "nn.Identity()"))
    load_extensions([file])
    assert "own_b" in OPERATIONS
    assert "own_a" not in OPERATIONS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + _operation("sep_conv_3x3", "nn.Identity()"),
            r"line 3: operation 'sep_conv_3x3' is registered already, by dcs_nas.models.operations; choose another",
        ),
        ("\n\nprint(missing)\n", r"own.py, line 3: NameError: name 'missing' is not defined$"),
        ("x = (\n", r"own.py, line 1: SyntaxError: '\(' was never closed$"),
        ("import json\njson.loads('?')\n", r"own.py, line 2: JSONDecodeError: Expecting value"),
        ("import sys\nsys.exit(3)\n", r"own.py, line 2: SystemExit: 3$"),
        (HEAD + _operation("a.b", "nn.Identity()"), r"operation 'a.b': expected letters, digits and _"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_extensions([tmp_path / "own.py"])
    assert "\n" not in str(error.value)
    assert not registry.list_entries(str(tmp_path / "own.py"))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.py does not exist; expected a Python file"):
        load_extensions([tmp_path / "no.py"])
    with pytest.raises(InputError, match="is a folder; expected a Python file"):
        load_extensions([tmp_path])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nn.Conv2d(channels, channels, 3)", r"returns 4 x 4 x 2 for a map 4 x 6 x 4 .*, expected 4 x 6 x 4"),
        ("nn.ReLU(inplace=True)", "changes its input, which other operations read too; leave inplace=True out"),
        ("nn.Conv2d(channels + 1, channels, 1)", "fails on a map 4 x 6 x 4: RuntimeError"),
        ("nn.Conv2d(channels)", r"cannot be built: TypeError: .* called as factory\(channels, stride, height="),
        ("lambda x: x", "returned a function, expected a torch.nn.Module"),
        ("Mine(channels, 3, stride, affine=affine)", "is a ReluFirst with a forward of its own; write after_relu"),
    ],
)
def test_an_operation_that_does_not_keep_to_the_rules_is_one_line(tmp_path: Path, module: str, message: str) -> None:
    own = "class Mine(SeparableConv):\n    def forward(self, x):\n        return x\n"
    load_extensions([_write(tmp_path / "own.py", own + _operation("mine", module))])
    with pytest.raises(InputError, match=rf"operation 'mine' of .*own.py .*{message}"):
        build_operation("mine", 4, 1, height=6, width=4, affine=True)


def test_trying_an_operation_leaves_generator_and_statistics_alone(tmp_path: Path) -> None:
    load_extensions([_write(tmp_path / "own.py", _operation("mine", "nn.Sequential(nn.BatchNorm2d(channels))"))])
    torch.manual_seed(3)
    built = build_operation("mine", 4, 1, height=6, width=4, affine=True)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert built.training
    assert torch.equal(built[0].running_mean, torch.zeros(4))  # type: ignore[index]


def test_an_own_attention_block_stands_on_outputs_and_on_edges(tmp_path: Path) -> None:
    text = (
        "from torch import nn\nfrom dcs_nas.models.blocks import ATTENTION\n"
        '@ATTENTION.register("gate")\ndef gate(channels, height, width, *, kernel: int = 1):\n'
        "    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2)\n"
    )
    (tmp_path / "own.py").write_text(text)
    load_extensions([tmp_path / "own.py"])
    assert build_attention("gate", 4, 6, 4, kernel=3)(torch.rand(2, 4, 6, 4)).shape == (2, 4, 6, 4)
    edge = build_operation("gate", 4, 2, height=6, width=4, affine=True)
    assert edge(torch.rand(2, 4, 12, 8)).shape == (2, 4, 6, 4)
    with pytest.raises(InputError, match=r"attention block 'gate' of .*own.py returns 4 x 7 x 5 for a map 4 x 6 x 4"):
        build_attention("gate", 4, 6, 4, kernel=2)
    assert ATTENTION.is_extension("gate")


def test_an_own_operation_with_the_name_of_an_own_attention_block_stands_on_edges(tmp_path: Path) -> None:
    text = _operation("both", "nn.AvgPool2d(3, stride, padding=1)") + (
        "from dcs_nas.models.blocks import ATTENTION\n"
        '@ATTENTION.register("both")\ndef block(channels, height, width):\n    return nn.Dropout()\n'
    )
    load_extensions([_write(tmp_path / "own.py", text)])
    assert isinstance(build_operation("both", 4, 1, height=6, width=4, affine=True, max_nodes=8), nn.AvgPool2d)
    assert isinstance(build_attention("both", 4, 6, 4), nn.Dropout)


def test_an_own_operation_costs_what_its_layers_do(job: Path) -> None:
    load_extensions([job.parent / "my_ops.py"])
    space = read_space(job.parent / "space.yaml")
    costs = CellCosts(space, space.network(32, 16))
    (_, macs), (_, parameters) = costs.tables("flops"), costs.tables("parameters")
    # cell 0: 3 x 3 taps, 4 channels in 2 groups, on a map of 16 x 8; a scale and a shift for each channel
    assert macs["normal"][:, 2].tolist() == [3 * 3 * 4 * 2 * 16 * 8] * 2
    assert parameters["normal"][:, 2].tolist() == [3 * 3 * 4 * 2 + 2 * 4] * 2


def test_nnis_strategies_search_over_own_operations_too(job: Path, runs: Path, tmp_path: Path) -> None:
    overrides = ["search.strategy=nni.darts", "search.epochs=1", "retrain=null"]
    found = api.search(job, overrides, out=tmp_path / "darts")
    assert "shuffle_conv" in found.genotype.space.operations
    own_alone = tmp_path / "space.yaml"
    own_alone.write_text(SPACE.replace("none, skip_connect, ", ""))
    random = ["search.strategy=random", "search.trials.trials=1", f"search.space={own_alone}"]
    drawn = api.search(job, random, out=tmp_path / "random")
    assert {edge.op for cell in drawn.genotype.cells.values() for node in cell.nodes for edge in node} == {
        "shuffle_conv"
    }


def test_a_data_set_of_an_own_format_is_loaded_checked_and_lists_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/id_1-door-1", "train/id_1-hall-2", "query/id_2-door-1", "gallery/id_2-hall-1"):
        path = tmp_path / "data" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16)).save(path)
    own = SAMPLES / "own_dataset.py"
    _runs_well("datasets", "dashes", "--root", tmp_path / "data", "--extension", own)
    assert "dashes data" in capsys.readouterr().out
    found = load_dataset("dashes", tmp_path / "data")
    assert [len(found.split(split)) for split in ("train", "query", "gallery")] == [2, 1, 1]
    assert found.label_map == {"id_1": 1, "id_2": 2}
    with pytest.raises(InputError, match="unknown key 'sufix'; did you mean suffix"):
        load_dataset("dashes", tmp_path / "data", sufix=".png")
    (tmp_path / "bad.py").write_text(
        "from dcs_nas.data.datasets import DATASETS\n@DATASETS.register('nothing')\ndef f(root): pass\n"
    )
    load_extensions([tmp_path / "bad.py"])
    with pytest.raises(InputError, match=r"'nothing' \(.*bad.py\) returns NoneType, expected ReidDataset"):
        load_dataset("nothing", tmp_path)
    assert DATASETS.owner("market1501") == "dcs_nas.data.datasets.market1501"


def test_damaged_records_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"extensions": [{"path": 3, "sha256": "x"}]}')
    with pytest.raises(InputError, match=r"environment.json is damaged \(its extensions are not a list of"):
        RunFolder(tmp_path).load_extensions()


@pytest.mark.parametrize(("page", "sample"), [("own_operation", "own_operation"), ("own_data", "own_dataset")])
def test_the_documentation_shows_the_samples_as_they_are(page: str, sample: str) -> None:
    shown = (SAMPLES.parent / f"{page}.md").read_text()
    code = (SAMPLES / f"{sample}.py").read_text().partition('"""\n\n')[2]
    assert f"```python\n{code}```" in shown
    space = (SAMPLES / "own_space.yaml").read_text()
    assert page != "own_operation" or f"```yaml\n{space}```" in shown
