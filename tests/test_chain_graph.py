"""Drawings of chains: what stands in them, and every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx
import pytest

from dcs_nas.errors import InputError
from dcs_nas.models.chain_kind import chain_of_sample
from dcs_nas.report.chain_graph import box_width, chain_file
from dcs_nas.report.chain_picture import Line, chain_lines
from dcs_nas.report.graphs import FORMATS, draw, draw_difference, draw_strip
from dcs_nas.report.layered import SIZE
from dcs_nas.report.palette import theme
from dcs_nas.report.picture import Box
from dcs_nas.space import ChainGenotype, Origin
from tests.chains import chain_space, random_chain

STAGES: list[dict[str, Any]] = [
    {"blocks": 1, "widths": [4, 8], "expansions": [1]},
    {
        "blocks": 8,
        "stride": 2,
        "widths": [8, 12],
        "skip": True,
        "squeeze_excite": [False, True],
        "attention": ["none", "dcs"],
    },
]


def _genotype(**changes: Any) -> ChainGenotype:
    space = chain_space(STAGES)
    sample = {**random_chain(space, 0).to_sample(), "stage2_block1_kernel": 5, "stage2_block1_expansion": 6}
    sample |= {"stage2_block1_width": 12, "stage2_block1_squeeze_excite": True, "stage2_block2_depth": "skip"}
    sample |= {"stage2_attention": "dcs", **changes}
    return chain_of_sample(sample, space, space.network(32, 16), name="tiny", origin=Origin())


def _words(lines: list[Line]) -> list[tuple[str, ...]]:
    return [box.text() for line in lines for box in line.boxes]


def test_a_chain_has_a_line_for_each_stage_and_a_long_stage_several() -> None:
    lines = chain_lines(_genotype())
    assert [line.title for line in lines] == [(), ("stage 1", "16×8"), ("stage 2", "8×4"), (), ()]
    assert [len(line.boxes) for line in lines] == [2, 1, 6, 3, 1]


def test_blocks_say_what_was_chosen() -> None:
    words = _words(chain_lines(_genotype()))
    assert words[0] == ("image", "32×16")
    assert words[3] == ("5×5, e6", "width 12", "squeeze-excite")
    assert words[4] == ("skipped",)
    assert words[-2] == ("DCS", "attention")
    assert words[-1] == ("1×1", "24 features")


def test_a_difference_says_from_what_to_what() -> None:
    changes = {"stage2_block1_kernel": 7, "stage2_block1_width": 8, "stage2_block1_squeeze_excite": False}
    other = _genotype(**changes, stage2_block2_depth="keep", stage2_block2_kernel=3, stage2_attention="none")
    lines = chain_lines(_genotype(), other)
    boxes = [box for line in lines for box in line.boxes]
    assert boxes[3].rows == ("5×5 → 7×7, e6", "width 12 → 8", "− squeeze-excite")
    assert boxes[4].rows[:3] == ("skipped", "→", boxes[4].rows[2])
    assert boxes[4].rows[2].startswith("3×3, e")
    assert boxes[-2].rows == ("DCS → no", "attention")
    assert [box.change for box in boxes[3:5]] == ["changed", "changed"]
    assert {box.change for box in boxes[5:-2]} == {"kept"}


def test_a_chain_is_drawn_in_every_format(tmp_path: Path) -> None:
    formats = [form for form in FORMATS if form != "darts"]
    drawing = draw(_genotype(), tmp_path, formats=formats)
    assert [file.name for file in drawing.files] == [f"chain.{form}" for form in formats]
    with pytest.raises(InputError, match="this genotype is a chain; leave the format darts out"):
        draw(_genotype(), tmp_path, formats=FORMATS)
    assert all(file.stat().st_size > 500 for file in drawing.files)
    text = "".join(ElementTree.parse(tmp_path / "chain.svg").getroot().itertext())
    assert all(word in text for word in ("5×5, e6", "skipped", "DCS"))
    graph = networkx.read_graphml(tmp_path / "chain.graphml")
    assert graph.nodes["2.1"]["kernel"] == 5
    assert graph.nodes["2.attention"]["family"] == "attention"
    assert "cluster_2" in (tmp_path / "chain.dot").read_text()


def test_the_same_chain_gives_the_same_bytes_and_a_theme_others(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        draw(_genotype(), tmp_path / folder, formats=("svg",))
    draw(_genotype(), tmp_path / "dark", formats=("svg",), theme="dark")
    read = {folder: (tmp_path / folder / "chain.svg").read_bytes() for folder in ("a", "b", "dark")}
    assert read["a"] == read["b"] != read["dark"]


def test_differences_are_drawn_and_those_of_other_spaces_refused(tmp_path: Path) -> None:
    drawing = draw_difference(_genotype(), _genotype(stage2_attention="none"), tmp_path, formats=("svg",))
    assert [file.name for file in drawing.files] == ["difference_chain.svg"]
    with pytest.raises(InputError, match="a strip shows cells, and these genotypes are chains"):
        draw_strip([("epoch 1", _genotype())], tmp_path)  # type: ignore[list-item]
    with pytest.raises(InputError, match="the second belongs to space 'tiny' .*, not to 'tiny'"):
        draw_difference(_genotype(), random_chain(chain_space(), 0), tmp_path)


def _size(picture: bytes) -> tuple[float, float]:
    """Width and height of an svg in points."""
    root = ElementTree.fromstring(picture)
    return float(root.attrib["width"].removesuffix("pt")), float(root.attrib["height"].removesuffix("pt"))


def test_a_difference_has_wider_boxes_than_a_chain_and_its_legend_a_line_more() -> None:
    changes = {"stage2_block1_kernel": 7, "stage2_block1_expansion": 3, "stage2_block1_width": 8}
    one, other = _genotype(), _genotype(**changes)
    chain = _size(chain_file(one, theme("light"), "svg"))
    difference = _size(chain_file(one, theme("light"), "svg", other))
    assert difference[0] > chain[0] + 6 * 20
    assert difference[1] > chain[1]


def test_the_words_of_a_difference_fit_into_their_boxes() -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    for row in ("3×3 → 5×5, e1 → e3", "width 112 → 120", "+ squeeze-excite", "RGA spatial → no"):
        box = Box("op", "1.1", (row,), "separable", "changed")
        words = TextPath((0, 0), row, size=SIZE, prop=FontProperties(family="DejaVu Sans"))
        assert words.get_extents().width + 6 < box_width(box)
