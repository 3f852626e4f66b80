"""Drawings of genotypes: palette, layout, files, differences, strips."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib
import networkx
import numpy as np
import pytest
from PIL import Image, ImageFont

from dcs_nas.errors import InputError
from dcs_nas.report import dot, graphs, palette
from dcs_nas.report.dot import to_dot
from dcs_nas.report.drawn_graph import make_difference_graph, make_drawing_graph
from dcs_nas.report.plain import draw_plain
from dcs_nas.space import CellGenotype, CellStructure, Edge, Genotype, NetworkSpec, SpaceReference, read_space

OPERATIONS = (
    *("none", "skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3"),
    *("dil_conv_5x5", "dcs", "rga_spatial", "squeeze_excite_conv"),
)
ATTENTION = ("none", "dcs", "harmonious", "rga", "rga_channel", "my_gate")
Nodes = list[list[tuple[str, int]]]
SOME: Nodes = [[("sep_conv_3x3", 0), ("dcs", 1)], [("skip_connect", 2), ("dil_conv_3x3", 0)]]
OTHER: Nodes = [[("sep_conv_5x5", 0), ("dcs", 1)], [("skip_connect", 2), ("dil_conv_3x3", 1)]]

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz' dot is not on this machine")


def genotype(nodes: Nodes, attention: str = "none", *, space: str = "small") -> Genotype:
    structure = CellStructure(
        nodes=len(nodes), edges_per_node=len(nodes[0]), operations=OPERATIONS, attention=ATTENTION
    )
    cell = CellGenotype(
        nodes=tuple(tuple(Edge.model_validate({"op": op, "from": source}) for op, source in edges) for edges in nodes),
        attention=attention,
    )
    network = NetworkSpec(channels=8, cells=5, reductions=(1, 3), height=64, width=32)
    return Genotype(space=SpaceReference.of(structure, space), network=network, cells={"normal": cell, "reduce": cell})


def random_nodes(count: int, rng: random.Random) -> Nodes:
    return [[(rng.choice(OPERATIONS), s) for s in rng.sample(range(i + 2), 2)] for i in range(count)]


# --- palette


@pytest.mark.parametrize("space", ["demo_cells", "attention_cells"])
def test_every_shipped_operation_and_attention_has_a_family_of_its_own(space: str) -> None:
    spec = read_space(Path(__file__).parents[1] / "search_spaces" / f"{space}.yaml")
    families = {op: palette.get_family(op) for op in spec.operations + spec.attention}
    assert "custom" not in families.values()
    assert {op for op, name in families.items() if name == "attention"} == set(families) & {
        *("dcs", "harmonious", "rga", "rga_spatial", "rga_channel")
    }


def test_a_users_operation_is_custom_and_keeps_its_name() -> None:
    assert palette.get_family("sep_conv_3x3_mine") == "custom"
    assert "".join(palette.split_label("squeeze_excite_conv")) == "squeeze_excite_conv"
    assert "".join(palette.split_label("x" * 100)) == "x" * 100
    assert max(map(len, palette.split_label("x" * 100))) <= 12


def luminance(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2.1's contrast ratio."""
    low, high = sorted(float(luminance(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", palette.THEMES)
def test_text_has_the_contrast_that_wcag_asks_for(name: str) -> None:
    theme = palette.get_theme(name)
    for paint in [theme.state, *theme.families.values(), *theme.changes.values()]:
        assert contrast(paint.text, paint.fill) >= 4.5
    assert contrast(theme.text, theme.ground) >= 7
    assert contrast(theme.wire, theme.ground) >= 3


# Machado, Oliveira, Fernandes (2009), severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(colour: str, vision: str) -> np.ndarray:
    """CIELAB (D65) of a colour as it is seen."""
    rgb = np.clip(np.array(VISION[vision]) @ luminance(colour), 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    f = np.cbrt(np.array(to_xyz) @ rgb / [0.9505, 1.0, 1.089] + 1e-9)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("name", palette.THEMES)
def test_families_and_changes_look_different_to_everyone(name: str, vision: str) -> None:
    theme = palette.get_theme(name)
    for group in (theme.families, theme.changes):
        for a, b in itertools.combinations(group.values(), 2):
            fill = np.linalg.norm(lab(a.fill, vision) - lab(b.fill, vision))
            line = np.linalg.norm(lab(a.line, vision) - lab(b.line, vision))
            assert max(fill, line) > 15, (a, b)


# --- what is drawn


@pytest.mark.parametrize("seed", range(6))
def test_every_operation_is_a_box_between_its_source_and_its_node(seed: int) -> None:
    rng = random.Random(seed)
    cell = genotype(random_nodes(rng.choice((1, 3, 4, 7)), rng), rng.choice(ATTENTION))
    graph = make_drawing_graph(cell.graph("normal"))
    states = ["c_{k-2}", "c_{k-1}", *(str(i) for i in range(len(cell.cells["normal"].nodes)))]
    found = [
        (source, data["label"], head)
        for key, data in graph.nodes(data=True)
        if data["role"] == "op"
        for source in graph.predecessors(key)
        for head in graph.successors(key)
    ]
    expected = [
        (states[edge.source], edge.op, str(i)) for i, node in enumerate(cell.cells["normal"].nodes) for edge in node
    ]
    assert sorted(found) == sorted(expected)
    assert networkx.is_directed_acyclic_graph(graph)


# --- files


@needs_dot
def test_every_format_is_written_whole_and_can_be_read(tmp_path: Path) -> None:
    drawing = graphs.draw(genotype(SOME, "rga"), tmp_path, formats=graphs.FORMATS)
    names = {
        f"{kind}.{form.replace('tikz', 'tex')}"
        for kind in ("normal", "reduce", "network")
        for form in graphs.FORMATS
        if form != "darts"
    }
    names.add("genotype.txt")
    assert {path.name for path in tmp_path.iterdir()} == names == {path.name for path in drawing.files}
    assert drawing.note.startswith("genotype.txt omits the attention")
    svg = ElementTree.parse(tmp_path / "normal.svg").getroot()
    words = {"sep conv", "3×3", "RGA", "attention", "concat"}
    assert words <= {"".join(t.itertext()) for t in svg.iter() if "text" in t.tag}
    assert float(svg.attrib["width"].removesuffix("pt")) < 800
    assert "Bold" not in (tmp_path / "normal.svg").read_text()
    with Image.open(tmp_path / "normal.png") as image:
        assert image.width >= 800
    assert (tmp_path / "normal.pdf").read_bytes().startswith(b"%PDF")
    for path in tmp_path.glob("*.dot"):
        assert subprocess.run(["dot", "-Tcanon", path], capture_output=True).stderr == b""


def test_graphml_reads_back_as_the_genotypes_own_graph(tmp_path: Path) -> None:
    some = genotype(SOME, "rga")
    graphs.draw(some, tmp_path, formats=["graphml"])
    read, graph = networkx.read_graphml(tmp_path / "normal.graphml", force_multigraph=True), some.graph("normal")
    assert dict(read.nodes(data="role")) == dict(graph.nodes(data="role"))
    assert sorted(read.edges(data="op")) == sorted(graph.edges(data="op"))
    assert {data["family"] for *_, data in read.edges(data=True)} == {"", "separable", "attention", "skip", "dilated"}


def test_without_graphviz_matplotlib_draws_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dot.shutil, "which", lambda name: None)
    drawing = graphs.draw(genotype(SOME, "dcs"), tmp_path, formats=["svg", "png", "dot"], theme="dark")
    assert drawing.note == (
        "the drawings are plain ones by matplotlib, because Graphviz' dot is not installed (apt install graphviz)"
    )
    assert "skip" in (tmp_path / "normal.svg").read_text()
    with Image.open(tmp_path / "normal.png") as image:
        assert image.convert("RGB").getpixel((2, 2)) == tuple(bytes.fromhex(palette.get_theme("dark").ground[1:]))


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_matplotlib_writes_the_same_bytes_each_time(form: str) -> None:
    panels = [("epoch 1", make_drawing_graph(genotype(SOME).graph("normal")))]
    once, again = (draw_plain(panels, palette.get_theme("light"), form, columns=1) for _ in range(2))
    assert once == again


@needs_dot
@pytest.mark.parametrize("fonts", ["all", "none"])
def test_labels_are_centred_and_fit_in_the_widest_usual_font(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fonts: str
) -> None:
    if fonts == "none":
        (tmp_path / "fonts.conf").write_text("<fontconfig><dir>/nowhere</dir></fontconfig>")
        monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))
    graphs.draw(genotype(random_nodes(4, random.Random(1)), "rga_channel"), tmp_path, formats=("svg",))
    name = "{http://www.w3.org/2000/svg}"
    widest = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 130)
    boxes = 0
    for part in ("normal", "reduce", "network"):
        for node in ElementTree.parse(tmp_path / f"{part}.svg").iter(f"{name}g"):
            texts = list(node.iter(f"{name}text"))
            if node.get("class") != "node" or not texts:
                continue
            shapes = [part for kind in ("polygon", "path") for part in node.iter(name + kind)]
            if not shapes:
                continue  # the circle of a node's number
            outline = shapes[0].get("points", "") + shapes[0].get("d", "")
            xs = [float(x) for x in re.findall(r"(-?[\d.]+),-?[\d.]+", outline)]
            for text in texts:
                assert text.get("text-anchor") == "middle"
                assert float(text.get("x", 0)) == pytest.approx((min(xs) + max(xs)) / 2, abs=1)
                assert widest.getlength(text.text or "") / 10 < max(xs) - min(xs)
                boxes += 1
    assert boxes > 20


