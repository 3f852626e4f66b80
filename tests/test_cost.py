"""Expected costs: exact for one-hot weights, a slow loop for soft ones; the cost term; latency tables."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.config import Config, CostConfig
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.losses import cost_term
from dcs_nas.models.build import build_cost
from dcs_nas.models.cell_costs import CellCosts, cell_parts
from dcs_nas.models.cell_kind import CellSupernet
from dcs_nas.models.cell_space import build_fixed_network
from dcs_nas.models.flops import count
from dcs_nas.models.latency import LatencyTable, Work, device_names, measure_latency, measure_table, resolve_device
from dcs_nas.models.supernet import Supernet, one_hot
from dcs_nas.settings import parse
from dcs_nas.space import CellStructure, Genotype, NetworkSpec, SpaceReference

OPERATIONS = ["none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_5x5", "dcs"]
ATTENTION = ["none", "dcs", "rga_spatial"]
NODES = 2
STRUCTURE = CellStructure(nodes=NODES, operations=OPERATIONS, attention=ATTENTION)
NETWORK = NetworkSpec(channels=4, cells=3, reductions=(1,), height=16, width=8)
EDGES = [(node, source) for node in range(NODES) for source in range(node + 2)]


@pytest.fixture(scope="module", autouse=True)
def _parts_are_made_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dcs_nas.models.cell_costs.cell_parts", functools.cache(cell_parts))
        yield


@pytest.fixture(scope="module")
def costs() -> CellCosts:
    return CellCosts(STRUCTURE, NETWORK)


def _genotype(seed: int, **fixed: Any) -> Genotype:
    """Random edges, "none" and repeated ones among them."""
    draws = torch.Generator().manual_seed(seed)

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=draws))

    cells = {
        kind: {
            "nodes": [
                [{"op": OPERATIONS[pick(len(OPERATIONS))], "from": pick(node + 2)} for _ in range(2)]
                for node in range(NODES)
            ],
            "attention": ATTENTION[pick(len(ATTENTION))],
        }
        for kind in ("normal", "reduce")
    }
    return Genotype(space=SpaceReference.of(STRUCTURE, "test"), network=NETWORK, cells={**cells, **fixed})


def _soft(seed: int = 0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    shapes = {"": (len(EDGES), len(OPERATIONS)), "_attention": (1, len(ATTENTION))}
    return {
        kind + part: torch.softmax(torch.randn(shape, generator=draws, dtype=torch.float64), -1)
        for kind in ("normal", "reduce")
        for part, shape in shapes.items()
    }


@pytest.mark.parametrize("seed", range(4))
def test_one_hot_weights_cost_what_the_fixed_network_costs(costs: CellCosts, seed: int) -> None:
    genotype = _genotype(seed)
    fixed = count(build_fixed_network(genotype), NETWORK.height, NETWORK.width)
    weights = one_hot(genotype)
    assert costs.compute_expected_cost("flops")(weights).item() == fixed.macs
    assert costs.compute_expected_cost("parameters")(weights).item() == fixed.parameters


def test_a_supernet_fixed_to_a_genotype_costs_what_its_network_costs() -> None:
    supernet, genotype = CellSupernet(STRUCTURE, NETWORK), _genotype(11)
    expected = build_cost(CostConfig(kind="flops", target=1.0), supernet)
    assert expected is not None
    with supernet.fix_to(genotype):
        weights = {name: mixture() for name, mixture in supernet.mixtures.items()}
    assert expected(weights).item() == count(build_fixed_network(genotype), NETWORK.height, NETWORK.width).macs


@pytest.mark.parametrize("kind", ["flops", "parameters"])
def test_the_plain_sum_is_that_of_a_loop_over_cells_edges_and_operations(costs: CellCosts, kind: str) -> None:
    weights = _soft()
    total = 0.0
    for part in costs.parts:
        cost = part.macs if kind == "flops" else part.parameters
        weight = 1.0 if part.weight is None else weights[part.weight[0]][part.weight[1:]].item()
        total += weight * cost
    base, tables = costs.tables(kind)  # type: ignore[arg-type]
    plain = base + sum((weights[name] * table).sum().item() for name, table in tables.items())
    assert plain == pytest.approx(total, rel=1e-12)


def test_soft_weights_cost_the_mean_over_all_derived_networks(costs: CellCosts) -> None:
    """Every pair of edges of a node is as likely as any other, every operation as likely as its weight."""
    base, tables = costs.tables("flops")
    weights = _soft()
    total = base
    for name, table in tables.items():
        for rows, kept in [(range(1), 1)] if "_" in name else [(range(2), 2), (range(2, 5), 2)]:
            pairs = list(itertools.combinations(rows, kept))
            for pair in pairs:
                for columns in itertools.product(range(table.shape[1]), repeat=kept):
                    chosen = list(zip(pair, columns))
                    probability = math.prod(weights[name][place].item() for place in chosen) / len(pairs)
                    total += probability * sum(table[place].item() for place in chosen)
    assert costs.compute_expected_cost("flops")(weights).item() == pytest.approx(total, rel=1e-12)


def test_edge_normalized_weights_cost_as_much_as_without_where_all_edges_are_alike() -> None:
    plain, normalized = (CellCosts(STRUCTURE, NETWORK, edge_normalized=edges) for edges in (False, True))
    weights = _soft()
    by_edge = {
        name: rows if "_" in name else rows / torch.tensor([2, 2, 3, 3, 3.0])[:, None] for name, rows in weights.items()
    }
    expected = plain.compute_expected_cost("flops")(weights).item()
    assert normalized.compute_expected_cost("flops")(by_edge).item() == pytest.approx(expected, rel=1e-12)
    edges = CellSupernet(STRUCTURE, NETWORK, edges=True)
    assert edges.part_costs().edge_normalized


def test_the_expected_cost_is_differentiable(costs: CellCosts) -> None:
    expected, names = costs.compute_expected_cost("flops"), list(_soft())

    def cost(*alphas: Tensor) -> Tensor:
        return expected({name: torch.softmax(a, -1) for name, a in zip(names, alphas)}) / 1e5

    alphas = [weights.log().requires_grad_() for weights in _soft().values()]
    assert torch.autograd.gradcheck(cost, alphas)


def test_extremes_are_those_of_all_networks() -> None:
    structure = CellStructure(nodes=1, operations=["none", "skip_connect", "sep_conv_3x3"], attention=["none", "dcs"])
    network = NetworkSpec(channels=2, cells=2, reductions=(1,), height=8, width=8)
    costs = CellCosts(structure, network)
    expected = costs.compute_expected_cost("flops")
    found = []
    for choice in itertools.product(structure.operations[1:], repeat=4):
        for attention in itertools.product(structure.attention, repeat=2):
            cells = {
                kind: {"nodes": [[{"op": choice[k], "from": 0}, {"op": choice[k + 1], "from": 1}]], "attention": a}
                for kind, k, a in zip(("normal", "reduce"), (0, 2), attention)
            }
            genotype = Genotype(space=SpaceReference.of(structure, "t"), network=network, cells=cells)
            found.append(expected(one_hot(genotype)).item())
    assert costs.extremes("flops") == (min(found), max(found))


def test_missing_weights_are_refused(costs: CellCosts) -> None:
    weights = _soft()
    del weights["reduce"]
    with pytest.raises(InputError, match="weights of mixture 'reduce' are missing; found: normal, normal_attention"):
        costs.compute_expected_cost("flops")(weights)


def test_costing_a_space_draws_nothing_from_the_random_generator() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert cell_parts(STRUCTURE, NETWORK)
    assert torch.equal(torch.get_rng_state(), before)


class Other(Supernet):
    """A supernet that knows its own costs."""

    def cost(self, kind: str) -> Callable[[Mapping[str, Tensor]], Tensor]:
        return lambda weights: weights["kernel"].sum() * (2 if kind == "flops" else 3)


def test_a_supernet_with_costs_of_its_own_is_asked_for_them() -> None:
    expected = build_cost(CostConfig(kind="parameters", target=1.0), Other())
    assert expected is not None
    assert expected({"kernel": torch.ones(4)}).item() == 12
    settings = CostConfig(kind="latency", target=1.0, latency_table=Path("t.yaml"))
    with pytest.raises(InputError, match="this one is of another kind; set search.cost.kind to flops or parameters"):
        build_cost(settings, Other())
    assert build_cost(CostConfig(), Other()) is None


# The cost term


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({"form": "additive", "weight": 3.0, "target": 40.0}, lambda loss, c: loss + 3 * max(0.0, c / 40 - 1)),
        ({"form": "multiplicative", "target": 40.0}, lambda loss, c: loss * (c / 40) ** 0.07),
        ({"form": "multiplicative", "target": 40.0, "beta": 0.5}, lambda loss, c: loss * math.sqrt(c / 40)),
        ({"form": "multiplicative", "weight": 0.2}, lambda loss, c: loss * 0.2 * math.log(c) ** 0.6),
        ({"form": "multiplicative", "weight": 0.2, "beta": 2.0}, lambda loss, c: loss * 0.2 * math.log(c) ** 2),
        ({"form": "logarithmic", "weight": 0.2}, lambda loss, c: loss * 0.2 * math.log(c**0.5)),
        ({"form": "logarithmic", "beta": 2.0}, lambda loss, c: loss * math.log(c**2)),
    ],
)
@pytest.mark.parametrize("cost", [10.0, 50.0, 1e4])
def test_the_cost_term_is_the_published_one(
    settings: dict[str, Any], total: Callable[[float, float], float], cost: float
) -> None:
    loss = torch.tensor(1.7, dtype=torch.float64)
    term = cost_term(loss, torch.tensor(cost, dtype=torch.float64), **settings)
    assert (loss + term).item() == pytest.approx(total(1.7, cost), rel=1e-12)
    given = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.7, 1.0)]
    assert torch.autograd.gradcheck(lambda a, b: a + cost_term(a, cost * b, **settings), given)


def test_nothing_pulls_at_the_target_and_below_and_w_over_t_above() -> None:
    gradients = []
    for value in (30.0, 40.0, 41.0):
        cost = torch.tensor(value, requires_grad=True)
        cost_term(torch.tensor(1.0), cost, form="additive", weight=2.0, target=40.0).backward()
        gradients.append(cost.grad.item())  # type: ignore[union-attr]
    assert gradients == pytest.approx([0, 0, 2 / 40])


def test_the_term_has_the_type_of_the_loss() -> None:
    cost = torch.tensor(5.0, dtype=torch.float64)
    for form, target in (("additive", 2.0), ("multiplicative", None)):
        assert cost_term(torch.tensor(1.0), cost, form=form, target=target).dtype == torch.float32  # type: ignore[arg-type]


def test_what_a_cost_term_cannot_handle_is_refused() -> None:
    loss, cost = torch.tensor(1.0), torch.tensor(5.0)
    with pytest.raises(InputError, match="target=None and beta=None; expected a target, no beta"):
        cost_term(loss, cost, form="additive")
    with pytest.raises(InputError, match="unknown form 'max'"):
        cost_term(loss, cost, form="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a logarithmic cost term has target=4"):
        cost_term(loss, cost, form="logarithmic", target=4)
    with pytest.raises(TrainingError, match="the loss is -1 and a multiplicative cost term would reward cost"):
        cost_term(-loss, cost, form="multiplicative")
    with pytest.raises(TrainingError, match="the expected cost is 0.5, whose logarithm is not above 0"):
        cost_term(loss, cost / 10, form="multiplicative")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 5.0}, "target is set, but kind is 'none'"),
        ({"kind": "flops"}, "target is not set; give the cost that the network may have"),
        ({"kind": "flops", "target": 5.0, "beta": 0.1}, "beta is the exponent of form multiplicative"),
        ({"kind": "latency", "target": 5.0}, "latency_table is not set; measure one with dcs-nas profile"),
        ({"kind": "flops", "target": 5.0, "latency_table": "t.yaml"}, "a latency table is set, but kind is 'flops'"),
        ({"kind": "flops", "form": "multiplicative", "weight": 0}, "which leaves no loss; set a weight above 0"),
        ({"kind": "flops", "form": "logarithmic", "target": 5.0}, "form is 'logarithmic', which has none"),
        ({"kind": "flops", "target": 0.0}, "greater than 0"),
        ({"kind": "flops", "target": 1.0, "wieght": 1}, "did you mean weight?"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(
            Config,
            {"name": "a", "search": {"strategy": "bilevel", "space": "demo_cells", "cost": settings}},
            source="a.yaml",
        )
    assert message in str(refused.value)
    assert str(refused.value).startswith(("a.yaml: search.cost", "a.yaml: unknown key 'search.cost.wieght'"))


def test_good_settings_read_back_equal() -> None:
    for settings in ({}, {"kind": "flops", "target": 1e6}, {"kind": "parameters", "form": "multiplicative"}):
        cost = parse(CostConfig, settings, source="x")
        assert parse(CostConfig, cost.model_dump(mode="json"), source="x") == cost


# Latency


def _table(costs: CellCosts, **changes: Any) -> LatencyTable:
    """Made-up microseconds, another number for each work."""
    keys = sorted({work.key for work in costs.works()})
    facts = {"space": costs.cost_space(), "device": device_names()[0], "torch": torch.__version__}
    times = {key: 1.0 + i / 8 for i, key in enumerate(keys)}
    return LatencyTable(**{**facts, "threads": 1, "batch": 1, "rounds": 1, "microseconds": times, **changes})


def _latency_settings(file: Path, **changes: Any) -> CostConfig:
    return CostConfig(kind="latency", target=1.0, latency_table=file, **changes)


def test_the_expected_latency_is_the_sum_over_the_parts_of_the_network(costs: CellCosts, tmp_path: Path) -> None:
    table = _table(costs)
    table.write(tmp_path / "t.yaml")
    assert LatencyTable.read(tmp_path / "t.yaml") == table
    expected = build_cost(_latency_settings(tmp_path / "t.yaml"), CellSupernet(STRUCTURE, NETWORK))
    assert expected is not None
    weights = one_hot(_genotype(5))
    total = 0.0
    for part in costs.parts:
        if "none stride" not in part.key:
            weight = 1.0 if part.weight is None else weights[part.weight[0]][part.weight[1:]].item()
            total += weight * table[part.key]
    assert expected(weights).item() == pytest.approx(total, rel=1e-12)


def test_a_table_of_another_device_or_space_is_refused_unless_allowed(
    costs: CellCosts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, supernet = tmp_path / "t.yaml", CellSupernet(STRUCTURE, NETWORK)
    other_space = CellCosts(STRUCTURE, NETWORK.model_copy(update={"channels": 8})).cost_space()
    for changes, message in (
        ({"device": "Toaster 3000"}, r"was measured on 'Toaster 3000', this machine has"),
        ({"space": other_space}, r"is of space 'cells \w+: 3 cells of width 8, .*', expected 'cells .* width 4"),
    ):
        _table(costs, **changes).write(file)
        with pytest.raises(InputError, match=message) as refused:
            build_cost(_latency_settings(file), supernet)
        assert "\n" not in str(refused.value)
        with caplog.at_level(logging.WARNING):
            assert build_cost(_latency_settings(file, other_latency_table=True), supernet) is not None
        assert "used anyway, by search.cost.other_latency_table" in caplog.text


def test_a_table_that_lacks_an_operation_is_refused_even_when_another_is_allowed(
    costs: CellCosts, tmp_path: Path
) -> None:
    table = _table(costs)
    key = next(key for key in table.microseconds if key.startswith("dcs stride 1"))
    times = {k: v for k, v in table.microseconds.items() if k != key}
    table.model_copy(update={"microseconds": times}).write(tmp_path / "t.yaml")
    with pytest.raises(InputError, match=f"has no '{key}'"):
        build_cost(_latency_settings(tmp_path / "t.yaml", other_latency_table=True), CellSupernet(STRUCTURE, NETWORK))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file"),
        ("name: x\n", "is not a latency table; measure one: dcs-nas profile"),
        ("format: 9\nmicroseconds: {}\n", "has latency format 9, this version reads up to 1"),
        ("format: 1\nmicroseconds: {}\n", "'space' is missing"),
        ("format: 1\nmicroseconds: {a: -1.0}\n", "greater than or equal to 0"),
        ("format: 1\nmicroseconds: {a: .nan}\n", "finite"),
    ],
)
def test_what_is_no_latency_table_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        facts = (
            ""
            if "'space'" in message or "name" in text
            else "space: s\ndevice: d\ntorch: t\nthreads: 1\nbatch: 1\nrounds: 1\n"
        )
        (tmp_path / "t.yaml").write_text(facts + text)
    with pytest.raises(InputError) as refused:
        LatencyTable.read(tmp_path / "t.yaml")
    assert message in str(refused.value)


def test_every_different_work_is_measured_once() -> None:
    made: list[str] = []

    def work(key: str, module: nn.Module) -> Work:
        def make() -> nn.Module:
            made.append(key)
            return module

        return Work(key, (3, 8, 4), make)

    steps: list[tuple[int, int]] = []
    conv = nn.Conv2d(3, 4, 3)
    table = measure_table(
        [work("conv", conv), work("skip", nn.Identity()), work("conv", conv)],
        "a space",
        device=torch.device("cpu"),
        batch=2,
        rounds=2,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert made == ["conv", "skip"]
    assert steps == [(n, 7) for n in range(1, 8)]  # five to warm up, two that count
    assert table.microseconds["conv"] > 0
    assert table.microseconds["skip"] == 0
    assert (table.batch, table.rounds, table.space, table.device) == (2, 2, "a space", device_names()[0])


def test_latency_is_the_median_of_the_rounds_after_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Iterator[float] = iter([0, 1, 10, 15, 20, 22])  # rounds of 1, 5 and 2 seconds
    monkeypatch.setattr("dcs_nas.models.latency.clock", lambda device: next(ticks))
    runs: list[None] = []
    found = measure_latency(lambda: runs.append(None), torch.device("cpu"), rounds=3, warm_up=4)
    assert found == 2e6
    assert len(runs) == 7


def test_an_unknown_device_is_refused() -> None:
    assert resolve_device("cpu").type == "cpu"
    for name in ("tpu9", "cuda:99"):
        with pytest.raises(InputError, match=f"device '{name}' cannot be used here; expected auto, cpu, cuda"):
            resolve_device(name)


@pytest.mark.parametrize("form", ["multiplicative", "logarithmic"])
def test_a_loss_that_is_nan_stays_nan_for_the_check_of_all_losses(form: Any) -> None:
    loss, cost = torch.tensor(float("nan")), torch.tensor(100.0)
    assert cost_term(loss, cost, form=form).isnan()
    with pytest.raises(TrainingError, match="would reward cost"):
        cost_term(torch.tensor(-1.0), cost, form=form)
