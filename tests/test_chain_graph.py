"""Drawings of chains: what stands in them, and every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx
import pytest

from dcs_nas.errors import InputError
from dcs_nas.models.chain_kind import ChainKind
from dcs_nas.report.drawn_graph import list_stages, make_difference_graph, make_drawing_graph
from dcs_nas.report.graphs import FORMATS, draw, draw_difference, draw_strip
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
        "attention": ["none", "dcs", "rga"],
    },
]


def _genotype(**changes: Any) -> ChainGenotype:
    space = chain_space(STAGES)
    sample = {**random_chain(space, 0).to_sample(), "stage2_block1_kernel": 5, "stage2_block1_expansion": 6}
    sample |= {"stage2_block1_width": 12, "stage2_block1_squeeze_excite": True, "stage2_block2_depth": "skip"}
    sample |= {"stage2_attention": "dcs", **changes}
    return ChainKind().genotype_of(sample, space, space.network(32, 16), origin=Origin())


def test_blocks_say_what_was_chosen_and_stages_the_size_of_their_maps() -> None:
    graph = make_drawing_graph(_genotype().graph())
    words = {key: data["text"] for key, data in graph.nodes(data=True)}
    assert list_stages(graph) == {1: "stage 1\n16×8", 2: "stage 2\n8×4"}
    assert words["image"] == "image\n32×16"
    assert words["2.1"] == "5×5, e6\nwidth 12\nSE"
    assert words["2.2"] == "skipped"
    assert words["2.attention_dcs"] == "DCS\nattention"
    assert words["features"] == "features\nwidth 24"


def test_a_difference_says_from_what_to_what() -> None:
    changes = {"stage2_block1_kernel": 7, "stage2_block1_width": 8, "stage2_block1_squeeze_excite": False}
    other = _genotype(**changes, stage2_block2_depth="keep", stage2_block2_kernel=3, stage2_attention="rga")
    nodes = dict(make_difference_graph(_genotype().graph(), other.graph()).nodes(data=True))
    assert nodes["2.1"]["text"] == "5×5 → 7×7, e6\nwidth 12 → 8\n− SE"
    assert nodes["2.2"]["text"].startswith("skipped\n→\n3×3, e")
    assert nodes["2.attention_dcs"]["text"] == "− DCS\nattention"
    assert nodes["2.attention_rga"]["text"] == "+ RGA\nattention"
    assert {key: data["change"] for key, data in nodes.items() if data["stage"]} == {
        "1.1": "kept",
        "2.1": "changed",
        "2.2": "changed",
        **{f"2.{k}": "kept" for k in range(3, 9)},
        "2.attention_dcs": "removed",
        "2.attention_rga": "added",
    }


def test_a_chain_is_drawn_in_every_format(tmp_path: Path) -> None:
    formats = [form for form in FORMATS if form != "darts"]
    drawing = draw(_genotype(), tmp_path, formats=formats)
    assert [file.name for file in drawing.files] == [f"chain.{form.replace('tikz', 'tex')}" for form in formats]
    with pytest.raises(InputError, match="this genotype is a chain; leave the format darts out"):
        draw(_genotype(), tmp_path, formats=FORMATS)
    assert all(file.stat().st_size > 500 for file in drawing.files)
    text = "".join(ElementTree.parse(tmp_path / "chain.svg").getroot().itertext())
    assert all(word in text for word in ("5×5, e6", "skipped", "DCS", "stage 2", "8×4"))
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
    other = _genotype(stage2_attention="none", stage2_block1_kernel=7)
    drawing = draw_difference(_genotype(), other, tmp_path, formats=("svg", "graphml"))
    assert [file.name for file in drawing.files] == ["difference_chain.svg", "difference_chain.graphml"]
    assert "filled: changed from the first to the second" in (tmp_path / "difference_chain.svg").read_text()
    graph = networkx.read_graphml(tmp_path / "difference_chain.graphml")
    assert graph.nodes["2.1"]["change"] == "changed"
    with pytest.raises(InputError, match="these genotypes are chains, expected cells for a strip"):
        draw_strip([("epoch 1", _genotype())], tmp_path)
    with pytest.raises(InputError, match="the second belongs to space 'tiny' .*, not to 'tiny'"):
        draw_difference(_genotype(), random_chain(chain_space(), 0), tmp_path)