@needs_dot
def test_graphviz_writes_the_same_svg_each_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        graphs.draw(genotype(SOME, "rga"), tmp_path / folder, formats=["svg", "dot"])
    for name in ("normal.svg", "network.svg", "normal.dot"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_broken_dot_is_named_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "dot", stderr=b'There is no layout engine support for "dot"\nmore\n')

    monkeypatch.setattr(dot.shutil, "which", lambda name: "/usr/bin/dot")
    monkeypatch.setattr("graphviz.Digraph.pipe", broken)
    drawing = graphs.draw(genotype(SOME), tmp_path, formats=["svg"])
    assert drawing.note.startswith("the drawings are plain ones by matplotlib, because dot failed: ")
    assert drawing.note.endswith('There is no layout engine support for "dot"')
    assert len(drawing.files) == 3


def test_markup_in_a_name_is_text_and_nothing_else(tmp_path: Path) -> None:
    name = '<script>alert("&amp;\\")</script>$x$'
    own: networkx.MultiDiGraph = networkx.MultiDiGraph(name="a <b> & c", kind="cells")
    own.add_node("a", role="node", label=name)
    own.add_node("b", role="node", label="0")
    own.add_edge("a", "b", op="")
    drawn = [draw_plain([(name, make_drawing_graph(own))], palette.get_theme("light"), "svg", columns=1)]
    if shutil.which("dot"):
        drawn.append(to_dot(make_drawing_graph(own), palette.get_theme("light")).pipe(format="svg"))
    for content in drawn:
        root = ElementTree.fromstring(content)
        assert not [element for element in root.iter() if element.tag.endswith("script")]
        assert name in {"".join(element.itertext()).strip() for element in root.iter()}


