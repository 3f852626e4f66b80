"""Baselines of a search: random genotypes and NNI's own strategies, end to end on eight synthetic people."""

from __future__ import annotations

import logging
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dcs_nas.config import Config, load_config
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.models.cell_space import build_fixed_network
from dcs_nas.models.nni_imports import DifferentiableMixedCell, DifferentiableMixedLayer
from dcs_nas.runs import read_metrics
from dcs_nas.space import CellStructure, NetworkSpec, Origin, SpaceReference, edge_index, load_genotype
from dcs_nas.strategies import nni_strategies, trial_strategy
from dcs_nas.strategies.job import run_search
from dcs_nas.training import loop
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.retraining import trial_settings

SPACE = """
cells: 2
channels: 4
nodes: 2
reductions: [1]
stem: stride2
operations: [none, skip_connect, max_pool_3x3, sep_conv_3x3]
attention: [none, harmonious]
"""
JOB = """
name: tiny
seed: 3
data: {name: market1501, height: 24, width: 12, identities_per_batch: 4, images_per_identity: 4}
augment: {pad: 2}
search:
  {strategy: bilevel, epochs: 2, arch_lr: 0.003,
   trials: {trials: 3, epochs: 1, population: 2, sample: 2, validation: 0.3}}
trainer: {accelerator: cpu, threads: 1}
"""
BY_TRIALS = ["random", "nni.random", "nni.evolution"]
ONE_SHOT = ["nni.darts", "nni.gumbel"]

Job = Callable[..., Config]


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The tiny job with overrides."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["search"]["space"] = str(folder / "space.yaml")
    (folder / "job.yaml").write_text(yaml.safe_dump(data))

    def config(*overrides: str, strategy: str = "random") -> Config:
        return load_config(folder / "job.yaml", [f"search.strategy={strategy}", *overrides])

    return config


