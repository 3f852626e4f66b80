"""Architectures as texts, tables of whole spaces, and what is said of an architecture by them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import networkx
import numpy as np
import pytest

from dcs_nas import api
from dcs_nas.config import load_config
from dcs_nas.errors import InputError
from dcs_nas.runs import read_metrics
from dcs_nas.space import Genotype, find_shipped_file, load_space
from dcs_nas.space.architectures import architectures, count, decode, encode
from dcs_nas.space.table import SIZE, TABLES, Table
from dcs_nas.strategies.job import run_search
from tests.command_line import refused, run_command

COLUMNS = "architecture,seed,mAP,rank1,mINP,validation_mAP,half_mAP,quarter_mAP,parameters,multiply_adds,seconds"


def space(name: str):
    return load_space(find_shipped_file("search_spaces", name))


def written(path: Path, name: str, seeds: int = 2, every: int = 1) -> Path:
    """A table of made-up scores: the place of an architecture in the list, plus a seed's own effect."""
    rows = [COLUMNS]
    for place, text in enumerate(architectures(space(name), *SIZE)[::every]):
        for seed in range(seeds):
            score = place / 10 + seed
            rows.append(
                f"{text},{seed},{score},{score},{score},{score + 1},{score},{score},{100 + place},{5000 - place},2.5"
            )
    path.write_text("# made up\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return Table.read("bench_cells", written(tmp_path_factory.mktemp("table") / "cells.csv", "bench_cells"))


@pytest.mark.parametrize("name", TABLES)
def test_every_architecture_has_a_text_that_gives_it_back(name):
    listed = architectures(space(name), *SIZE)
    assert 400 <= len(listed) <= 1500
    assert len(set(listed)) == len(listed) <= count(space(name), *SIZE)
    for text in listed:
        assert encode(decode(text, space(name), *SIZE)) == text


def test_texts_are_equal_exactly_where_cells_are_isomorphic():
    """Against networkx, on the cells of three operations without attention."""
    own = space("bench_cells").model_copy(
        update={"nodes": 3, "operations": ("skip_connect", "dcs"), "attention": ("none",)}
    )
    edges = [list(itertools.product(own.operations, range(2 + node))) for node in range(3)]
    every = [f"{'|'.join(f'{op}~{s}' for op, s in nodes)}+none" for nodes in itertools.product(*edges)]
    assert len(every) == count(own, *SIZE)
    classes: dict[str, list[networkx.MultiDiGraph]] = {}
    for text in every:
        genotype = decode(text, own, *SIZE)
        graph = genotype.graph("normal")
        for node in graph:
            role = graph.nodes[node]["role"]
            graph.nodes[node]["what"] = node if role == "input" else role
        classes.setdefault(encode(genotype), []).append(graph)

    def same(a: networkx.MultiDiGraph, b: networkx.MultiDiGraph) -> bool:
        nodes = networkx.algorithms.isomorphism.categorical_node_match("what", "")
        edges = networkx.algorithms.isomorphism.categorical_multiedge_match("op", "")
        return networkx.is_isomorphic(a, b, node_match=nodes, edge_match=edges)

    assert sorted(classes) == architectures(own, *SIZE)
    for graphs in classes.values():
        assert all(same(graphs[0], other) for other in graphs[1:])
    pairs = list(itertools.combinations(classes.values(), 2))
    for a, b in random.Random(0).sample(pairs, 400):
        assert not same(a[0], b[0])


def test_two_kinds_of_cells_two_edges_a_node_and_blocks_that_may_be_left_out_have_texts_too():
    two = space("demo_cells").model_copy(update={"nodes": 1, "operations": ("none", "skip_connect", "dcs")})
    listed = architectures(two, *SIZE)
    assert len(listed) == (4 * len(two.attention)) ** 2
    assert "dcs~0&skip_connect~1+rga;skip_connect~0&skip_connect~1+none" in listed
    chain = space("demo_chain")
    text = "k3e1w8+none&".replace("+none&", "&skip+none") + "|k7e6w32&k3e1w16+dcs|k5e3w48s&skip&k3e1w32+rga"
    assert encode(decode(text, chain, *SIZE)) == text
    with pytest.raises(
        InputError, match=r"space 'demo_chain' has 2,115,832,430,592 architectures; expected at most 100,000"
    ):
        architectures(chain, *SIZE)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("bench_cells", "conv~0|skip_connect~1+none", "operation 'conv' is not in its space"),
        ("bench_cells", "skip_connect~0|skip_connect~3+none", "reads state 3"),
        ("bench_cells", "skip_connect~0", ""),
        ("bench_cells", "skip_connect|skip_connect~0+none", ""),
        ("bench_chain", "k3e1w12+none", "found 1 stages"),
        ("bench_chain", "k3e1w12+none|k3e1+none|k3e1w32+none", "expected blocks such as k3e4w24"),
        ("bench_chain", "k9e1w12+none|k3e1w24+none|k3e1w32+none", "kernel 9 is not in its space"),
    ],
)
def test_a_text_that_is_no_architecture_is_one_clear_line(name, text, problem):
    with pytest.raises(InputError) as error:
        decode(text, space(name), *SIZE)
    assert f"is no architecture of space '{name}'" in str(error.value)
    assert problem in str(error.value)


