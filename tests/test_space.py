"""Search spaces and genotypes: YAML in, plain data out, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dcs_nas.errors import InputError
from dcs_nas.space import Genotype, SpaceReference, SpaceSpec, find_shipped_file, load_genotype, read_space, thirds
from tests.chains import chain_space, random_chain
from tests.run_folders import genotypes

SPACE = {"name": "tiny", "cells": 3, "channels": 4, "nodes": 2, "operations": ["none", "skip_connect", "dcs"]}


def _space(**changes: Any) -> SpaceSpec:
    return SpaceSpec(**{**SPACE, "attention": ["none", "rga"], **changes})


def _genotype(space: SpaceSpec | None = None) -> Genotype:
    space = space or _space()
    nodes = [[{"op": "dcs", "from": 0}, {"op": "skip_connect", "from": 1}]] * 2
    cells = {"normal": {"nodes": nodes, "attention": "rga"}, "reduce": {"nodes": nodes}}
    return Genotype(space=SpaceReference.of(space, space.name), network=space.network(32, 16), cells=cells)


def _write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("name", ["demo_cells", "attention_cells"])
def test_shipped_spaces_are_read_by_name(name: str) -> None:
    space = read_space(find_shipped_file("search_spaces", name))
    assert space.name == name
    assert {"dcs", "harmonious", "rga"} <= set(space.attention)


def test_a_genotype_survives_the_way_through_yaml(tmp_path: Path) -> None:
    genotype = _genotype()
    assert load_genotype(_write(tmp_path / "g.yaml", genotype.to_yaml())) == genotype


def test_a_genotype_is_read_from_the_record_of_an_epoch(tmp_path: Path) -> None:
    genotype = _genotype()
    record = {"epoch": 3, "genotype": genotype.model_dump(mode="json", by_alias=True)}
    assert load_genotype(_write(tmp_path / "epoch_003.yaml", record)) == genotype


def test_the_sample_uses_the_labels_of_nni() -> None:
    sample = _genotype().to_sample()
    assert sample["normal/op_2_0"] == "dcs"
    assert sample["reduce/input_3_1"] == [1]
    assert sample["normal_attention"] == "rga"
    assert len(sample) == 2 * (2 * 2 * 2 + 1)


def test_the_graph_has_inputs_nodes_attention_and_output() -> None:
    graph = _genotype().graph("normal")
    assert [n for n, d in graph.nodes(data=True) if d["role"] == "input"] == ["c_{k-2}", "c_{k-1}"]
    assert graph.nodes["attention"]["label"] == "rga"
    assert graph["c_{k-2}"]["0"][0]["op"] == "dcs"
    assert list(graph.successors("attention")) == ["c_{k}"]
    assert "attention" not in _genotype().graph("reduce")
    with pytest.raises(InputError, match="no part 'odd'; it has normal, reduce"):
        _genotype().graph("odd")


def test_the_hash_changes_with_what_a_genotype_depends_on_and_with_nothing_else() -> None:
    assert _space().hash == _space(name="other", channels=64, cells=9, stem="stride4").hash
    assert _space().hash != _space(nodes=3).hash
    assert _space().hash != _space(attention=["none"]).hash
    assert _space().hash == _space(max_nodes=None).hash != _space(max_nodes=64).hash
    assert "max_nodes" not in _genotype().to_yaml()


def test_a_genotype_of_another_space_is_refused() -> None:
    other = _space(name="other", nodes=3)
    with pytest.raises(InputError, match=r"g\.yaml belongs to space 'tiny' .* not to 'other'"):
        _genotype().require_space(other, source="g.yaml")
    _genotype().require_space(_space(name="same"), source="g.yaml")


def test_another_depth_has_its_reductions_at_thirds_or_at_their_shares() -> None:
    (genotype,) = genotypes(1)
    network = genotype.network.model_copy(update={"cells": 8, "reductions": thirds(8)})
    published = genotype.model_copy(update={"network": network})
    for cells in (2, 3, 8, 20):
        assert published.resize(32, 16, cells=cells).network.reductions == thirds(cells)
    other = genotype.model_copy(update={"network": network.model_copy(update={"reductions": (1, 4)})})
    assert other.resize(32, 16, cells=16).network.reductions == (2, 8)


def test_two_cells_without_a_reduction_have_none_at_another_depth() -> None:
    (genotype,) = genotypes(1)
    network = genotype.network.model_copy(update={"cells": 2, "reductions": ()})
    shallow = genotype.model_copy(update={"network": network, "cells": {"normal": genotype.cells["normal"]}})
    assert shallow.resize(32, 16, cells=8).network.reductions == ()


def test_a_size_that_no_file_of_the_genotype_may_have_is_refused() -> None:
    sizes = {"osnet_ain": (16, "height: .* 32, found 16"), "msinet_msmt": (8, "height: .* 16, found 8")}
    for name, (side, message) in sizes.items():
        with pytest.raises(InputError, match=f"at another size: {message}"):
            load_genotype(find_shipped_file("genotypes", name)).resize(side, side)
    with pytest.raises(InputError, match="the attention of this genotype would have at least"):
        random_chain(chain_space(), 0).resize(2048, 1024)


def test_reductions_stand_at_thirds_unless_they_are_given() -> None:
    assert thirds(8) == (2, 5)
    assert thirds(20) == (6, 13)
    assert _space(cells=8).network(64, 32).reductions == (2, 5)
    assert _space(reductions=[1]).network(64, 32).reductions == (1,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodse": 4}, "unknown key 'nodse'; did you mean nodes?"),
        ({"operations": ["a", "a"]}, "operations lists a twice"),
        ({"operations": ["none"]}, "'none' alone"),
        ({"nodes": 0}, "nodes: Input should be greater than or equal to 1, found 0"),
        ({"kind": "chian"}, "unknown kind of search space 'chian'"),
        ({"channels": 10**9}, "channels: Input should be less than"),
    ],
)
def test_a_bad_space_is_one_clear_line(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_space(_write(tmp_path / "space.yaml", {**SPACE, **change}))
    assert "\n" not in str(error.value)


def _broken(change: Any) -> dict:
    data = yaml.safe_load(_genotype().to_yaml())
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "format 99, this version reads up to 1; update dcs_nas"),
        (lambda d: d.pop("format"), "no 'format' number"),
        (lambda d: d["cells"].pop("reduce"), "cells of kind reduce are missing"),
        (lambda d: d["cells"]["normal"]["nodes"][0][0].update(op="conv"), "'conv' is not in its space; known: none"),
        (
            lambda d: d["cells"]["normal"]["nodes"][0][0].update({"from": 2}),
            "node 0 reads state 2; expected an earlier",
        ),
        (lambda d: d["cells"]["normal"]["nodes"].pop(), "has 1 nodes; expected 2"),
        (lambda d: d["cells"]["normal"].update(attention="dcs"), "attention 'dcs' is not in its space"),
        (lambda d: d["space"].update(hash="0" * 12), "does not fit the space beside it"),
        (lambda d: d["network"].update(cells=10**6), "less than or equal to 100"),
        (lambda d: d.update(colour="red"), "unknown key 'colour'"),
    ],
)
def test_a_bad_genotype_is_one_clear_line(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_genotype(_write(tmp_path / "g.yaml", _broken(change)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML in line"),
        ("a: &x 1\nb: *x", "aliases"),
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("- 1", "holds a list, expected a mapping"),
        ("", "holds nothing"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_yaml_that_is_no_plain_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_genotype(_write(tmp_path / "g.yaml", text))
