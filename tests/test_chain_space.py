"""Chain spaces and their genotypes: YAML in, plain data out, NNI's space, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dcs_nas.config import DataConfig, SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models.build import build_supernet
from dcs_nas.models.chain_kind import ChainKind
from dcs_nas.models.chain_space import ChainSpace, build_fixed_chain
from dcs_nas.space import (
    ChainGenotype,
    ChainSpec,
    Origin,
    find_shipped_file,
    load_genotype,
    load_space,
    read_space,
)
from dcs_nas.space.chain import chain_relations
from tests.chains import STAGES, chain_space, random_chain, random_weights


def _write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def _file(**changes: Any) -> dict[str, Any]:
    return {"kind": "chain", "stem": 8, "features": 24, "stages": STAGES, **changes}


@pytest.mark.parametrize("name", ["dcs_dnas", "demo_chain"])
def test_shipped_chain_spaces_are_read_by_name(name: str) -> None:
    space = load_space(find_shipped_file("search_spaces", name))
    assert isinstance(space, ChainSpec)
    assert space.name == name
    assert any("dcs" in stage.attention for stage in space.stages)


def test_the_published_layout_has_its_numbers_of_candidates() -> None:
    space = load_space(find_shipped_file("search_spaces", "dcs_dnas"))
    assert isinstance(space, ChainSpec)
    assert [stage.blocks for stage in space.stages] == [1, 3, 3, 3, 4, 4]
    assert [len(stage.widths) for stage in space.stages] == [2, 4, 4, 7, 8, 14]
    assert [max(stage.widths) for stage in space.stages] == [16, 28, 40, 96, 128, 216]


def test_a_chain_genotype_survives_the_way_through_yaml(tmp_path: Path) -> None:
    for seed in range(5):
        genotype = random_chain(chain_space(), seed)
        assert load_genotype(_write(tmp_path / "g.yaml", genotype.to_yaml())) == genotype


def test_a_chain_genotype_is_read_from_the_record_of_an_epoch(tmp_path: Path) -> None:
    genotype = random_chain(chain_space(), 0)
    record = {"epoch": 3, "genotype": genotype.model_dump(mode="json", by_alias=True)}
    assert load_genotype(_write(tmp_path / "epoch_003.yaml", record)) == genotype


def test_a_chain_is_refused_where_cells_are_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.yaml is a chain space, expected one of cells"):
        read_space(_write(tmp_path / "c.yaml", _file()))
    assert load_space(find_shipped_file("search_spaces", "demo_cells")).kind == "cells"


def test_the_sample_has_the_labels_of_nni_and_every_choice_once() -> None:
    space = chain_space()
    declared = set(ChainSpace(space, space.network(32, 16)).simplify())
    assert declared == {choice.label for choice in space.choices()}
    assert declared <= set(random_chain(space, 0).to_sample())


def test_a_sample_of_nni_is_a_genotype_and_back() -> None:
    space = chain_space()
    network = space.network(32, 16)
    for _ in range(3):
        sample: dict[str, Any] = {}
        ChainSpace(space, network).random(memo=sample)
        plain = {str(label): value for label, value in sample.items()}
        genotype = ChainKind().genotype_of(plain, space, network, origin=Origin())
        again = ChainKind().genotype_of(genotype.to_sample(), space, network, origin=Origin())
        assert again == genotype
        kept = sum(len(stage.blocks) for stage in genotype.stages)
        assert kept == 6 - list(plain.values()).count("skip")


def test_the_frozen_network_has_the_chosen_sizes() -> None:
    space = chain_space()
    genotype = random_chain(space, 2)
    network = build_fixed_chain(genotype)
    assert network(torch.zeros(2, 3, 32, 16)).shape == (2, 24, 8, 4)
    for blocks, stage in zip(network.stages, genotype.stages):
        for module, block in zip(blocks, stage.slots()):
            if block is None:
                assert isinstance(module, torch.nn.Identity)
            else:
                assert module.project.conv.out_channels == block.width
                assert module.depthwise.conv.kernel_size == (block.kernel, block.kernel)
                assert (module.expand is None) == (block.expansion == 1)
                assert (module.excite is not None) == block.squeeze_excite


def test_the_strongest_candidates_are_derived_and_of_equal_ones_the_first() -> None:
    space = chain_space()
    weights = {label: torch.zeros_like(row) for label, row in random_weights(space, 0).items()}
    weights["stage2_block1_kernel"][0, 2] = 1
    weights["stage2_block3_depth"][0, 1] = 1
    weights["stage2_attention"][0, 1] = 1
    found = ChainKind().derive(weights, space, space.network(32, 16), origin=Origin())
    assert found.stages[1].blocks[0].model_dump() == {
        "kernel": 7,
        "expansion": 1,
        "width": 8,
        "squeeze_excite": False,
    }
    assert found.stages[1].skipped == (3,)
    assert found.stages[1].attention == "dcs"


def test_figures_of_many_choices_become_means_by_what_is_chosen() -> None:
    figures = {choice.label: float(len(choice.options)) for choice in chain_space().choices()}
    grouped = chain_space().group(figures)
    assert set(grouped) == {"kernel", "expansion", "width", "squeeze_excite", "depth", "attention"}
    assert grouped["squeeze_excite"] == 2.0
    assert grouped["attention"] == (5 + 2) / 2


def test_the_graph_is_a_chain_of_all_blocks() -> None:
    genotype = random_chain(chain_space(), 1)
    graph = genotype.graph()
    roles = [data["role"] for _, data in graph.nodes(data=True)]
    assert roles.count("block") + roles.count("skipped") == 6
    assert roles.count("skipped") == sum(len(stage.skipped) for stage in genotype.stages)
    assert graph.number_of_edges() == graph.number_of_nodes() - 1


def test_the_hash_changes_with_the_chain_and_with_nothing_else() -> None:
    assert chain_space().hash == chain_space(name="other").hash
    assert chain_space().hash != chain_space(stem=16).hash
    assert chain_space().hash != chain_space(STAGES[:2]).hash
    with pytest.raises(InputError, match="file belongs to space 'tiny' .* not to 'other'"):
        random_chain(chain_space(), 0).require_space(chain_space(name="other", stem=16), source="file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stmes": 4}, "unknown key 'stmes'; did you mean stages?"),
        ({"kind": "chian"}, "unknown kind of search space 'chian'; did you mean chain?"),
        ({"stages": []}, "stages: Tuple should have at least 1 item"),
        ({"stages": [{"blocks": 1, "widths": [8, 4]}]}, "widths are 8, 4; expected rising"),
        ({"stages": [{"blocks": 1, "widths": [8, 8]}]}, "widths lists 8 twice"),
        ({"stages": [{"blocks": 1, "widths": [8], "kernels": [4]}]}, "kernels.0: Input should be 3, 5 or 7, found 4"),
        ({"stages": [{"blocks": 1, "widths": [8], "skip": True}]}, "the first block of a stage always stays"),
        ({"stages": [{"blocks": 10**9, "widths": [8]}]}, "blocks: Input should be less than or equal to 32"),
        ({"stages": [{"blocks": 32, "widths": [2048], "expansions": [8]}]}, "expected at most 1,000,000,000; take"),
    ],
)
def test_a_bad_chain_space_is_one_clear_line(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as error:
        load_space(_write(tmp_path / "space.yaml", _file(**change)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "format 99, this version reads up to 1; update dcs_nas"),
        (lambda d: d["stages"].pop(), "found 2 stages; expected 3"),
        (
            lambda d: d["stages"][0]["blocks"].append(dict(d["stages"][0]["blocks"][0])),
            "stage 1 has 2 blocks, .* expected 1",
        ),
        (lambda d: d["stages"][0]["blocks"][0].update(width=5), "stage 1, block 1: width 5 is not in its space"),
        (lambda d: d["stages"][0].update(attention="dcs"), "stage 1: attention 'dcs' is not in its space; known: none"),
        (
            lambda d: d["stages"][2].update(blocks=d["stages"][2]["blocks"][:1], skipped=[2]),
            r"stage 3: skipped is \[2\]",
        ),
        (lambda d: d["space"].update(stem=16), "does not fit the space beside it"),
        (lambda d: d.update(colour="red"), "unknown key 'colour'"),
        (lambda d: d["network"].update(height=0), "network.height: Input should be greater"),
    ],
)
def test_a_bad_chain_genotype_is_one_clear_line(tmp_path: Path, change: Any, message: str) -> None:
    data = yaml.safe_load(random_chain(chain_space(), 0).to_yaml())
    change(data)
    with pytest.raises(InputError, match=message) as error:
        load_genotype(_write(tmp_path / "g.yaml", data))
    assert "\n" not in str(error.value)


def test_a_chain_genotype_is_plain_data() -> None:
    genotype = random_chain(chain_space(), 0)
    assert ChainGenotype.model_validate(yaml.safe_load(genotype.to_yaml())) == genotype


def test_relations_of_positions_are_counted_on_the_map_of_each_stage() -> None:
    stage = {"blocks": 1, "stride": 2, "widths": [8], "attention": ["rga"]}
    space = chain_space([stage, stage])
    network = build_fixed_chain(random_chain(space, 0, height=64, width=32))
    built = sum(p.numel() for name, p in network.named_parameters() if name.endswith("spatial.relations.weight"))
    assert built == chain_relations(space, 64, 32) == 2 * (16 * 128 + 4 * 32)


def test_a_chain_without_a_choice_is_not_searched() -> None:
    stage = {"blocks": 1, "widths": [8], "kernels": [3], "expansions": [2]}
    search = SearchConfig(strategy="bilevel", space="tiny")
    with pytest.raises(InputError, match="space 'tiny' leaves nothing to choose"):
        build_supernet(chain_space([stage]), search, DataConfig(root=Path()), 4)