def test_an_entry_says_score_rank_regret_and_distance_to_the_front(cells):
    listed = architectures(cells.space, *SIZE)
    assert cells.whole
    assert cells.seeds == (0, 1)
    best = cells.best
    assert (best.architecture, best.rank, best.regret, best.front_distance) == (listed[-1], 1, 0, 0)
    worst = cells[decode(listed[0], cells.space, *SIZE)]
    assert worst.rank == len(cells) == 420
    assert worst.score == pytest.approx(0.5)
    assert worst.spread == pytest.approx(np.std([0, 1], ddof=1))
    assert worst.regret == pytest.approx(41.9)
    assert worst.front_distance == pytest.approx(41.9)  # the best has the fewest multiply-adds
    assert cells.front == (best,)
    assert worst.trainings[1].validation_mAP == 2.0


def test_noise_leaves_out_what_a_seed_does_to_all_and_is_the_residual_of_a_two_way_table(tmp_path):
    rng = np.random.default_rng(0)
    listed = architectures(space("bench_cells"), *SIZE)
    skill, luck = 6 * rng.standard_normal(len(listed)), 3 * rng.standard_normal(5)
    rows = [COLUMNS]
    for i, text in enumerate(listed):
        for seed in range(5 if i < 200 else 2):
            score = 40 + skill[i] + luck[seed] + 1.5 * rng.standard_normal()
            rows.append(f"{text},{seed},{score},0,0,0,0,0,1,1,1")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    noise = Table.read("bench_cells", path).noise
    assert noise is not None
    assert noise.single == pytest.approx(1.5, rel=0.07)
    assert noise.score == pytest.approx(noise.single / 2**0.5)
    assert noise.between == pytest.approx(6.1, rel=0.1)
    assert noise.ratio == noise.score / noise.between


def test_scores_are_means_over_the_seeds_that_all_architectures_have(tmp_path):
    first, second = architectures(space("bench_cells"), *SIZE)[:2]
    rows = [COLUMNS, *(f"{first},{seed},{seed},0,0,0,0,0,1,1,1" for seed in range(5)), f"{second},0,7,0,0,0,0,0,1,1,1"]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    found = Table.read("bench_cells", path)
    assert not found.whole
    assert found.seeds == (0,)
    assert found.noise is None
    assert [(e.architecture, e.score) for e in found] == [(second, 7), (first, 0)]
    with pytest.raises(InputError, match="the table bench_cells lacks .*; it is unfinished, with 2 architectures"):
        found[architectures(found.space, *SIZE)[9]]