def test_importing_it_loads_neither_torch_nor_a_plotting_library() -> None:
    code = "import sys, dcs_nas.report.graphs; print({'torch', 'matplotlib', 'graphviz'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"formats": ["jpg"]},
            "unknown format 'jpg' of a drawing; did you mean png? known: svg, png, pdf, dot, graphml",
        ),
        ({"formats": []}, "no format to draw in, expected at least one; known: svg, png, pdf, dot, graphml"),
        ({"theme": "drak"}, "unknown theme 'drak'; did you mean dark? known: light, dark"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        graphs.draw(genotype(SOME), tmp_path, **settings)
    assert str(error.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_the_network_is_drawn_as_runs_of_equal_cells() -> None:
    rows = [data["text"] for _, data in make_drawing_graph(genotype(SOME, "rga_channel").overview()).nodes(data=True)]
    assert rows[:4] == [
        "image\n64×32",
        "stem\nstride2",
        "normal\nwidth 8\n+ RGA channel",
        "reduce\nwidth 16\n+ RGA channel",
    ]
    assert rows[-2:] == ["normal\nwidth 32\n+ RGA channel", "head"]


# --- differences and strips


def test_a_difference_marks_what_came_what_went_and_what_stayed() -> None:
    a, b = genotype(SOME, "dcs"), genotype(OTHER, "rga")
    graph = make_difference_graph(a.graph("normal"), b.graph("normal"))
    nodes = dict(graph.nodes(data=True))
    changes = {(data["label"], data["change"]) for data in nodes.values() if data["role"] in ("op", "attention")}
    assert changes == {
        ("sep_conv_3x3", "removed"),
        ("sep_conv_5x5", "added"),
        ("dcs", "kept"),
        ("skip_connect", "kept"),
        ("dil_conv_3x3", "removed"),  # it reads another state now
        ("dil_conv_3x3", "added"),
        ("dcs", "removed"),
        ("rga", "added"),
    }
    edges = graph.edges(data="change")
    sources = {(tail, change) for tail, head, change in edges if nodes[head]["label"] == "dil_conv_3x3"}
    assert sources == {("c_{k-2}", "removed"), ("c_{k-1}", "added")}


def test_a_difference_does_not_rest_on_colour_alone(tmp_path: Path) -> None:
    drawing = graphs.draw_difference(genotype(SOME), genotype(OTHER, "dcs"), tmp_path, formats=["svg", "graphml"])
    assert {path.name for path in drawing.files} == {
        f"difference_{kind}.{form}" for kind in ("normal", "reduce") for form in ("svg", "graphml")
    }
    text = (tmp_path / "difference_normal.svg").read_text()
    assert all(words in text for words in ("+ DCS", "+ sep conv", "− sep conv", "stroke-dasharray"))
    graph = networkx.read_graphml(tmp_path / "difference_normal.graphml")
    assert {data["change"] for _, data in graph.nodes(data=True)} == {"", "kept", "removed", "added"}


def test_genotypes_of_different_spaces_are_not_compared(tmp_path: Path) -> None:
    three = genotype([*SOME, SOME[1]], space="larger")
    for compare in (
        lambda: graphs.draw_difference(genotype(SOME), three, tmp_path),
        lambda: graphs.draw_strip([("epoch 1", genotype(SOME)), ("epoch 2", three)], tmp_path),
    ):
        with pytest.raises(InputError, match="belongs to space 'larger'"):
            compare()


def test_epochs_without_a_change_share_a_panel_of_the_strip(tmp_path: Path) -> None:
    some, other = genotype(SOME, "dcs"), genotype(OTHER, "dcs")
    epochs = [("epoch 1", some), ("epoch 2", some), ("epoch 3", other)]
    drawing = graphs.draw_strip(epochs, tmp_path, formats=["svg", "png"])
    assert [path.name for path in drawing.files] == [
        "strip_normal.svg",
        "strip_normal.png",
        "strip_reduce.svg",
        "strip_reduce.png",
    ]
    text = (tmp_path / "strip_normal.svg").read_text()
    assert "epoch 1 – epoch 2" in text
    assert "epoch 3" in text
    assert text.count("+ sep conv") == text.count("+ dil conv") == 1
    assert "+ DCS" not in text


def test_a_strip_of_nothing_or_as_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no genotype, expected at least one"):
        graphs.draw_strip([], tmp_path)
    with pytest.raises(InputError, match="found the format graphml, but a strip is a figure; use svg, png, pdf"):
        graphs.draw_strip([("epoch 1", genotype(SOME))], tmp_path, formats=["graphml"])
