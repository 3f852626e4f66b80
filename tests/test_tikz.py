"""Genotypes as LaTeX: a document that needs TikZ alone, with every box and every wire of the drawing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import networkx
import pytest

from dcs_nas.report import graphs
from dcs_nas.report.drawn_graph import make_drawing_graph
from dcs_nas.report.palette import get_theme
from dcs_nas.report.tikz import make_tikz
from tests.chains import chain_space, random_chain
from tests.command_line import run_command
from tests.run_folders import genotypes

KINDS = ["normal", "network", "chain"]


def _graph(kind: str) -> networkx.MultiDiGraph:
    genotype = random_chain(chain_space(), 0) if kind == "chain" else genotypes(1)[0]
    graph = genotype.overview() if kind == "network" else genotype.graph(kind)
    assert graph is not None
    return make_drawing_graph(graph)


@pytest.mark.parametrize("with_dot", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_box_and_wire_is_in_the_picture(kind: str, with_dot: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_dot:
        monkeypatch.setattr("dcs_nas.report.tikz.shutil.which", lambda _name: None)
    elif shutil.which("dot") is None:
        pytest.skip("Graphviz' dot is not on this machine")
    graph = _graph(kind)
    text = make_tikz(graph, get_theme("light"))
    boxes = re.findall(r"\\node\[draw=.*?\] \(([^)]*)\) at \(([-\d.]+),([-\d.]+)\) \{(.*)\};", text)
    wires = re.findall(r"\\draw\[.*?\] \(([^)]*)\) .*? \(([^)]*)\);", text)
    assert len({name for name, *_ in boxes}) == len(graph)
    assert len({(x, y) for _, x, y, _ in boxes}) == len(graph)
    assert len(wires) == graph.number_of_edges()
    assert {end for wire in wires for end in wire} <= {name for name, *_ in boxes}
    used = set(re.findall(r"\bnas[a-z]{2}\b", text.split(r"\noindent")[1]))
    assert used == set(re.findall(r"\\definecolor\{(nas[a-z]{2})\}", text))
    assert re.findall(r"\\usepackage(?:\[.*?\])?\{(.*?)\}", text.split("\n", 1)[1]) == ["inputenc", "tikz"]
    for environment in ("document", "tikzpicture"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    plain = re.sub(r"\\[\\{}%&#$_]", "", text)
    assert plain.count("{") == plain.count("}")
    assert text.isascii()


@pytest.mark.parametrize("kind", KINDS)
def test_latex_compiles_it(kind: str, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not on this machine")
    (tmp_path / "cell.tex").write_text(make_tikz(_graph(kind), get_theme("light")))
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "cell.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "cell.pdf").stat().st_size > 1000


def test_the_command_writes_a_file_for_each_part(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    genotype = genotypes(1)[0]
    (tmp_path / "genotype.yaml").write_text(genotype.to_yaml())
    words = ["visualize", tmp_path / "genotype.yaml", "--format", "tikz", "--out", tmp_path / "tex"]
    assert run_command(capsys, *words)[0] == 0
    assert sorted(path.name for path in (tmp_path / "tex").iterdir()) == ["network.tex", "normal.tex", "reduce.tex"]
    a, b = genotypes(2)
    (drawn, *_) = graphs.draw_difference(a, b, tmp_path, formats=["tikz"]).files
    assert "dashed" in drawn.read_text()