def test_a_table_refuses_other_spaces_other_networks_and_files_that_are_none(cells, tmp_path):
    chain = decode("k3e1w12+none|k3e1w24+none|k3e1w32+none", space("bench_chain"), *SIZE)
    with pytest.raises(InputError, match="belongs to space 'bench_chain'"):
        cells[chain]
    wide = cells.genotype(cells.best.architecture)
    wide = wide.model_copy(update={"network": wide.network.model_copy(update={"channels": 32})})
    with pytest.raises(InputError, match="search the space at its own width, depth and image size"):
        cells[wide]
    with pytest.raises(InputError, match="unknown table 'bench_cell'; did you mean bench_cells"):
        api.tabular("bench_cell")
    for content, problem in {
        "": "has no rows yet",
        "a,b\n1,2\n": "is no table of",
        COLUMNS + "\nx,0,y\n": "is no table of",
    }.items():
        path = tmp_path / "bad.csv"
        path.write_text(content)
        with pytest.raises(InputError, match=problem):
            api.tabular("bench_cells", path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        api.tabular("bench_cells", tmp_path / "none.csv")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Made-up tables in place of the shipped ones."""
    for name in TABLES:
        written(tmp_path / f"{name}.csv", name)
    monkeypatch.setattr("dcs_nas.space.table._find_shipped", lambda name: tmp_path / f"{name}.csv")
    return tmp_path


def test_the_command_tells_of_genotypes_runs_and_texts_and_draws_them(shipped, capsys):
    found = api.tabular("bench_cells")
    genotype = shipped / "run" / "genotype.yaml"
    genotype.parent.mkdir()
    genotype.write_text(found.genotype(found.best.architecture).to_yaml())
    picture = shipped / "standing.png"
    code, out, _ = run_command(
        capsys, "bench", genotype.parent, genotype, found.entries[9].architecture, "--out", picture
    )
    assert code == 0
    assert "bench_cells: 420 architectures, noise 0.00 of a spread of 12.14 points" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run_command(capsys, "bench")
    assert code == 0
    assert all(word in out for word in ("bench_cells", "bench_chain", "best", "median", "worst"))
    assert run_command(capsys, "bench", "k3e1w12+none|k3e1w24+none|k3e1w32+none")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--out", "x.png"], "name at least one genotype"),
        (["skip_connect~1|skip_connect~2+rga", "--out", "x.bmp"], "expected .png, .svg, .pdf"),
        (["nothing.yaml"], "nothing.yaml"),
        (["skip_connect~1|skip_connect~2+rga"] * 9, "expected at most 8 at a time"),
    ],
)
def test_the_command_refuses_what_it_cannot_show(arguments, problem, shipped, capsys):
    assert problem in refused(capsys, "bench", *arguments)


@pytest.mark.parametrize("strategy", ["random", "evolution", "local", "predictor", "nni.random", "nni.evolution"])
def test_strategies_of_trials_read_a_table_at_its_own_cost_and_need_no_data(strategy, shipped):
    settings = ["trials.table=bench_cells", "trials.trials=40", f"strategy={strategy}", "trials.predictor.share=1"]
    config = load_config(find_shipped_file("configs", "bench_cells"), [f"search.{setting}" for setting in settings])
    found = api.tabular("bench_cells")
    genotype = run_search(config, shipped / "run")
    rows = read_metrics(shipped / "run" / "metrics.csv")
    assert len(rows) == 40
    assert {row["seconds"] for row in rows} == {2.5}
    best = max(row["validation/mAP"] for row in rows)
    assert isinstance(genotype, Genotype)
    assert found[genotype].trainings[0].validation_mAP == pytest.approx(100 * best)
    assert genotype.origin.data == "table bench_cells"


def test_an_unfinished_table_is_refused_before_a_run_begins(shipped):
    written(shipped / "bench_cells.csv", "bench_cells", every=3)
    settings = ["search.strategy=random", "search.trials.table=bench_cells"]
    with pytest.raises(InputError, match="the table bench_cells has 140 architectures and is unfinished"):
        run_search(load_config(find_shipped_file("configs", "bench_cells"), settings), shipped / "run")
    assert not (shipped / "run").exists()


def test_recorded_seconds_are_what_minutes_are_counted_in(shipped):
    settings = ["search.strategy=random", "search.trials.table=bench_cells", "search.trials.trials=100"]
    config = load_config(find_shipped_file("configs", "bench_cells"), [*settings, "search.trials.minutes=0.5"])
    run_search(config, shipped / "run")
    assert len(read_metrics(shipped / "run" / "metrics.csv")) == 12  # of 2.5 seconds each


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["search.strategy=bilevel", "search.trials.table=bench_cells"],
            "but strategy bilevel trains a supernet; leave it out, or choose",
        ),
        (["search.strategy=random", "search.trials.table=bench_cells", "search.space=demo_cells"], "set both alike"),
        (
            ["search.strategy=random", "search.trials.table=bench"],
            "trials.table: Input should be 'bench_cells' or 'bench_chain'",
        ),
    ],
)
def test_a_table_that_a_search_cannot_read_is_refused(overrides, problem):
    with pytest.raises(InputError, match=problem):
        load_config(find_shipped_file("configs", "bench_cells"), overrides)