@pytest.fixture(scope="module")
def finished(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run folder of an uninterrupted run of a strategy."""
    parent, done = tmp_path_factory.mktemp("runs"), set[str]()

    def folder(strategy: str) -> Path:
        if strategy not in done:
            run_search(job(strategy=strategy), parent / strategy)
            done.add(strategy)
        return parent / strategy

    return folder


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Puts the handler of Ctrl-C back, which Lightning takes away when it is interrupted."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def _interrupted_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but the given call of it (from 1) is stopped as by Ctrl-C."""
    calls: Counter[str] = Counter()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls["all"] += 1
        if calls["all"] == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return wrapped


def _differing(a: Path, b: Path) -> list[str]:
    first, second = (load_checkpoint(f / "checkpoints" / "last.ckpt")["state_dict"] for f in (a, b))
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


@pytest.mark.parametrize("strategy", BY_TRIALS + ONE_SHOT)
def test_every_strategy_leaves_the_files_of_a_search(strategy: str, finished: Callable[[str], Path]) -> None:
    folder = finished(strategy)
    genotype = load_genotype(folder / "genotype.yaml")
    assert genotype.origin.method.startswith(f"{strategy}, ")
    assert genotype.origin.seed == 3
    assert all(edge.op != "none" for cell in genotype.cells.values() for node in cell.nodes for edge in node)
    assert build_fixed_network(genotype)(torch.randn(2, 3, 24, 12)).shape == (2, 16, 6, 3)
    epochs = 3 if strategy in BY_TRIALS else 2
    rows = read_metrics(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == list(range(epochs))
    records = sorted((folder / "architecture").iterdir())
    assert [path.name for path in records] == [f"epoch_{i:03d}.yaml" for i in range(epochs)]
    assert load_genotype(records[-1]) == genotype
    assert f"{epochs}/{epochs}: " in (folder / "log.txt").read_text()
    names = {"normal", "reduce", "normal_attention", "reduce_attention"}
    assert set(yaml.safe_load(records[-1].read_text())["weights"]) == names


@pytest.mark.parametrize("strategy", BY_TRIALS)
def test_the_best_trial_is_chosen_and_another_seed_tries_others(
    strategy: str, job: Job, finished: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(strategy)
    trials = [yaml.safe_load(p.read_text()) for p in sorted(folder.glob("trials/*/trial.yaml"))]
    scores = [trial["score"] for trial in trials]
    assert len({str(trial["genotype"]["cells"]) for trial in trials}) == 3
    best = load_genotype(folder / f"trials/{int(np.argmax(scores)):03d}/trial.yaml")
    assert best == load_genotype(folder / "genotype.yaml")
    rows = read_metrics(folder / "metrics.csv")
    assert [row["validation/mAP"] for row in rows] == scores
    assert [row["best/mAP"] for row in rows] == np.maximum.accumulate(scores).tolist()
    assert all(row["parameters"] > 0 < row["seconds"] for row in rows)
    monkeypatch.setattr(trial_strategy, "train_trial", lambda *_, **__: 0.5)
    run_search(job("seed=4", strategy=strategy), tmp_path / "other")
    others = [load_genotype(p).cells for p in sorted(tmp_path.glob("other/trials/*/trial.yaml"))]
    assert others[0] != load_genotype(folder / "trials/000/trial.yaml").cells


@pytest.mark.parametrize("strategy", ONE_SHOT)
def test_one_shot_strategies_train_nnis_own_cells_and_move_their_alphas(
    strategy: str, job: Job, finished: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(nni_strategies, "fit", lambda trainer, module, loaders, run: seen.append(module))
        run_search(job(strategy=strategy), tmp_path / "run")
    (module,) = seen
    assert type(module).__module__ == "nni.nas.oneshot.pytorch.differentiable"
    kinds = Counter(type(m) for m in module.supernet_modules())
    assert kinds == {DifferentiableMixedCell: 2, DifferentiableMixedLayer: 2}
    assert not any("dcs_nas.models.super" in type(m).__module__ for m in module.modules())
    assert len(module.arch_parameters()) == 2 * edge_index(2, 0) + 2
    records = [yaml.safe_load(p.read_text()) for p in sorted((finished(strategy) / "architecture").iterdir())]
    for name, alphas in records[0]["alphas"].items():
        assert alphas != records[1]["alphas"][name]
    names = records[0]["names"]["operations"]
    assert names == ["none", "skip_connect", "max_pool_3x3", "sep_conv_3x3"]  # as the report counts columns
    weights = np.array(records[1]["weights"]["normal"])
    assert weights.shape == (edge_index(2, 0), len(names))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)


def test_the_one_shot_genotype_is_of_the_strongest_alphas(finished: Callable[[str], Path]) -> None:
    record = yaml.safe_load((finished("nni.darts") / "architecture" / "epoch_001.yaml").read_text())
    for kind in ("normal", "reduce"):
        alphas = np.array(record["alphas"][kind])
        alphas[:, record["names"]["operations"].index("none")] = -np.inf
        for node, edges in enumerate(record["genotype"]["cells"][kind]["nodes"]):
            strongest = {s: alphas[edge_index(node, s)].max() for s in range(node + 2)}
            sources = sorted(strongest, key=lambda s: -strongest[s])[:2]
            assert [edge["from"] for edge in edges] == sources
            operations = [record["names"]["operations"][alphas[edge_index(node, s)].argmax()] for s in sources]
            assert [edge["op"] for edge in edges] == operations


def test_alphas_rest_while_the_weights_warm_up(job: Job, tmp_path: Path) -> None:
    run_search(job("search.warmup_epochs=1", strategy="nni.darts"), tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert "architecture/loss" not in rows[0]
    assert "architecture/loss" in rows[1]


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("strategy", ONE_SHOT)
def test_an_interrupted_one_shot_search_resumes_to_the_same_bits(
    strategy: str, job: Job, finished: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(nni_strategies, "write_architecture", _interrupted_at(2, nni_strategies.write_architecture))
        with pytest.raises(KeyboardInterrupt):
            run_search(job(strategy=strategy), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["epoch"] == 0
    run_search(job(strategy=strategy), tmp_path / "run", resume=True)
    assert not _differing(tmp_path / "run", finished(strategy))


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("strategy", BY_TRIALS)
def test_resumed_trials_repeat_nothing_and_end_the_same(
    strategy: str,
    job: Job,
    finished: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, folder = finished(strategy), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", _interrupted_at(2, loop.validate))
        with pytest.raises(KeyboardInterrupt):
            run_search(job(strategy=strategy), folder)
    assert not _said_by_nni(caplog)
    assert [p.parent.name for p in folder.glob("trials/*/trial.yaml")] == ["000"]
    trained: list[str] = []
    monkeypatch.setattr(trial_strategy, "train_trial", _noting(trained, trial_strategy.train_trial))
    found = run_search(job(strategy=strategy), folder, resume=True)
    assert trained == ["001", "002"]
    assert found == load_genotype(whole / "genotype.yaml")
    scores = [[row["validation/mAP"] for row in read_metrics(f / "metrics.csv")] for f in (folder, whole)]
    assert scores[0] == scores[1]
    assert run_search(job(strategy=strategy), folder, resume=True) == found
    assert len(trained) == 2


@pytest.mark.usefixtures("interrupts")
def test_an_interrupted_trial_goes_on_from_its_last_epoch(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job("search.trials.epochs=2", "search.trials.trials=1", strategy="nni.random")
    place = "trials/000/checkpoints"
    run_search(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", _interrupted_at(1, loop.validate))
        with pytest.raises(KeyboardInterrupt):
            run_search(config, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / place / "last.ckpt")["epoch"] == 0
    run_search(config, tmp_path / "run", resume=True)
    assert not (tmp_path / "run" / place).exists()
    whole, resumed = (read_metrics(tmp_path / name / "trials/000/metrics.csv") for name in ("whole", "run"))
    assert whole == resumed
    assert len(whole) == 2


def _noting(names: list[str], train: Callable[..., float]) -> Callable[..., float]:
    def wrapped(*args: Any, **kwargs: Any) -> float:
        names.append(kwargs["run"].path.name)
        return train(*args, **kwargs)

    return wrapped


def test_a_trial_training_is_a_retraining_with_the_rates_of_the_search(job: Job) -> None:
    settings = trial_settings(job("search.lr=0.3", "search.lr_min=0.01", "search.trials.epochs=4")).section("retrain")
    assert (settings.optimizer, settings.lr, settings.lr_min, settings.warmup_epochs) == ("sgd", 0.3, 0.01, 0)
    assert (settings.epochs, settings.validate_every, settings.grad_clip) == (4, 4, 5.0)


def test_no_trial_begins_after_the_minutes_are_spent(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_strategy, "train_trial", lambda *_, **__: 0.5)
    run_search(job("search.trials.minutes=1e-9", strategy="nni.random"), tmp_path / "run")
    assert len(read_metrics(tmp_path / "run" / "metrics.csv")) == 1


def test_a_trial_that_breaks_down_counts_as_zero_and_says_why(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([TrainingError("the term 'loss' became nan"), 0.25, 0.2])

    def train(*args: Any, **kwargs: Any) -> float:
        score = next(scores)
        if isinstance(score, TrainingError):
            raise score
        return score

    monkeypatch.setattr(trial_strategy, "train_trial", train)
    found = run_search(job(strategy="nni.evolution"), tmp_path / "run")
    assert found == load_genotype(tmp_path / "run/trials/001/trial.yaml")
    assert "trial 1/3 counts as mAP 0: the term 'loss' became nan" in (tmp_path / "run" / "log.txt").read_text()
    scores = iter([TrainingError("the term 'loss' became nan")] * 3)
    with pytest.raises(TrainingError, match="none of 3 trials could be trained: the term 'loss' became nan"):
        run_search(job(strategy="nni.random"), tmp_path / "none")


def test_a_single_random_genotype_is_drawn_and_not_trained(job: Job, tmp_path: Path) -> None:
    drawn = run_search(job("search.trials.trials=1", strategy="random"), tmp_path / "run")
    assert drawn.origin.method == "random, drawn"
    assert not (tmp_path / "run" / "trials").exists()
    assert drawn != run_search(job("search.trials.trials=1", "seed=4", strategy="random"), tmp_path / "other")


def test_random_genotypes_are_uniform_over_what_may_be_derived() -> None:
    structure = CellStructure(nodes=2, operations=("none", "skip_connect", "dcs"), attention=("none", "rga"))
    network = NetworkSpec(channels=4, cells=1, height=8, width=8)
    random = np.random.default_rng(0)
    drawn = [
        CellKind().random_genotype(SpaceReference.of(structure, "s"), network, random, origin=Origin()).cells["normal"]
        for _ in range(480)
    ]
    counts = Counter((cell.nodes, cell.attention) for cell in drawn)
    assert len(counts) == 2**4 * 3 * 2  # operations of 4 edges, sources of the second node, attention
    assert max(counts.values()) < 20  # 5 expected


def test_nnis_sample_and_the_genotype_turn_into_each_other() -> None:
    structure = CellStructure(nodes=3, operations=("skip_connect", "dcs"), attention=("none", "rga"))
    network = NetworkSpec(channels=4, cells=3, reductions=(1,), height=8, width=8)
    genotype = CellKind().random_genotype(
        SpaceReference.of(structure, "s"), network, np.random.default_rng(1), origin=Origin()
    )
    assert (
        CellKind().genotype_of(genotype.to_sample(), SpaceReference.of(structure, "s"), network, origin=Origin())
        == genotype
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["search.strategy=nni.dart"], "search.strategy: .*'nni.darts'.*found 'nni.dart'"),
        (["search.trials.sample=3"], "search.trials: sample 3 of a population of 2; lower sample to it or below"),
        (["search.trials.minutes=0"], "search.trials.minutes: .*greater than 0, found 0"),
        (
            ["search.strategy=nni.evolution", "search.trials.population=3"],
            "trials.population 3 of 3 trials leaves none to evolve; lower trials.population or raise trials.trials",
        ),
        (
            ["search.strategy=random", "search.cost={kind: flops, target: 1000}"],
            "strategy random has no cost term; leave cost out, or set strategy to bilevel",
        ),
    ],
)
def test_settings_that_do_not_fit_a_strategy_are_refused_in_a_line(job: Job, overrides: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        job(*overrides)
    assert "\n" not in str(caught.value)


def test_settings_that_have_no_effect_under_a_strategy_are_named(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_strategy, "train_trial", lambda *_, **__: 0.5)
    monkeypatch.setattr(nni_strategies, "fit", lambda *_: None)
    for strategy, unused in (
        ("nni.darts", "search.order, search.arch_weight_decay"),
        ("nni.random", "search.order, search.arch_weight_decay, search.arch_lr, search.epochs"),
    ):
        changes = [f"search.strategy={strategy}", "search.order=2", "search.arch_weight_decay=0"]
        run_search(job(*changes, strategy=strategy), tmp_path / strategy)
        said = (tmp_path / strategy / "log.txt").read_text()
        assert f"{unused} have no effect: search.strategy is {strategy}\n" in said


def test_a_supernet_is_validated_on_people_held_out_of_both_halves(job: Job, tmp_path: Path) -> None:
    changes = ["search.validation=0.3", "search.validate_every=1", "search.epochs=1"]
    run_search(job(*changes, strategy="nni.darts"), tmp_path / "run")
    assert 0 < read_metrics(tmp_path / "run" / "metrics.csv")[0]["validation/mAP"] <= 1


def test_what_a_baseline_cannot_run_with_is_said_before_anything_is_written(job: Job, tmp_path: Path) -> None:
    for strategy, override, said in (
        ("nni.darts", "trainer.devices=2", "search.strategy nni.darts runs on one device, but trainer.devices is 2"),
        ("nni.random", "search.trials.validation=0.9", "holding out 7 of 8 identities leaves too few"),
        (
            "random",
            "data.identities_per_batch=7",
            "the training images show 6 identities, expected at least 7 for a batch",
        ),
    ):
        with pytest.raises(InputError, match=said):
            run_search(job(override, strategy=strategy), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trials_of_another_order_are_not_taken_over(job: Job, finished: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished("random"), folder)
    (folder / "genotype.yaml").unlink()
    (folder / "trials/000").rename(folder / "trials/x")
    (folder / "trials/001").rename(folder / "trials/000")
    with pytest.raises(InputError, match="trial.yaml is of trial 1, expected 0; start again with --overwrite"):
        run_search(job(strategy="random"), folder, resume=True)


def test_nni_says_nothing_and_writes_nowhere_else(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for strategy in ("nni.evolution", "nni.gumbel"):
        few = ["search.epochs=1", "search.trials.trials=2", "search.trials.population=1", "search.trials.sample=1"]
        run_search(job(*few, strategy=strategy), tmp_path / strategy)
    assert not _said_by_nni(caplog)
    assert not list((tmp_path / "home").rglob("*"))
    assert not logging.getLogger("nni.nas.strategy.base").filters


def _said_by_nni(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("nni")]
