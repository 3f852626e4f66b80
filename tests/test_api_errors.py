"""What the functions say to those who call them from Python: arguments, no options; one line for a wrong type."""

from __future__ import annotations

from pathlib import Path

import pytest

import dcs_nas
from dcs_nas.api_views import GenotypeView
from dcs_nas.errors import ApiError, InputError, name_arguments
from tests.chains import chain_space, random_chain
from tests.command_line import refused
from tests.run_folders import searched, trained


@pytest.fixture(scope="module")
def runs(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return searched(folder / "search", people), trained(folder / "retrain", people)


@pytest.mark.parametrize(
    ("shell", "python"),
    [
        ("finish it with --resume", "finish it with resume=True"),
        ("use --checkpoint last, or", 'use checkpoint="last", or'),
        ("--data duke needs --root, the folder", "data_name duke needs root, the folder"),
        ("leave --splits out", "leave splits out"),
        ("add --expand K, or", "add expand=K, or"),
        ("rank with --protocol no_camera_filter", "rank with protocol no_camera_filter"),
        ("it is -o data.root=/x, no", "it is overrides=['data.root=/x'], no"),
        ("train it: dcs-nas retrain a.yaml --out b", "train it: dcs-nas retrain a.yaml --out b (in a shell)"),
        ("a--b and 3 - -4 stay", "a--b and 3 - -4 stay"),
    ],
)
def test_options_are_named_as_arguments(shell: str, python: str) -> None:
    assert name_arguments(shell) == python


def test_a_function_speaks_python_and_its_command_the_shell(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    _, retrain = runs
    with pytest.raises(ApiError, match=r"use checkpoint=\"last\", or train with retrain\.validation") as error:
        dcs_nas.evaluate(retrain, checkpoint="best")
    assert "--" not in str(error.value)
    assert "use --checkpoint last, or train with" in refused(capsys, "evaluate", retrain, "--checkpoint", "best")


def test_a_wrong_type_of_run_is_told_in_one_line(runs: tuple[Path, Path]) -> None:
    search, retrain = map(dcs_nas.load, runs)
    for use in (
        lambda: dcs_nas.evaluate(search),
        lambda: search.evaluate(),
        lambda: search.features("a.jpg"),
        lambda: search.network,
    ):
        with pytest.raises(InputError, match=r"is a search.*dcs_nas\.retrain\(config, genotype=run\.genotype\)"):
            use()
    with pytest.raises(InputError, match="run is a dict, expected a trained run or its folder"):
        dcs_nas.evaluate({})
    with pytest.raises(
        InputError, match=r"genotype is a SearchRun, expected a genotype or its file; pass run\.genotype"
    ):
        dcs_nas.retrain(retrain.config, genotype=search, out="nowhere")
    assert not hasattr(search, "typo")


def test_a_genotype_prints_as_at_most_ten_lines_and_is_saved_and_drawn(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    genotype = dcs_nas.load(runs[0]).genotype
    print(genotype)
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 10
    assert all(len(line) <= 110 for line in lines)
    assert lines[0].startswith("2 cells of space tiny, width 4")
    assert {"normal", "reduce"} <= {line.split()[0] for line in lines}
    assert dcs_nas.load_genotype(genotype.save(tmp_path / "g.yaml")).genotype == genotype.genotype
    assert [path.name for path in genotype.plot(tmp_path / "reduce.pdf", "reduce")] == ["reduce.pdf"]
    assert (tmp_path / "reduce.pdf").read_bytes().startswith(b"%PDF")
    assert r"\begin{tikzpicture}" in genotype.plot(tmp_path / "cell.tex")[0].read_text()
    assert {path.name for path in genotype.plot(tmp_path / "all")} >= {"normal.svg", "network.png"}
    with pytest.raises(InputError, match="has no picture 'nromal'; did you mean normal"):
        genotype.plot(tmp_path / "a.svg", "nromal")
    with pytest.raises(InputError, match="unknown format 'bmp'"):
        genotype.plot(tmp_path / "a.bmp")


def test_the_longest_genotypes_end_after_ten_lines() -> None:
    genotype = random_chain(chain_space(), 0)
    table = genotype.tables()[0]
    long = type("Long", (), {"tables": lambda _: [table] * 9, "summary": lambda _: "long", "origin": genotype.origin})()
    lines = str(GenotypeView(long)).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "..., see .tables()"
