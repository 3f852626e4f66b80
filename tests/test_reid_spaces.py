"""The spaces of Re-ID papers: DCS-DNAS's units that share a width, with windows of channels; OSNet-AIN's placements."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from dcs_nas.config import SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.blocks import WindowAttention
from dcs_nas.models.chain_kind import ChainKind, ChainSupernet
from dcs_nas.models.chain_space import ChainSpace, build_fixed_chain
from dcs_nas.models.flops import count
from dcs_nas.models.osnet_kind import OSNetKind, OSNetSupernet
from dcs_nas.models.relaxation import Gumbel, GumbelSoftmax, Softmax
from dcs_nas.models.space_kinds import kind_of
from dcs_nas.models.supernet import Supernet, one_hot
from dcs_nas.report.drawn_graph import make_drawing_graph
from dcs_nas.report.graphs import draw, draw_difference
from dcs_nas.space import (
    AnyGenotype,
    ChainGenotype,
    ChainSpec,
    Origin,
    OSNetGenotype,
    OSNetSpace,
    find_shipped_file,
    load_genotype,
    load_space,
)
from dcs_nas.space.architectures import architectures
from dcs_nas.space.architectures import count as count_architectures
from tests.chains import chain_space, random_chain, random_weights

FIXED = {"blocks": 1, "widths": [8], "kernels": [3], "expansions": [1], "activation": "relu", "shortcut": True}
UNIT = {"kernels": [3], "expansions": [6], "shared_width": True, "attention": ["dcs_window"]}
UNITS: list[dict[str, Any]] = [
    FIXED,
    {**UNIT, "blocks": 3, "stride": 2, "widths": [4, 8, 12]},
    {**UNIT, "blocks": 2, "widths": [8, 12], "attention": ["none"], "shortcut": True},
]
TINY = OSNetSpace(name="tiny", channels=(8, 64, 64, 64), features=16)
CODES = {"dcs_dnas_3x": [1, 3, 12, 21, 12], "dcs_dnas_6x": [1, 3, 24, 12, 24, 6, 24]}


def _units(**changes: Any) -> ChainSpec:
    return chain_space(UNITS, head_expansion=6, activation="hswish", **changes)


def _shaken(supernet: Supernet) -> Supernet:
    """A supernet with weights and running statistics that are not those of a new one."""
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if not name.endswith("window"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    supernet(torch.randn(4, 3, 32, 32))
    return supernet


def _check_equal(supernet: Supernet, genotype: AnyGenotype) -> None:
    fixed = kind_of(genotype).build_fixed_network(genotype)
    missing, unexpected = fixed.load_state_dict(supernet.inherit_state(genotype), strict=False)
    assert not unexpected
    assert all(name.endswith((".weight", ".bias")) for name in missing)
    images = torch.randn(4, 3, 32, 32)
    with supernet.fix_to(genotype):
        for mode in (nn.Module.train, nn.Module.eval):
            mode(supernet)
            mode(fixed)
            torch.testing.assert_close(supernet(images), fixed(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(2))
def test_units_of_one_width_with_windows_equal_their_fixed_network(seed: int) -> None:
    torch.manual_seed(seed)
    space = _units()
    supernet = _shaken(ChainSupernet(space, space.network(32, 32)))
    assert isinstance(supernet, ChainSupernet)
    with torch.no_grad():
        supernet.alphas()["stage2_window"].copy_(torch.tensor([9.3, -4.6]))
    genotype = random_chain(space, seed, height=32, width=32)
    _check_equal(supernet, genotype)
    completed = supernet.complete(genotype)
    width = genotype.stages[1].width
    start, length = completed.stages[1].window
    assert start == pytest.approx(9.3 % width, abs=1e-5)
    assert length == pytest.approx(7.4 * width / 12, abs=1e-5)
    assert completed.stages[2].window is None
    _check_equal(supernet, completed)
    fixed = build_fixed_chain(completed)
    assert [m.fixed for m in fixed.modules() if isinstance(m, WindowAttention)] == [completed.stages[1].window]
    assert not [name for name, _ in fixed.named_parameters() if name.endswith("window")]


def test_a_window_is_learned_by_the_architecture_step_and_no_weight() -> None:
    supernet = ChainSupernet(_units(), _units().network(32, 32))
    window = supernet.alphas()["stage2_window"]
    assert id(window) not in {id(weight) for weight in supernet.weights()}
    _shaken(supernet)
    out = supernet(torch.randn(4, 3, 32, 32))
    (out * torch.randn_like(out)).sum().backward()
    assert window.grad is not None
    assert window.grad.abs().min() > 0


def test_a_unit_has_one_choice_of_width_in_nni_too() -> None:
    space = _units()
    labels = [choice.label for choice in space.choices()]
    assert labels == ["stage2_width", "stage3_width"]
    assert set(ChainSpace(space, space.network(32, 32)).simplify()) == set(labels)
    assert space.group(dict.fromkeys(labels, 2.0)) == {"width": 2.0}
    texts = architectures(space, 32, 32)
    assert len(texts) == count_architectures(space, 32, 32) == 3 * 2
    assert texts[0] == "k3e1w8+none|k3e6w12&k3e6w12&k3e6w12+dcs_window|k3e6w12&k3e6w12+none"


@pytest.mark.parametrize("stages", [UNITS[:2], [FIXED, {**UNITS[1], "expansions": [1, 4], "skip": True}]])
def test_the_expected_cost_of_units_is_that_of_all_networks_by_probability(stages: list[dict[str, Any]]) -> None:
    space = chain_space([{**stage, "blocks": min(stage["blocks"], 2)} for stage in stages], head_expansion=6)
    network = space.network(16, 8)
    supernet, weights = ChainSupernet(space, network), random_weights(space, 3, torch.float64)
    choices, found, costs = list(space.choices()), {"flops": 0.0, "parameters": 0.0}, {}
    for picked in itertools.product(*(choice.options for choice in choices)):
        sample = {choice.label: option for choice, option in zip(choices, picked)}
        genotype = ChainKind().genotype_of(sample, space, network, origin=Origin())
        key = genotype.model_dump_json()
        if key not in costs:
            costs[key] = count(build_fixed_chain(genotype), 16, 8)
        rows = ((weights[c.label][0, c.options.index(option)]) for c, option in zip(choices, picked))
        probability = float(np.prod([float(row) for row in rows]))
        found["flops"] += probability * costs[key].macs
        found["parameters"] += probability * costs[key].parameters
    for kind in ("flops", "parameters"):
        assert float(supernet.compute_expected_cost(kind, weights)) == pytest.approx(found[kind], rel=1e-12)


@pytest.mark.parametrize("supernet", ["chain", "osnet"])
def test_activations_computed_again_give_the_same_gradients(supernet: str) -> None:
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        if supernet == "chain":
            made: Supernet = ChainSupernet(_units(), _units().network(32, 32), checkpoint=checkpoint)
        else:
            made = OSNetSupernet(TINY, TINY.network(32, 32), relaxation=GumbelSoftmax(), checkpoint=checkpoint)
        torch.manual_seed(1)
        made(torch.randn(4, 3, 32, 32)).square().sum().backward()
        found = {name: parameter.grad for name, parameter in made.named_parameters() if parameter.grad is not None}
        gradients.append((found, {name: buffer for name, buffer in made.named_buffers() if "running" in name}))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_shared_width_is_checked_in_a_genotype(tmp_path: Path) -> None:
    for change, message in (
        (lambda s: s[1]["blocks"][1].update(width=8), "stage 2: widths are 4, 8, expected one: its blocks share"),
        (
            lambda s: s[1].update(window=[4, 2]),
            "stage 2: window starts at 4 with length 2; expected a start",
        ),
        (lambda s: s[2].update(window=[0, 2]), "stage 3: a window is given with attention 'none'; expected dcs_window"),
    ):
        sample = {"stage2_width": 4, "stage3_width": 8}
        genotype = ChainKind().genotype_of(sample, _units(), _units().network(32, 32), origin=Origin())
        data = yaml.safe_load(genotype.to_yaml())
        change(data["stages"])
        (tmp_path / "g.yaml").write_text(yaml.safe_dump(data))
        with pytest.raises(InputError, match=message):
            load_genotype(tmp_path / "g.yaml")
    with pytest.raises(ValueError, match="shortcut is true, but stride is 2; a shortcut needs stride 1: leave one out"):
        chain_space([{**FIXED, "stride": 2}])


def test_new_keys_of_chains_change_no_file_and_no_hash_where_they_are_not_used() -> None:
    assert load_space(find_shipped_file("search_spaces", "dcs_dnas")).hash == "e1a0bea37521"
    assert load_space(find_shipped_file("search_spaces", "demo_chain")).hash == "43c4cca352e8"
    text = random_chain(chain_space(), 0).to_yaml()
    assert not any(key in text for key in ("shared_width", "shortcut", "head_expansion", "window"))


@pytest.mark.parametrize("name", CODES)
def test_the_published_networks_of_dcs_dnas_are_of_their_spaces_and_ship(name: str) -> None:
    space, genotype = load_space(find_shipped_file("search_spaces", name)), load_genotype(Path(name))
    assert isinstance(space, ChainSpec)
    assert isinstance(genotype, ChainGenotype)
    genotype.require_space(space, source=name)
    assert [stage.blocks for stage in space.stages] == CODES[name]
    assert [stage.attention for stage in genotype.stages].count("dcs_window") == 4
    with torch.device("meta"):
        network = build_fixed_chain(genotype)
        assert network(torch.empty(2, 3, 384, 128)).shape == (2, 1984, 1, 1)
        if name == "dcs_dnas_3x":
            supernet = ChainSupernet(space, space.network(384, 128)).eval()
            assert supernet(torch.empty(2, 3, 384, 128)).shape == (2, 1984, 1, 1)
    assert sum(b.numel() for n, b in network.named_parameters()) == _published_parameters(genotype)


def _published_parameters(genotype: ChainGenotype) -> int:
    """Weights of the published network by hand; its convolutions in front of batch norms have no bias here."""
    total, before = 27 * 16 + 2 * 16, 16
    for stage in genotype.stages:
        for block in stage.blocks:
            hidden = block.expansion * before
            total += 0 if block.expansion == 1 else before * hidden + 2 * hidden
            total += 9 * hidden + 2 * hidden + hidden * block.width + 2 * block.width
            before = block.width
        total += 9 * before + 2 * before if stage.attention != "none" else 0
    hidden = 6 * before
    return total + before * hidden + 2 * hidden + hidden * 1984 + 1984


@pytest.mark.parametrize("seed", range(2))
def test_osnet_with_one_hot_placements_equals_its_fixed_network(seed: int) -> None:
    torch.manual_seed(seed)
    network = TINY.network(32, 32)
    supernet = _shaken(OSNetSupernet(TINY, network, relaxation=GumbelSoftmax()))
    genotype = OSNetKind().random_genotype(TINY, network, np.random.default_rng(seed), origin=Origin())
    _check_equal(supernet, genotype)


@pytest.mark.parametrize("relaxation", [GumbelSoftmax, Softmax, Gumbel])
def test_training_moves_every_placement(relaxation: type[Softmax]) -> None:
    supernet = OSNetSupernet(TINY, TINY.network(32, 32), relaxation=relaxation())
    supernet(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(alpha.grad.abs().sum() > 0 for alpha in supernet.alphas().values())
    assert not [name for name, _ in supernet.named_parameters() if ".bn." in name or ".IN" in name]


def test_the_expected_cost_of_osnet_is_that_of_all_networks_by_probability() -> None:
    space = OSNetSpace(name="tiny", channels=(8, 64, 64, 64), features=16, placements=("none", "both"))
    network = space.network(64, 32)
    supernet = OSNetSupernet(space, network, relaxation=Softmax())
    generator = torch.Generator().manual_seed(0)
    weights = {n: torch.rand(1, 2, generator=generator, dtype=torch.float64) for n in supernet.mixtures}
    weights = {n: row / row.sum() for n, row in weights.items()}
    # All but two of the blocks are certain: four networks.
    for name in list(weights)[2:]:
        weights[name] = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    expected = {"flops": 0.0, "parameters": 0.0}
    for a, b in itertools.product(range(2), range(2)):
        places = [space.placements[i] for i in (a, b, 1, 1, 1, 1)]
        sample = dict(zip(weights, places))
        genotype = OSNetKind().genotype_of(sample, space, network, origin=Origin())
        cost = count(OSNetKind().build_fixed_network(genotype), 64, 32)
        first, second, *_ = weights.values()
        expected["flops"] += float(first[0, a] * second[0, b]) * cost.macs
        expected["parameters"] += float(first[0, a] * second[0, b]) * cost.parameters
        if a == b == 0:
            hot = one_hot(genotype)
            assert int(supernet.cost("parameters")(hot)) == cost.parameters
            assert int(supernet.cost("flops")(hot)) == cost.macs
    for kind in ("flops", "parameters"):
        assert float(supernet.cost(kind)(weights)) == pytest.approx(expected[kind], rel=1e-12)


def test_the_published_placement_is_the_backbone_osnet_ain() -> None:
    genotype = load_genotype(Path("osnet_ain"))
    assert isinstance(genotype, OSNetGenotype)
    genotype.require_space(load_space(find_shipped_file("search_spaces", "osnet_ain")), source="it")
    torch.manual_seed(0)
    network, backbone = OSNetKind().build_fixed_network(genotype), BACKBONES["osnet_ain_x1_0"](height=64, width=32)
    network.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(network.eval()(images), backbone.eval()(images), rtol=0, atol=0)


def test_both_norms_are_before_and_after_the_shortcut() -> None:
    genotype = OSNetKind().genotype_of(
        {f"stage{s}_block{b}": "both" for s in (1, 2, 3) for b in (1, 2)}, TINY, TINY.network(32, 32), origin=Origin()
    )
    block = OSNetKind().build_fixed_network(genotype).conv2[0]
    x = torch.randn(2, 8, 4, 4)
    y = block.conv1(x)
    streams = sum(block.gate(getattr(block, f"conv2{s}")(y)) for s in "abcd")
    expected = block.IN_out(block.IN_in(block.conv3.conv(streams)) + block.downsample(x)).relu()
    torch.testing.assert_close(block(x), expected)


def test_searches_build_the_supernets_and_bad_osnet_spaces_are_one_clear_line(tmp_path: Path) -> None:
    search = SearchConfig(strategy="bilevel", space="tiny", checkpoint_activations=True)
    assert isinstance(kind_of(TINY).supernet(TINY, TINY.network(32, 32), search), OSNetSupernet)
    assert kind_of(_units()).supernet(_units(), _units().network(32, 32), search).stages[1].checkpoint
    with pytest.raises(InputError, match="network of space 'tiny': width: .* 32, found 16"):
        TINY.network(64, 16)
    for change, message in (
        ("channels: [8, 64, 64, 66]", "channels are 8, 64, 64, 66; expected a stem"),
        ("placements: [none, none]", "placements lists none twice"),
        ("placements: [above]", "placements.0: Input should be 'none', 'inside', 'after' or 'both'"),
    ):
        (tmp_path / "s.yaml").write_text(f"kind: osnet\n{change}\n")
        with pytest.raises(InputError, match=message):
            load_space(tmp_path / "s.yaml")


def test_the_units_and_the_searched_network_of_dcs_dnas_are_those_of_its_code() -> None:
    """Statistical-Deep-Learning/DCS-Attention at 73573cd: the supernet, then da_fbnetv2_3x with its windows."""
    space = load_space(find_shipped_file("search_spaces", "dcs_dnas_3x"))
    units = [stage for stage in space.stages if "dcs_window" in stage.attention]
    widths = [[16, 20, 24, 28], list(range(16, 41, 8)), list(range(80, 129, 8)), list(range(120, 217, 8))]
    assert [(unit.blocks, list(unit.widths), unit.stride) for unit in units] == list(
        zip((3, 12, 21, 12), widths, (2, 2, 2, 1), strict=True)
    )
    assert all((unit.kernels, unit.expansions, unit.shared_width) == ((3,), (6,), True) for unit in units)
    found = [stage for stage in load_genotype(Path("dcs_dnas_3x")).stages if stage.attention == "dcs_window"]
    assert [stage.blocks[0].width for stage in found] == [24, 32, 112, 216]
    starts, lengths = (2.497, 10.354, 50.129, 39.979), (18.239, 20.147, 57.233, 156.327)
    assert [stage.window for stage in found] == list(zip(starts, lengths, strict=True))


@pytest.mark.parametrize("name", ["dcs_dnas_3x", "dcs_dnas_6x", "msinet_msmt", "osnet_ain"])
def test_every_published_genotype_is_drawn_whole(name: str, tmp_path: Path) -> None:
    genotype = load_genotype(Path(name))
    drawing = draw(genotype, tmp_path, formats=("svg",))
    assert len(drawing.files) == len(genotype.parts)
    for part, file in zip(genotype.parts, drawing.files, strict=True):
        text, nodes = file.read_text(), make_drawing_graph(genotype.graph(part)).nodes(data=True)
        assert all(line in text for _, data in nodes for line in data["text"].split("\n")), part


def test_the_pictures_say_where_windows_and_instance_norms_are(tmp_path: Path) -> None:
    words = {k: d["text"] for k, d in make_drawing_graph(load_genotype(Path("dcs_dnas_3x")).graph()).nodes(data=True)}
    assert words["2.attention_dcs_window"] == "DCS\nwindow\nattention\nfrom 2.5, 18.2 long"
    published = load_genotype(Path("osnet_ain"))
    graph = make_drawing_graph(published.graph())
    assert [d["text"] for _, d in graph.nodes(data=True)][2:4] == ["OSNet block\nIN inside"] * 2
    assert graph.nodes["3.1"]["size"] == "16×8"
    other = published.model_copy(update={"placements": ("after", *published.placements[1:])})
    draw(published, tmp_path, formats=("svg", "graphml"))
    drawing = draw_difference(published, other, tmp_path, formats=("svg",))
    assert [file.name for file in drawing.files] == ["difference_osnet.svg"]
    assert "where a block has instance norms" in (tmp_path / "osnet.svg").read_text()
    assert "inside → after" in drawing.files[0].read_text()
