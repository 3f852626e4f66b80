"""MSI spaces: YAML in, plain data out; the supernet against sums and the fixed network, costs against enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch

from dcs_nas.config import CostConfig, DataConfig, SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models.backbones.msinet import INTERACTIONS, MSMT_GENOTYPE, MSINet
from dcs_nas.models.build import build_cost, build_supernet
from dcs_nas.models.flops import count
from dcs_nas.models.msi_kind import MixedInteraction, MsiKind, MsiSupernet
from dcs_nas.models.relaxation import RELAXATIONS, Sample
from dcs_nas.models.supernet import one_hot
from dcs_nas.report.drawn_graph import make_difference_graph, make_drawing_graph
from dcs_nas.report.graphs import draw
from dcs_nas.space import MsiGenotype, MsiSpec, Origin, find_shipped_file, load_genotype, load_space
from dcs_nas.space.msi import LABELS
from tests.command_line import refused, run_command

NAMES = ("none", "ag", "cross_att", "exc")
PUBLISHED = Path("msinet_msmt")
TINY = "kind: msi\nchannels: [8, 64, 64, 64]\n"


def tiny(**changes: Any) -> MsiSpec:
    return MsiSpec(**{"name": "tiny", "channels": (8, 64, 64, 128), **changes})


def genotype_of(names: Any, space: MsiSpec | None = None) -> MsiGenotype:
    space = space or tiny()
    return MsiKind().genotype_of(dict(zip(LABELS, names)), space, space.network(32, 16), origin=Origin())


def random_genotype(seed: int) -> MsiGenotype:
    space = tiny()
    random = np.random.default_rng(seed)
    return MsiKind().random_genotype(space, space.network(32, 16), random, origin=Origin())


def supernet(**options: Any) -> MsiSupernet:
    """A supernet whose weights, shifts, gamma and running statistics are not those of a new one."""
    found = MsiSupernet(tiny(), tiny().network(32, 16), **options)
    with torch.no_grad():
        for parameter in found.weights():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found(torch.randn(4, 3, 32, 16))
    return found


def test_the_shipped_space_is_the_published_one() -> None:
    space = load_space(find_shipped_file("search_spaces", "msi"))
    assert isinstance(space, MsiSpec)
    assert space.channels == (64, 256, 384, 512)
    assert set(space.interactions) == set(INTERACTIONS)
    assert space.names() == {label: list(NAMES) for label in LABELS}


def test_the_published_genotype_is_that_of_the_backbone_and_counts_alike() -> None:
    genotype = load_genotype(PUBLISHED)
    assert isinstance(genotype, MsiGenotype)
    assert tuple(genotype.to_sample().values()) == MSMT_GENOTYPE
    assert genotype.space.hash == load_space(find_shipped_file("search_spaces", "msi")).hash  # type: ignore[attr-defined]
    trunk, backbone = count(MsiKind().build_fixed_network(genotype), 256, 128), count(MSINet(), 256, 128)
    halves = 128 * 384  # the 1x1 convolution of the backbone's second vector, on 16 x 8 places
    assert trunk.parameters == backbone.parameters - halves - 128
    assert trunk.macs == backbone.macs - halves * 16 * 8


def test_the_fixed_network_has_the_weights_and_the_map_of_the_published_one(
    golden: Callable[[str], dict[str, np.ndarray]],
) -> None:
    values = golden("msinet")
    space = MsiSpec(name="golden", channels=values["channels"].tolist())
    network = MsiKind().build_fixed_network(genotype_of(values["genotype"].tolist(), space)).eval()
    state = {name: torch.as_tensor(values[f"state/{name}"]) for name in network.state_dict()}
    network.load_state_dict(state)
    with torch.no_grad():
        found = network(torch.as_tensor(values["x"]))
    torch.testing.assert_close(found, torch.as_tensor(values["map_eval"]), rtol=1e-5, atol=1e-5)


def test_a_genotype_is_that_of_its_own_choices() -> None:
    genotype = random_genotype(0)
    found = MsiKind().genotype_of(genotype.to_sample(), tiny(), genotype.network, origin=genotype.origin)
    assert found == genotype


def test_a_genotype_file_is_read_back_equal(tmp_path: Path) -> None:
    genotype = random_genotype(1)
    (tmp_path / "genotype.yaml").write_text(genotype.to_yaml())
    assert load_genotype(tmp_path / "genotype.yaml") == genotype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("channels: [8, 66, 64, 64]", r"channels\[1\] is 66; expected a multiple of 4, at least 64"),
        ("channels: [8, 64, 64, 32]", r"channels\[3\] is 32; expected a multiple of 4, at least 64"),
        ("interactions: [ag, ag]", "interactions lists ag twice"),
        ("interactions: [gate]", "interactions"),
    ],
)
def test_a_bad_space_is_one_line(change: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(f"kind: msi\n{change}\n")
    with pytest.raises(InputError, match=message) as refusal:
        load_space(tmp_path / "bad.yaml")
    assert "\n" not in str(refusal.value)


def test_narrow_stages_are_fine_without_a_gate() -> None:
    assert tiny(channels=(8, 4, 8, 12), interactions=("none", "exc")).hash != tiny().hash


def test_a_genotype_outside_its_space_is_refused(tmp_path: Path) -> None:
    text = genotype_of(["exc"] * 12, tiny(interactions=("none", "exc"))).to_yaml()
    (tmp_path / "bad.yaml").write_text(text.replace("[exc, exc]", "[exc, ag]", 1))
    with pytest.raises(InputError, match="cell1, end: interaction 'ag' is not in its space; known: none, exc"):
        load_genotype(tmp_path / "bad.yaml")


def test_images_too_small_for_three_stages_are_refused() -> None:
    with pytest.raises(InputError, match="network of space 'tiny': width.*16"):
        tiny().network(32, 8)


@pytest.mark.parametrize("size", [(32, 16), (51, 18), (256, 128)])
def test_the_sizes_of_the_stages_are_those_of_the_maps(size: tuple[int, int]) -> None:
    trunk = MsiKind().build_fixed_network(genotype_of(["none"] * 12)).eval()
    seen: list[tuple[int, int]] = []
    for n in (1, 4, 7):
        trunk.cells[n].register_forward_hook(lambda _m, _i, y: seen.append(tuple(y.shape[2:])))
    trunk(torch.zeros(1, 3, *size))
    assert seen == tiny().network(*size).sizes()


def test_a_mixed_interaction_is_the_weighted_sum_of_its_candidates() -> None:
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    mixed = MixedInteraction(16, names=NAMES, draw=lambda: Sample(weights))
    with torch.no_grad():
        mixed.candidates["cross_att"].gamma.fill_(0.5)  # type: ignore[union-attr, operator]
    a, b = torch.randn(2, 16, 4, 3), torch.randn(2, 16, 4, 3)
    first, second = torch.zeros_like(a), torch.zeros_like(b)
    for weight, name in zip(weights[0], NAMES):
        one, two = mixed.candidates[name](a, b)
        first, second = first + weight * one, second + weight * two
    found = mixed(a, b)
    torch.testing.assert_close(found[0], first)
    torch.testing.assert_close(found[1], second)


@pytest.mark.parametrize("seed", range(3))
def test_the_fixed_network_equals_the_supernet_with_one_hot_weights(seed: int) -> None:
    torch.manual_seed(seed)
    mixed, genotype = supernet(), random_genotype(seed)
    fixed = MsiKind().build_fixed_network(genotype)
    fixed.load_state_dict(mixed.inherit_state(genotype))
    images = torch.randn(4, 3, 32, 16)
    with mixed.fix_to(genotype):
        for training in (True, False):
            torch.testing.assert_close(
                mixed.train(training)(images), fixed.train(training)(images), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("kind", list(RELAXATIONS))
def test_every_relaxation_searches_and_moves_every_alpha(kind: str) -> None:
    search = SearchConfig.model_validate(
        {"strategy": "bilevel", "space": "tiny", "relaxation": {"kind": kind, "temperature": 5.0}}
    )
    network = build_supernet(tiny(), search, DataConfig(height=32, width=16), 5)
    for _ in range(8 if kind == "gumbel" else 1):  # which computes one candidate in each pass
        network(torch.randn(4, 3, 32, 16)).features.square().sum().backward()
    assert isinstance(network.backbone, MsiSupernet)
    for label, alpha in network.backbone.alphas().items():
        assert alpha.grad is not None, label
        assert float(alpha.grad.abs().sum()) > 0, label


def test_alphas_are_stored_once_and_a_copy_has_its_own() -> None:
    import copy

    mixed = supernet()
    stored = [name for name in mixed.state_dict() if "alpha" in name]
    assert stored == [f"mixtures.{label}.alpha" for label in LABELS]
    twin = copy.deepcopy(mixed).eval()
    images = torch.randn(2, 3, 32, 16)
    before = mixed.eval()(images)
    with torch.no_grad():
        for alpha in twin.alphas().values():
            alpha += torch.tensor([3.0, 0.0, 0.0, -3.0])
    assert torch.equal(mixed(images), before)
    assert not torch.allclose(twin(images), before)


def test_the_expected_cost_is_that_of_all_networks_by_probability() -> None:
    """Of two places of different stages, all four networks; the other places are one-hot."""
    names = ("ag", "cross_att")
    space = tiny(interactions=names)
    draws = {label: torch.rand(1, 2, dtype=torch.float64) for label in ("cell2_end", "cell5_middle")}
    free = {label: row / row.sum() for label, row in draws.items()}
    kept = genotype_of(["ag", "cross_att"] * 6, space)
    expected = {"flops": 0.0, "parameters": 0.0}
    for pair in itertools.product(names, repeat=2):
        chosen = {**kept.to_sample(), **dict(zip(free, pair))}
        found = count(MsiKind().build_fixed_network(genotype_of(chosen.values(), space)), 32, 16)
        probability = np.prod([float(row[0, names.index(name)]) for row, name in zip(free.values(), pair)])
        expected["flops"] += probability * found.macs
        expected["parameters"] += probability * found.parameters
    mixed = MsiSupernet(space, space.network(32, 16))
    for kind, value in expected.items():
        cost = build_cost(CostConfig.model_validate({"kind": kind, "target": 1}), mixed)
        assert cost is not None
        assert float(cost({**one_hot(kept), **free})) == pytest.approx(value, rel=1e-9)


def test_the_expected_cost_has_the_gradient_of_each_candidate() -> None:
    genotype = genotype_of(["none"] * 12)
    weights = {label: row.requires_grad_() for label, row in one_hot(genotype).items()}
    supernet().cost("parameters")(weights).backward()
    middle = 64 // 4
    assert weights["cell1_middle"].grad is not None
    assert weights["cell1_middle"].grad[0].tolist() == [0, 2 * middle * (middle // 16) + middle // 16 + middle, 1, 0]


def test_derivation_takes_the_strongest_and_of_equal_ones_the_first() -> None:
    weights = {label: torch.full((1, 4), 0.25) for label in LABELS}
    weights["cell3_end"] = torch.tensor([[0.1, 0.2, 0.4, 0.3]])
    found = MsiKind().derive(weights, tiny(), tiny().network(32, 16), origin=Origin())
    assert found.to_sample() == {label: "cross_att" if label == "cell3_end" else "none" for label in LABELS}


def test_entropies_are_logged_by_place() -> None:
    figures = {label: float(n) for n, label in enumerate(LABELS)}
    assert tiny().group(figures) == {"middle": 5.0, "end": 6.0}


def test_the_graph_has_both_branches_of_every_cell() -> None:
    genotype = load_genotype(PUBLISHED)
    graph = genotype.graph()
    assert networkx.is_directed_acyclic_graph(graph)
    for cell in range(1, 7):
        assert set(graph.predecessors(f"{cell}.middle")) == {f"{cell}.a1", f"{cell}.b1"}
        assert set(graph.successors(f"{cell}.middle")) == {f"{cell}.a2", f"{cell}.b2"}
        assert set(graph.predecessors(f"{cell}.end")) == {f"{cell}.a2", f"{cell}.b2"}
    labels = [graph.nodes[f"{cell}.{place}"]["label"] for cell in range(1, 7) for place in ("middle", "end")]
    assert tuple(labels) == MSMT_GENOTYPE
    assert list(graph.predecessors("1.sum")) == ["1.end", "stem"]
    assert graph.number_of_edges("1.end", "1.sum") == 2
    assert {d["branch"] for _, d in make_drawing_graph(graph).nodes(data=True)} == {"a", "b", ""}
    with pytest.raises(InputError, match="no part 'chain'; it has msi"):
        genotype.graph("chain")


def test_a_difference_shows_the_interactions_that_changed() -> None:
    a = genotype_of(["ag"] * 12)
    b = genotype_of(["ag", "exc", *["ag"] * 10])
    nodes = dict(make_difference_graph(a.graph(), b.graph()).nodes(data=True))
    assert nodes["1.end"]["text"] == "channel gate → exchange"
    assert {key for key, data in nodes.items() if data["change"] == "changed"} == {"1.end"}


@pytest.mark.parametrize("program", ["dot", "none"])
def test_the_branches_are_drawn_side_by_side(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if program == "none":
        monkeypatch.setattr("shutil.which", lambda *_: None)
    drawing = draw(load_genotype(PUBLISHED), tmp_path, formats=("svg", "png", "graphml"))
    assert {file.name for file in drawing.files} == {"msi.svg", "msi.png", "msi.graphml"}
    assert bool(drawing.note) == (program == "none")
    text = (tmp_path / "msi.svg").read_text()
    assert text.count("cross attention") >= 3 or program == "none"
    assert len(networkx.read_graphml(tmp_path / "msi.graphml")) == 6 * 7 + 5


def test_settings_and_strategies_of_cells_are_refused_in_one_line(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = ["-o", f"search.space={tmp_path / 'tiny.yaml'}", "-o", f"data.root={people}"]
    for setting in ("search.relaxation.partial_channels=4", "search.derivation=perturbation", "search.channels=8"):
        said = refused(capsys, "search", "demo_chain", "--out", tmp_path / "run", *words, "-o", setting)
        assert "is for spaces of cells, and this one is of kind msi" in said
    for strategy in ("nni.random", "nni.evolution"):
        options = ["-o", f"search.strategy={strategy}", "-o", "search.cost={kind: none}"]
        options += ["-o", "data.identities_per_batch=2"]
        said = refused(capsys, "search", "demo_chain", "--out", tmp_path / "run", *words, *options)
        assert f"strategy {strategy} is for spaces of cells, and this one is of kind msi" in said


def test_an_msi_space_is_searched_trained_scored_drawn_and_reported(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """By twin memories and little overlap, with the weights of the search and the head of stripes."""

    def run(*words: object) -> str:
        code, out, err = run_command(capsys, *words)
        assert code == 0, err
        return out

    (tmp_path / "tiny.yaml").write_text(TINY)
    job, search, trained = tmp_path / "job.yaml", tmp_path / "search", tmp_path / "trained"
    job.write_text(
        "name: msi\n"
        f"data: {{name: market1501, root: {people}, height: 32, width: 16,\n"
        "  identities_per_batch: 3, images_per_identity: 2}\n"
        "trainer: {accelerator: cpu, threads: 1}\n"
        f"search: {{strategy: bilevel, space: {tmp_path / 'tiny.yaml'}, epochs: 1, identity_overlap: 0.4,\n"
        "  memory: {levels: both, update: each}, cost: {kind: flops, target: 1e5},\n"
        "  guard: {eigenvalue_iterations: 0, gap: false}}\n"
        "retrain: {epochs: 1, warmup_epochs: 0, head: {parts: 2, parts_channels: 8, parts_from: cells.5}}\n"
    )
    run("search", job, "--out", search)
    genotype = load_genotype(search / "genotype.yaml")
    assert isinstance(genotype, MsiGenotype)
    run("retrain", job, "-o", f"retrain.inherit={search}", "--genotype", search / "genotype.yaml", "--out", trained)
    run("evaluate", trained)
    run("visualize", search, "--out", tmp_path / "graphs", "--format", "svg")
    run("profile", search / "genotype.yaml", "--rounds", 0)
    run("report", search, trained, "--out", tmp_path / "report.html")
    assert "choices of the msi" in (tmp_path / "report.html").read_text()
