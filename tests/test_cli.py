"""The commands as a user types them: help, results, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcs_nas.space import Genotype, SpaceReference, find_shipped_file, read_space
from tests.command_line import refused, run_command
from tests.run_folders import genotypes

COMMANDS = [
    *("synth", "search", "retrain", "evaluate", "rank", "extract", "find", "visualize", "datasets", "demo"),
    *("profile", "tune", "report", "export", "runs"),
]


def _genotype(path: Path) -> Path:
    space = read_space(find_shipped_file("search_spaces", "demo_cells"))
    nodes = [[{"op": "sep_conv_3x3", "from": 0}, {"op": "skip_connect", "from": 1}]] * space.nodes
    cells = {"normal": {"nodes": nodes, "attention": "dcs"}, "reduce": {"nodes": nodes}}
    genotype = Genotype(space=SpaceReference.of(space, space.name), network=space.network(64, 32), cells=cells)
    path.write_text(genotype.to_yaml())
    return path


def test_help_lists_every_command_and_loads_no_torch() -> None:
    code = "import sys; from dcs_nas.cli import _run; _run(['--help'], False); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f" {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture, command: str) -> None:
    code, out, _ = run_command(capsys, command, "--help")
    assert code == 0
    assert "Usage: dcs-nas" in out


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture) -> None:
    code, out, err = run_command(capsys)
    assert (code, err) == (0, "")
    assert "Usage: dcs-nas" in out


@pytest.mark.parametrize("command", ["visualize", "report", "export", "bench"])
def test_o_is_for_settings_and_the_line_names_out(capsys: pytest.CaptureFixture, command: str) -> None:
    line = refused(capsys, command, "x", "-o", "folder")
    assert f"-o is for settings (-o KEY=VALUE), and dcs-nas {command} has none" in line
    assert "named by --out" in line


def test_the_version_is_printed(capsys: pytest.CaptureFixture) -> None:
    from dcs_nas import __version__

    assert run_command(capsys, "--version")[:2] == (0, f"dcs-nas {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serach"], "No such command 'serach'. Did you mean 'search'"),
        (["search"], "Missing argument 'CONFIG'; see dcs-nas search --help"),
        (["search", "demo", "--epochs", "3"], "No such option: --epochs"),
        (["search", "no_such_job"], "there is no file no_such_job; known: "),
        (["search", "demo", "-o", "data.rot=x"], "unknown key 'data.rot'; did you mean root?"),
        (["search", "demo"], "data.root is not set"),
        (["search", "demo", "-o", "data.root=/no/such"], "/no/such"),
        (["search", "demo", "-o", "data.name=marktet1501", "-o", "data.root=/"], "did you mean market1501?"),
        (["search", "demo", "-o", "search.space=nowhere"], "there is no file nowhere; known: "),
        (["retrain", "market1501_search"], "has no section 'retrain'"),
        (["evaluate", "/no/such"], "/no/such is not a run folder"),
        (["rank", "/no/such.npz"], "/no/such.npz"),
        (["visualize", "/no/such.yaml"], "there is no file /no/such.yaml"),
        (["datasets", "nowhere"], "nowhere"),
        (["synth", "/dev/null"], "/dev/null"),
    ],
)
def test_bad_input_is_one_clear_line(capsys: pytest.CaptureFixture, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, *arguments)


def test_v_shows_the_traceback(capsys: pytest.CaptureFixture) -> None:
    _, _, err = run_command(capsys, "visualize", "/no/such.yaml", "-v")
    assert "Traceback" in err


def test_an_unknown_operation_lists_the_choices(capsys: pytest.CaptureFixture, people: Path, tmp_path: Path) -> None:
    text = find_shipped_file("search_spaces", "demo_cells").read_text().replace("sep_conv_5x5", "sep_conv_9x9")
    (tmp_path / "space.yaml").write_text(text)
    options = [
        "-o",
        f"search.space={tmp_path / 'space.yaml'}",
        "-o",
        f"data.root={people}",
        "-o",
        f"results={tmp_path}",
    ]
    line = refused(capsys, "search", "demo", *options, "-o", "data.identities_per_batch=4")
    assert "unknown operation 'sep_conv_9x9'; did you mean sep_conv_" in line
    assert "dil_conv_5x5" in line


def _market(root: Path, *names: str) -> Path:
    for part in ("bounding_box_train", "bounding_box_test", "query"):
        (root / part).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (16, 32)).save(root / part / name, format="JPEG")
    return root


NAMES = [f"000{p}_c{c}s1_00000{i}_00.jpg" for p in (1, 2) for c in (1, 2) for i in (1, 2)]


def _search(root: Path, tmp_path: Path) -> list[str]:
    small = [
        "data.identities_per_batch=2",
        "data.name=market1501",
        f"data.root={root}",
        f"results={tmp_path / 'results'}",
    ]
    return ["search", "demo", *(part for setting in small for part in ("-o", setting))]


def test_an_empty_data_folder_is_named(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert "bounding_box_train" in refused(capsys, *_search(_market(tmp_path / "data"), tmp_path))


def test_a_file_name_that_does_not_parse_is_named(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    root = _market(tmp_path / "data", *NAMES, "holiday.jpg")
    assert "holiday.jpg" in refused(capsys, *_search(root, tmp_path))


def test_a_truncated_image_is_named(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    root = _market(tmp_path / "data", *NAMES)
    broken = root / "bounding_box_train" / NAMES[3]
    broken.write_bytes(broken.read_bytes()[:300])
    assert f"{NAMES[3]} does not decode as an image" in refused(capsys, *_search(root, tmp_path))


def save_features(path: Path, *, same_camera: bool = False) -> Path:
    generator = np.random.default_rng(0)
    pids = np.repeat(np.arange(1, 6), 2)
    cameras = np.zeros(10, dtype=int) if same_camera else np.tile([0, 1], 5)
    np.savez(
        path,
        query_features=generator.normal(size=(10, 8)).astype("float32"),
        gallery_features=generator.normal(size=(10, 8)).astype("float32"),
        query_pids=pids,
        gallery_pids=pids,
        query_camids=cameras,
        gallery_camids=cameras,
    )
    return path


@pytest.mark.parametrize("extra", [[], ["--metric", "cosine"], ["--rerank"], ["--protocol", "no_camera_filter"]])
def test_features_of_anyone_are_ranked(capsys: pytest.CaptureFixture, tmp_path: Path, extra: list[str]) -> None:
    file = save_features(tmp_path / "f.npz")
    code, out, _ = run_command(capsys, "rank", file, *extra, "--json", tmp_path / "scores.json")
    assert code == 0
    assert "mAP" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["queries"]["used"] == 10
    assert 0 < scores["mAP"] <= 1
    assert scores["cmc"] == sorted(scores["cmc"])
    assert scores["versions"]["dcs_nas"]


def test_no_query_with_a_match_is_refused(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    line = refused(capsys, "rank", save_features(tmp_path / "f.npz", same_camera=True))
    assert "match" in line


def test_a_features_file_is_never_unpickled(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", query_features=np.array([{"a": 1}], dtype=object))
    assert "f.npz" in refused(capsys, "rank", tmp_path / "f.npz")


def test_cells_are_drawn_and_compared(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    first, second = _genotype(tmp_path / "a.yaml"), tmp_path / "b.yaml"
    second.write_text(first.read_text().replace("skip_connect, from: 1", "dil_conv_3x3, from: 1"))
    code, out, _ = run_command(capsys, "visualize", first, "--out", tmp_path / "one", "--format", "svg,dot,graphml")
    assert code == 0
    files = [Path(line) for line in out.split()]
    assert {"normal.svg", "reduce.dot", "normal.graphml"} <= {f.name for f in files}
    assert all(f.stat().st_size for f in files)
    code, out, _ = run_command(capsys, "visualize", first, second, "--out", tmp_path / "two")
    assert code == 0
    assert (tmp_path / "two" / "difference_normal.svg").is_file()
    assert "expected one, or two" in refused(capsys, "visualize", first, first, first)
    assert "unknown format" in refused(capsys, "visualize", first, "--format", "bmp")


def test_data_sets_are_listed_described_and_checked(
    capsys: pytest.CaptureFixture, people: Path, tmp_path: Path
) -> None:
    assert "msmt17" in run_command(capsys, "datasets")[1]
    assert "bounding_box_train" in run_command(capsys, "datasets", "market1501")[1]
    code, out, _ = run_command(capsys, "datasets", "synthetic", "--root", people, "--images")
    assert code == 0
    assert "8" in out
    assert "not fit for use" in refused(capsys, "datasets", "market1501", "--root", tmp_path)


def test_synthetic_people_are_drawn_by_the_command(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    few = [
        "--train-identities",
        2,
        "--test-identities",
        2,
        "--distractor-identities",
        0,
        "--junk-images",
        0,
        "--cameras",
        2,
    ]
    out = tmp_path / "set"
    assert run_command(capsys, "synth", out, *few, "--width", 16, "--height", 32)[0] == 0
    assert sorted(p.name for p in out.iterdir()) == ["bounding_box_test", "bounding_box_train", "query"]
    assert str(out) in refused(capsys, "synth", out, *few)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["config", "demo", "-o", "name=2024"],
            "-o name=2024: name: Input should be a valid string, found 2024, a number;",
        ),
        (
            ["config", "demo", "-o", "search.epochs=x"],
            "-o search.epochs=x: search.epochs: Input should be a valid integer",
        ),
        (
            ["config", "demo", "-o", "search.guard.x=3"],
            "-o search.guard.x=3: unknown key 'search.guard.x'; known: action",
        ),
        (["config", "demo", "-o", "search.epochs=yes"], "search.epochs: true and false are no numbers, found True"),
        (["datasets", "--root", "."], "--root goes with the NAME of a data set"),
        (["datasets", "market1501", "--images"], "--images goes with --root DIR"),
        (["datasets", "-o", "a=b"], "--set goes with --root DIR"),
        (
            ["rank", "f.npz", "--queries", "3"],
            "--queries goes with fast-reid's feats, and f.npz holds none; leave it out",
        ),
        (["rank", "f.npz", "--confidence", "20"], "confidence: expected 0, or at least 100 resamples"),
        (
            ["bench", "genotype.yaml"],
            "genotype.yaml is of the space tiny, expected one that has a table: bench_cells or",
        ),
    ],
)
def test_an_option_without_effect_or_a_wrong_value_is_named(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_features(Path("f.npz"))
    Path("genotype.yaml").write_text(genotypes(1)[0].to_yaml())
    assert message in refused(capsys, *arguments)


def test_a_number_in_quotes_is_a_name(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run_command(capsys, "config", "demo", "-o", "name='2024'")
    assert code == 0
    assert "name: '2024'" in out
