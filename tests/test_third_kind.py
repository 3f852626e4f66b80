"""A kind of search space that this package does not know goes through all commands, by an extension alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcs_nas.errors import InputError
from dcs_nas.space import load_genotype, load_space
from tests.command_line import refused, run_command
from tests.own_code import new_process

EXTENSION = Path(__file__).with_name("third_kind.py")
SPACE = "kind: plain\nlayers: 2\nwidth: 8\nkernels: [1, 3]\n"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    new_process()
    yield
    new_process()


def test_a_third_kind_is_searched_trained_drawn_profiled_and_reported(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def run(*words: object) -> None:
        code, _, err = run_command(capsys, *words)
        assert code == 0, err

    (tmp_path / "tiny.yaml").write_text(SPACE)
    config = tmp_path / "job.yaml"
    config.write_text(
        f"name: third\nextensions: [{EXTENSION}]\n"
        f"data: {{name: market1501, root: {people}, height: 32, width: 16, identities_per_batch: 4}}\n"
        "trainer: {accelerator: cpu, threads: 1}\n"
        f"search: {{strategy: bilevel, space: {tmp_path / 'tiny.yaml'}, epochs: 1,"
        " warmup_epochs: 0, cost: {kind: flops, target: 4}}\n"
        "retrain: {epochs: 1, warmup_epochs: 0}\n"
    )
    search, trained = tmp_path / "search", tmp_path / "trained"
    run("search", config, "--out", search)
    genotype = load_genotype(search / "genotype.yaml")
    assert genotype.kind == "plain"
    assert list(genotype.graph().nodes) == ["image", "layer0", "layer1", "features"]
    assert genotype.summary() == "2 layers of space tiny"
    run("retrain", config, "-o", f"retrain.inherit={search}", "--genotype", search / "genotype.yaml", "--out", trained)
    run("visualize", search / "genotype.yaml", "--out", tmp_path / "graphs", "--format", "svg,graphml")
    assert {file.name for file in (tmp_path / "graphs").iterdir()} >= {"plain.svg", "plain.graphml"}
    run("profile", search / "genotype.yaml", "--rounds", 0, "--json", tmp_path / "profile.json")
    assert json.loads((tmp_path / "profile.json").read_text())["parameters"] > 0
    run("profile", config, "--rounds", 0)
    run("report", search)


def test_settings_of_cells_are_refused_for_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    words = ["profile", "demo", "--rounds", 0, "-o", f"search.space={tmp_path / 'tiny.yaml'}"]
    words += ["-o", f"extensions=[{EXTENSION}]", "-o", "search.relaxation.partial_channels=4"]
    words += ["-o", "search.strategy=bilevel"]
    assert "search.relaxation.partial_channels is for spaces of cells, and this one is of kind plain" in refused(
        capsys, *words
    )


def test_a_kind_is_unknown_without_its_extension(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    with pytest.raises(InputError, match="unknown kind of search space 'plain'; .*known: cells, chain"):
        load_space(tmp_path / "tiny.yaml")
