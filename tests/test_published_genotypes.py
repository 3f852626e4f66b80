"""Genotypes in the text of DARTS: read from logs and genotypes.py by a literal parser, trained, drawn, written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dcs_nas.config import Config
from dcs_nas.errors import InputError
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.models.cell_space import build_fixed_network
from dcs_nas.report.graphs import draw, draw_difference
from dcs_nas.space import (
    Genotype,
    Origin,
    SpaceSpec,
    find_shipped_file,
    is_published,
    load_genotype,
    load_space,
    to_darts_text,
)
from tests.command_line import refused, run_command
from tests.run_folders import SPACE

# quark0/darts, cnn/genotypes.py at f276dd3: what the second order search found, and two that others print.
NORMAL = (
    "[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)]"
)
REDUCE = (
    "[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)]"
)
V2 = f"Genotype(normal={NORMAL}, normal_concat=range(2, 6), reduce={REDUCE}, reduce_concat=range(2, 6))"
OTHER = V2.replace("sep_conv_3x3", "sep_conv_5x5")
NASNET = V2.replace("normal_concat=range(2, 6)", "normal_concat=[4, 5]")
DECLARED = """from collections import namedtuple
Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')
"""
LOG = f"""2018-09-01 10:00:00,123 epoch 48 lr 1e-3
09/01 10:00:00 AM genotype = {OTHER}
09/01 12:00:00 PM genotype = {V2}
tensor([[0.1]])
"""
BRACKETS = str.maketrans("()", "[]")
FORMS = {
    "alone": V2,
    "named": f"DARTS_V2 = {V2}\n",
    "lists": V2.replace("range(2, 6)", "[2, 3, 4, 5]"),
    "double quotes": V2.replace("'", '"'),
    "lists of lists": V2.replace(NORMAL, NORMAL.translate(BRACKETS)).replace(REDUCE, REDUCE.translate(BRACKETS)),
    "in order": f"Genotype({NORMAL}, range(2, 6), {REDUCE}, range(2, 6))",
    "several lines": "DARTS_V2 = Genotype(\n  normal = "
    + NORMAL.replace(", (", ",\n    (")
    + f",\n  normal_concat = range(2, 6),\n"
    f"  reduce = {REDUCE},\n  reduce_concat = range(2, 6),\n)",
    "log": LOG,
    "printed": f"param size = 3.3MB\n{V2}\nvalid_acc 97.2",
    "genotypes.py": f"{DECLARED}\nPRIMITIVES = ['none']\n\nDARTS_V2 = {V2}\n\nDARTS = DARTS_V2\n",
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def choices_of(genotype: Genotype) -> dict[str, list[tuple[str, int]]]:
    return {k: [(e.op, e.source) for node in cell.nodes for e in node] for k, cell in genotype.cells.items()}


@pytest.mark.parametrize("form", FORMS)
def test_the_published_text_is_read_in_every_form_that_codes_print(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "log.txt", FORMS[form])
    genotype = load_genotype(path)
    assert isinstance(genotype, Genotype)
    assert str(choices_of(genotype)["normal"]) == NORMAL
    assert str(choices_of(genotype)["reduce"]) == REDUCE
    assert (genotype.space.name, genotype.space.nodes, genotype.space.edges_per_node) == ("darts", 4, 2)
    assert (genotype.network.channels, genotype.network.cells, genotype.network.reductions) == (16, 8, (2, 5))
    assert load_genotype(write(tmp_path / "g.yaml", genotype.to_yaml())) == genotype


def test_what_is_written_reads_back_equal_for_random_genotypes_of_every_space(tmp_path: Path) -> None:
    random, count = np.random.default_rng(0), 0
    shipped = [
        load_space(find_shipped_file("search_spaces", n)) for n in ("attention_cells", "demo_cells", "quality_cells")
    ]
    single = SPACE.model_copy(update={"edges_per_node": 1})
    for space in (*shipped, SPACE, single):
        assert isinstance(space, SpaceSpec)
        plain = space.model_copy(update={"attention": ("none",)})
        for _ in range(20):
            found = CellKind().random_genotype(plain, plain.network(256, 128), random, origin=Origin())
            path = write(tmp_path / "genotype.txt", to_darts_text(found))
            back = load_genotype(path, space=plain)
            assert (back.cells, back.space, back.network) == (found.cells, found.space, found.network)
            assert choices_of(load_genotype(path)) == choices_of(found)
            count += 1
    assert count == 100


def test_of_several_genotypes_one_is_chosen_by_name_or_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "genotypes.py", f"{DECLARED}NASNet = {NASNET}\nV1 = {OTHER}\nV2 = {V2}\nBEST = V2\n")
    with pytest.raises(InputError) as caught:
        load_genotype(path)
    assert f"{path} holds several genotypes: NASNet, V1, V2; name one, such as " in str(caught.value)
    advised = Path(str(caught.value).rpartition("such as ")[2])
    assert str(choices_of(load_genotype(advised))["normal"]) == NORMAL  # type: ignore[arg-type]
    assert load_genotype(path.with_name("genotypes.py:BEST")) == load_genotype(advised)
    for choice in ("V1", "4"):
        found = load_genotype(path.with_name(f"genotypes.py:{choice}"))
        assert choices_of(found)["normal"][0] == ("sep_conv_5x5", 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no genotype 'V3'; it has NASNet, V1, V2, lines 3, 4, 5"):
        load_genotype(path.with_name("genotypes.py:V3"))
    with pytest.raises(InputError, match=r"joins the nodes \[4, 5\]; expected all of them"):
        load_genotype(path.with_name("genotypes.py:NASNet"))
    log = write(tmp_path / "log.txt", f"{OTHER}\n{V2}\n{OTHER}\n")
    assert choices_of(load_genotype(log))["normal"][0] == ("sep_conv_5x5", 0)  # type: ignore[arg-type]
    assert f"{log}: the last of 3 genotypes, line 3; another by {log}:LINE" in caplog.text
    assert not is_published(write(tmp_path / "g.yaml", "format: 1\norigin: {data: Genotype(x)}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Genotype(normal=__import__('os').mkdir('MARK'), normal_concat=1, reduce=1, reduce_concat=1)", "holds Call"),
        ("Genotype(normal=[().__class__], normal_concat=1, reduce=1, reduce_concat=1)", "holds Attribute"),
        (V2.replace("range(2, 6)", "range(2, 10 ** 9)"), "holds BinOp"),
        (V2.replace("range(2, 6)", "range(2, 1000000000)"), "holds Call"),
        (V2.replace("range(2, 6)", "range(-2, 6)"), "holds UnaryOp"),
        (V2.replace("range(2, 6)", "range(6, 2)"), r"joins the nodes \[\]"),
        (V2.replace("range(2, 6)", "eval('2')"), "holds Call"),
        (V2.replace("range(2, 6)", "[i for i in [2]]"), "holds ListComp"),
        (V2.replace("range(2, 6)", "f'{2}'"), "holds JoinedStr"),
        (V2.replace("('max_pool_3x3', 0)", "('max_pool_3x3', True)"), "holds Constant"),
        (V2.replace("('max_pool_3x3', 0)", "('max_pool_3x3', 1.0)"), "holds Constant"),
        (V2.replace("('max_pool_3x3', 0)", "('max_pool_3x3', 9)"), "reads state 9; expected an earlier one"),
        (V2.replace("('max_pool_3x3', 0)", "('max_pool_3x3')"), "expected pairs of an operation and a number"),
        (V2.replace("max_pool_3x3", "../../x"), "String should match pattern"),
        (V2.replace("max_pool_3x3", "x" * 200), "String should match pattern"),
        (V2.replace(", ('dil_conv_3x3', 2)", ""), "has 7 edges for 4 nodes"),
        (V2.replace("reduce_concat", "reduce_concats"), "expected normal, normal_concat, reduce, reduce_concat"),
        (V2[:-1] + ", reduce=[])", "does not parse|each once"),
        (V2[:-1] + ", **{})", "each once"),
        (V2.replace("Genotype(", "Genotype(*x, "), "each once|holds Starred"),
        (V2[:200], "does not parse"),
        ("Genotype(" + "(" * 5000, "does not parse"),
        ("Genotype(" + "[" * 90000 + "]" * 90000 + ")", "does not parse"),
        ("Genotype(" + "-" * 9000 + "1)", "does not parse|arguments"),
        ("Genotype(normal=" + "-" * 9000 + "1)", "does not parse|arguments"),
        ("Genotype(" + "1," * 50000 + ")", "does not parse"),
        ("Genotype('\\ud800', \x00)", "does not parse"),
        ("Genotype(" * 300_000, "holds over 1,000 genotypes"),
        ("Genotype()", "has the arguments ; expected"),
    ],
)  # fmt: skip
def test_hostile_text_is_refused_in_one_line_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_genotype(write(tmp_path / "g.txt", text))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["g.txt"]


def test_an_unknown_operation_is_drawn_and_refused_with_the_known_ones_when_built(tmp_path: Path) -> None:
    genotype = load_genotype(write(tmp_path / "g.txt", V2.replace("max_pool_3x3", "conv_7x1_1x7")))
    assert isinstance(genotype, Genotype)
    assert draw(genotype, tmp_path / "graphs", formats=["dot"]).files
    with pytest.raises(InputError, match="unknown operation 'conv_7x1_1x7'"):
        build_fixed_network(genotype)


@pytest.mark.parametrize("section", ["a space that does not fit", "a space that fits"])
def test_a_published_genotype_is_trained(
    capsys: pytest.CaptureFixture, people: Path, tmp_path: Path, section: str
) -> None:
    config = {
        "name": "tiny",
        "data": {"name": "market1501", "root": str(people), "height": 32, "width": 16, "identities_per_batch": 4,
                 "images_per_identity": 4, "cache": str(tmp_path / "cache")},
        "retrain": {"epochs": 1, "warmup_epochs": 0, "channels": 4, "cells": 3},
        "trainer": {"accelerator": "cpu", "threads": 1},
    }  # fmt: skip
    config["search"] = {"space": "quality_cells" if section == "a space that fits" else "demo_cells"}
    Config.model_validate(config)
    job = write(tmp_path / "job.yaml", json.dumps(config))
    text = write(tmp_path / "log.txt", FORMS["log"])
    code, _, err = run_command(capsys, "retrain", job, "--genotype", text, "--out", tmp_path / "run")
    assert code == 0, err
    kept = load_genotype(tmp_path / "run" / "genotype.yaml")
    assert isinstance(kept, Genotype)
    assert str(choices_of(kept)["normal"]) == NORMAL
    assert kept.space.name == ("quality_cells" if section == "a space that fits" else "darts")
    code, _, err = run_command(capsys, "retrain", job, "--genotype", text, "--out", tmp_path / "run", "--resume")
    assert code == 0, err
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any("cells.2." in name for name in state)


def test_the_commands_draw_write_and_profile_it(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    text = write(tmp_path / "genotypes.py", f"{DECLARED}V1 = {OTHER}\nV2 = {V2}\n")
    line = refused(capsys, "visualize", text)
    assert "name one, such as" in line
    chosen = line.rpartition("such as ")[2]
    code, out, err = run_command(capsys, "visualize", chosen, "--out", tmp_path / "graphs", "--format", "darts,dot")
    assert code == 0, err
    assert sorted(Path(name).name for name in out.split()) == [
        "genotype.txt",
        "network.dot",
        "normal.dot",
        "reduce.dot",
    ]
    assert (tmp_path / "graphs" / "genotype.txt").read_text() == f"genotype = {V2}\n"
    assert (
        run_command(capsys, "visualize", f"{text}:V1", f"{text}:V2", "--out", tmp_path / "d", "--format", "dot")[0] == 0
    )
    profile = run_command(capsys, "profile", chosen, "--height", 32, "--width", 16, "--device", "cpu")
    assert profile[0] == 0, profile[2]


def test_what_the_text_cannot_hold_is_said_or_refused(tmp_path: Path) -> None:
    attended = CellKind().random_genotype(SPACE, SPACE.network(32, 16), np.random.default_rng(7), origin=Origin())
    cells = {kind: cell.model_copy(update={"attention": "dcs"}) for kind, cell in attended.cells.items()}
    drawing = draw(attended.model_copy(update={"cells": cells}), tmp_path, formats=["darts"])
    assert [file.name for file in drawing.files] == ["genotype.txt"]
    assert drawing.note == "genotype.txt omits the attention of the cells (normal: dcs, reduce: dcs)"
    with pytest.raises(InputError, match="but a difference has no text of DARTS"):
        draw_difference(attended, attended, tmp_path, formats=["darts"])
    flat = attended.model_copy(update={"cells": {"normal": attended.cells["normal"]}})
    with pytest.raises(InputError, match="this genotype has no reduce"):
        draw(flat, tmp_path, formats=["darts"])
