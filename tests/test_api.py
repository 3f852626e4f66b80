"""The commands as functions of ``dcs_nas``, and what a notebook shows of genotypes and scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networkx
import pytest
import yaml

import dcs_nas
from dcs_nas.api import _find_genotype
from dcs_nas.config import load_config
from dcs_nas.errors import InputError
from dcs_nas.space import load_genotype

SPACE = """
cells: 2
channels: 4
nodes: 1
reductions: [1]
stem: stride2
operations: [skip_connect, max_pool_3x3]
attention: [none, dcs]
"""
JOB = """
name: tiny
seed: 3
data: {name: synthetic, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
augment: {pad: 2, erase: 0}
search: {strategy: bilevel, epochs: 1}
retrain: {epochs: 1, warmup_epochs: 0}
trainer: {accelerator: cpu, threads: 1, loggers: []}
"""


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    (folder / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data |= {"results": str(folder / "results")}
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["search"]["space"] = str(folder / "space.yaml")
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def run(job: Path):
    return dcs_nas.search(job, ["search.arch_lr=0.1"])


@pytest.fixture(scope="module")
def trained(job: Path, run):
    return dcs_nas.retrain(job, genotype=run.genotype)


def test_importing_the_functions_loads_nothing_heavy() -> None:
    code = "import sys, dcs_nas.api; assert not {'torch', 'networkx', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_search_is_one_call_and_gives_its_run(run, job: Path) -> None:
    assert run.folder == job.parent / "results" / "tiny" / "search"
    assert run.config.search is not None
    assert run.config.search.arch_lr == 0.1
    assert [row["epoch"] for row in run.metrics] == [0]
    assert run.genotype.genotype == load_genotype(run.folder / "genotype.yaml")
    with pytest.raises(InputError, match="holds a run already"):
        dcs_nas.search(job)


def test_a_graph_of_a_genotype_is_a_networkx_graph_that_draws_itself(run) -> None:
    graph = run.genotype.graph("normal")
    plain = load_genotype(run.folder / "genotype.yaml").graph("normal")
    assert isinstance(graph, networkx.MultiDiGraph)
    assert networkx.utils.graphs_equal(networkx.MultiDiGraph(graph), plain)
    svg = graph._repr_svg_()
    assert svg is not None
    assert "<svg" in svg
    assert not hasattr(graph.copy(), "_repr_svg_")
    with pytest.raises(InputError, match="no part 'nromal'"):
        run.genotype.graph("nromal")


def test_a_genotype_shows_a_picture_of_every_cell_and_is_a_genotype_else(run) -> None:
    html = run.genotype._repr_html_()
    assert html.count("data:image/svg+xml;base64,") == len(run.genotype.cells) == 2
    assert "<script" not in html
    assert run.genotype.to_yaml() == (run.folder / "genotype.yaml").read_text()
    assert repr(run.genotype).startswith("Genotype(")


def test_a_trained_run_is_scored_and_its_scores_show_themselves(trained) -> None:
    scores = dcs_nas.evaluate(trained)
    again = dcs_nas.load_run(trained.folder).evaluate(flip=True)
    assert 0 < scores.mAP <= 1
    assert 0 <= scores.rank(1) <= scores.rank(5) <= 1
    assert (scores.report["flip"], again.report["flip"]) == (False, True)
    assert f"mAP {100 * scores.mAP:.2f} %" in repr(scores)
    assert f"<td>{100 * scores.mAP:.2f} %</td>" in scores._repr_html_()
    assert not list(trained.folder.glob("evaluation*"))


def test_a_rank_beyond_the_curve_is_refused(trained) -> None:
    scores = trained.evaluate(max_rank=5)
    for k in (0, 6, -1):
        with pytest.raises(InputError, match=f"rank {k} is not on the CMC curve, expected 1 to 5"):
            scores.rank(k)
    assert 0 <= scores.rank(1) <= scores.rank(5) <= 1


def test_a_trained_run_has_its_network_genotype_and_metrics(trained, run) -> None:
    assert trained.genotype is not None
    assert trained.genotype.cells == run.genotype.cells
    assert not trained.network.training
    assert trained.metrics[-1]["train/loss"] > 0
    assert type(dcs_nas.load_run(run.folder)).__name__ == "SearchRun"


def test_settings_may_be_given_instead_of_a_file(job: Path, tmp_path: Path) -> None:
    config = load_config(job, ["data.root=null"])
    with pytest.raises(InputError, match=r"data\.root is not set"):
        dcs_nas.search(config, out=tmp_path / "run")
    with pytest.raises(InputError, match="overrides are given beside settings"):
        dcs_nas.search(config, ["seed=4"], out=tmp_path / "run")
    with pytest.raises(InputError, match="is not a run folder"):
        dcs_nas.load_run(tmp_path)


def test_no_logger_is_one_of_the_choices_and_a_missing_one_is_named(
    job: Path, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (run.folder / "tensorboard").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(InputError, match=r"trainer\.loggers names wandb, which is not installed; pip install wandb"):
        dcs_nas.search(job, ["trainer.loggers=[tensorboard, wandb]"], out=tmp_path / "run")
    with pytest.raises(InputError, match="name one twice"):
        load_config(job, ["trainer.loggers=[wandb, wandb]"])
    with pytest.raises(InputError, match="'tensorboard', 'wandb' or 'mlflow'"):
        load_config(job, ["trainer.loggers=[wandbb]"])


def test_a_training_that_was_interrupted_resumes_from_its_own_configuration(job: Path, tmp_path: Path) -> None:
    found = tmp_path / "own" / "retrain" / "genotype.yaml"
    settings = load_config(job, [f"results={tmp_path}", "name=own"])
    with pytest.raises(InputError, match="there is no genotype to train: .*/genotype.yaml is missing; search for"):
        _find_genotype(settings, None, resume=False)
    found.parent.mkdir(parents=True)
    found.write_text("kind: cells")
    assert _find_genotype(settings, None, resume=True) == found
    with pytest.raises(InputError, match="there is no genotype to train"):
        _find_genotype(settings, None, resume=False)
