"""Strategies by trials: on made-up tables of whole spaces, and end to end on eight synthetic people."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from dcs_nas.config import Config, PredictorConfig, load_config
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.models.space_kinds import kind_of
from dcs_nas.report.graphs import draw_history
from dcs_nas.report.page import Options, write_report
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.runs.workers import Worker, open_journal, register_worker
from dcs_nas.space import AnyGenotype, Origin, find_shipped_file, load_genotype, load_space, parse_genotype
from dcs_nas.space.architectures import architectures, decode, encode
from dcs_nas.space.table import SIZE, TABLES
from dcs_nas.strategies import parallel
from dcs_nas.strategies.job import STRATEGIES, run_search
from dcs_nas.strategies.neighbors import Neighborhood, encode_choices
from dcs_nas.strategies.predictor import PredictorSearch
from dcs_nas.strategies.proposals import Proposals
from dcs_nas.strategies.surrogate import Prediction, encode_features, expect_improvement, predict
from dcs_nas.strategies.trial_strategy import TrialStrategy
from dcs_nas.strategies.trials import Outcome, Proposal, Trial, TrialFolder
from dcs_nas.training import loop
from dcs_nas.training.checkpoints import load_checkpoint
from tests.command_line import run_command
from tests.test_baselines import JOB, _interrupted_at
from tests.test_search_engine import SPACE
from tests.test_tabular import written

ON_TABLES = ["random", "evolution", "local", "predictor", "halving"]
CHAIN = """
kind: chain
stem: 8
stem_stride: 2
features: 16
stages:
- {blocks: 2, stride: 2, widths: [8, 12], kernels: [3, 5], expansions: [1, 2], skip: true, attention: [none, dcs]}
"""
SMALL = [
    "trials.population=4", "trials.sample=2", "trials.local.start=4", "trials.predictor.start=4",
    "trials.predictor.candidates=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name in TABLES:
        written(folder / f"{name}.csv", name)
    return folder


@pytest.fixture
def tables(made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up tables in place of the shipped ones, in a folder for runs."""
    for name in TABLES:
        shutil.copy(made_up / f"{name}.csv", tmp_path)
    monkeypatch.setattr("dcs_nas.space.table._find_shipped", lambda name: tmp_path / f"{name}.csv")
    return tmp_path


def on_table(table: str, strategy: str, *overrides: str) -> Config:
    settings = [f"trials.table={table}", f"strategy={strategy}", "trials.trials=16", *SMALL, *overrides]
    return load_config(find_shipped_file("configs", table), [f"search.{setting}" for setting in settings])


def trials_of(folder: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("trials/*/trial.yaml"))]


@pytest.mark.parametrize(("strategy", "table"), list(zip(ON_TABLES, itertools.cycle(TABLES))))
def test_a_search_tries_nothing_twice_and_resumes_to_the_same_trials(strategy: str, table: str, tables: Path) -> None:
    config = on_table(table, strategy)
    found = run_search(config, tables / "whole")
    whole = trials_of(tables / "whole")
    new = [load_genotype(path).identity() for path in sorted(tables.glob("whole/trials/*/trial.yaml"))]
    new = [identity for identity, trial in zip(new, whole) if trial["continues"] is None]
    assert len(new) == len(set(new)) == 16
    shutil.copytree(tables / "whole", tables / "part")
    (tables / "part" / "genotype.yaml").unlink()
    for number in range(9, len(whole)):
        shutil.rmtree(tables / "part" / f"trials/{number:03d}")
    assert run_search(config, tables / "part", resume=True) == found
    first, second = (
        [{k: v for k, v in trial.items() if k != "proposal_seconds"} for trial in trials]
        for trials in (whole, trials_of(tables / "part"))
    )
    assert first == second
    other = config.model_copy(update={"seed": 1})
    if strategy == "random":
        assert found != run_search(other, tables / "other")


def test_pictures_and_lists_of_a_search_by_trials_count_trials(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tables / "results" / "search")
    run_search(on_table("bench_chain", "random", "trials.trials=3"), run.path)
    page = write_report([run.path], tables / "report.html", options=Options(maps=0, ranked=0)).file.read_text()
    assert "finished, 3 of 3 trials" in page
    assert "Best architecture over the trials" in page
    assert "<label>trial <output>" in page
    assert {"3/3", "trials"} <= set(run_command(capsys, "runs", tables / "results")[1].split())
    assert "from trial 1 to trial 3" in draw_history(run.path, tables / "history", formats=["svg"]).note


def test_a_search_that_learns_finds_better_than_chance(tables: Path) -> None:
    """On a table whose scores are a sum over choices, four seeds each."""
    space = load_space(find_shipped_file("search_spaces", "bench_chain"))
    texts = architectures(space, *SIZE)
    random = np.random.default_rng(0)
    worth = random.random(len(encode_choices(decode(texts[0], space, *SIZE))))
    scores = np.array([encode_choices(decode(text, space, *SIZE)) @ worth for text in texts])
    scores = 10 + 50 * (scores - scores.min()) / np.ptp(scores)
    head, *rows = (tables / "bench_chain.csv").read_text().splitlines()[1:]
    told = dict(zip(texts, scores))
    changed = [row.split(",") for row in rows]
    lines = [",".join([r[0], r[1], *([f"{told[r[0]]:.4f}"] * 6), *r[8:]]) for r in changed]
    (tables / "bench_chain.csv").write_text("\n".join([head, *lines]) + "\n")

    def regret(strategy: str) -> float:
        best = []
        for seed in range(4):
            config = on_table("bench_chain", strategy, "trials.trials=24").model_copy(update={"seed": seed})
            found = run_search(config, tables / f"{strategy}{seed}")
            best.append(told[encode(found)])
        return 60 - float(np.mean(best))

    chance = regret("random")
    for strategy in ("evolution", "local", "predictor"):
        assert regret(strategy) < 0.85 * chance, strategy


def test_halving_trains_to_each_rung_what_was_best_on_the_one_before(tables: Path) -> None:
    run_search(on_table("bench_cells", "halving"), tables / "run")
    trials = trials_of(tables / "run")
    rungs = {share: [t for t in trials if t["share"] == share] for share in (0.25, 0.5, 1.0)}
    assert len(rungs[0.25]) == 16
    for below, above in itertools.pairwise(rungs.values()):
        promoted = {trial["continues"] for trial in above}
        assert len(promoted) == len(above)
        for trial in above:  # at its turn it was among the best half of those that had ended below
            before = [t for t in below if t["number"] < trial["number"]]
            first = trial["continues"]
            own = next(t for t in before if first in (t["number"], t["continues"]))
            better = sum(t["score"] > own["score"] for t in before)
            assert better < len(before) // 2
        best = sorted(below, key=lambda t: -t["score"])[: len(below) // 2]
        assert promoted >= {t["number"] if t["continues"] is None else t["continues"] for t in best}
    assert {t["seconds"] for t in rungs[0.25]} == {2.5 / 4} == {t["seconds"] for t in rungs[0.5]}
    assert {t["seconds"] for t in rungs[1.0]} == {2.5 / 2}
    best = max(rungs[1.0], key=lambda t: t["score"])
    assert load_genotype(tables / "run/genotype.yaml") == load_genotype(
        tables / f"run/trials/{best['number']:03d}/trial.yaml"
    )
    rows = read_metrics(tables / "run" / "metrics.csv")
    assert rows[-1]["spent"] == pytest.approx(sum(t["seconds"] for t in trials), abs=0.5)


@pytest.mark.parametrize(("minutes", "finish", "new"), [("null", 3, 16), ("0.2", 3, 10), ("0.2", 12, 5)])
def test_the_predictor_trains_briefly_and_the_best_to_the_end(
    minutes: str, finish: int, new: int, tables: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12 seconds a quarter of a training takes 0.625, its rest 1.875; proposals count nothing here."""
    monkeypatch.setattr(TrialStrategy, "clock", lambda self: 0.0)
    config = on_table("bench_cells", "predictor", f"trials.minutes={minutes}", f"trials.predictor.finish={finish}")
    run_search(config, tables / "run")
    trials = trials_of(tables / "run")
    brief, finished = trials[:new], trials[new:]
    assert len(finished) == min(finish, new)
    assert {(t["share"], t["continues"], t["seconds"]) for t in brief} == {(0.25, None, 2.5 / 4)}
    assert {(t["share"], t["after"], t["seconds"]) for t in finished} == {(1.0, 0.25, 2.5 * 3 / 4)}
    best = sorted(brief, key=lambda t: (-t["score"], t["number"]))[:finish]
    assert [t["continues"] for t in finished] == [t["number"] for t in best]
    assert "no more new genotypes" not in caplog.text
    first = max(finished, key=lambda t: t["score"])
    assert load_genotype(tables / "run/genotype.yaml") == load_genotype(
        tables / f"run/trials/{first['number']:03d}/trial.yaml"
    )
    if minutes == "null":
        assert RunFolder(tables / "run").contents().progress == "19/19"


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_several_processes_leave_time_to_finish_the_best(workers: int, tables: Path) -> None:
    """A minute of trainings of a second, which end in the order of their beginning."""
    config = on_table("bench_chain", "predictor", "trials.minutes=1", "trials.trials=400", "trials.predictor.start=399")
    strategy = PredictorSearch(config, lambda *_: None)
    pending: list[Proposal] = []
    while True:
        while len(pending) < workers and sum(trial.seconds for trial in strategy.observed) < 60:
            proposal = strategy.propose(len(strategy.observed) + len(pending), pending)
            if proposal is None:
                break
            pending.append(proposal)
        if not pending:
            break
        ended, number = pending.pop(0), len(strategy.observed)
        seconds = 4 * (ended.share - ended.after)
        strategy.observe(Trial(**dict(ended), score=0.001 * number, parameters=1, seconds=seconds, number=number))
    spent = sum(trial.seconds for trial in strategy.observed)
    assert [trial.share for trial in strategy.observed[-2:]] == [1.0, 1.0]
    assert {trial.share for trial in strategy.observed[:-2]} == {0.25}
    assert 58 <= spent < 60


def test_a_genotype_whose_training_broke_down_in_the_end_is_not_the_result(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: PredictorSearch, number: int, proposal: Proposal, *_: object) -> float:
        if proposal.continues == 3:
            raise TrainingError("it broke down")
        return 0.1 + 0.01 * number

    monkeypatch.setattr(PredictorSearch, "_train", train)
    run_search(job("predictor", "search.trials.predictor.finish=1"), tmp_path / "run")
    trials = trials_of(tmp_path / "run")
    assert [trial["continues"] for trial in trials] == [None] * 4 + [3]
    assert load_genotype(tmp_path / "run/genotype.yaml") == load_genotype(tmp_path / "run/trials/002/trial.yaml")
    assert read_metrics(tmp_path / "run/metrics.csv")[-1]["best/mAP"] == pytest.approx(0.12)


def test_a_recorded_predictor_keeps_to_whole_trainings(tables: Path) -> None:
    whole = on_table("bench_chain", "predictor", "trials.predictor.share=1")
    found = run_search(whole, tables / "run")
    settings = yaml.safe_load((tables / "run/config.yaml").read_text())
    del settings["search"]["trials"]["predictor"]["share"]
    (tables / "run/config.yaml").write_text(yaml.safe_dump(settings))
    (tables / "run/genotype.yaml").unlink()
    shutil.rmtree(tables / "run/trials/015")
    assert RunFolder(tables / "run").config().section("search").trials.predictor.share == 1
    assert run_search(whole, tables / "run", resume=True) == found


def test_only_what_may_continue_keeps_its_checkpoints(job: Job, tmp_path: Path, monkeypatch: Any) -> None:
    kept: list[list[str]] = []

    def end(self: TrialFolder, trial: Trial) -> None:
        ended(self, trial)
        kept.append(sorted(path.parent.name for path in (tmp_path / "run/trials").glob("*/checkpoints")))

    ended = TrialFolder.end
    monkeypatch.setattr(TrialFolder, "end", end)
    run_search(job("predictor", "search.trials.predictor.finish=1"), tmp_path / "run")
    assert [len(folders) for folders in kept] == [1, 1, 1, 1, 0]
    (best,) = kept[3]
    assert trials_of(tmp_path / "run")[-1]["continues"] == int(best)


def test_proposals_go_on_beyond_a_small_pool(job: Job, tmp_path: Path) -> None:
    few = ["search.trials.epochs=1", "search.epochs=1", "search.trials.proposals.candidates=2"]
    run_search(job("proposals", *few, "search.trials.predictor.start=4"), tmp_path / "run")
    assert len(trials_of(tmp_path / "run")) == 4


def test_a_predictor_of_whole_trainings_has_none_to_finish(tables: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = "trials.predictor.share=1"
    run_search(on_table("bench_chain", "predictor", whole, "trials.predictor.finish=5"), tables / "run")
    assert "search.trials.predictor.finish has no effect: search.trials.predictor.share is 1" in caplog.text
    assert [(t["share"], t["continues"], t["seconds"]) for t in trials_of(tables / "run")] == [(1.0, None, 2.5)] * 16


def test_the_predictor_finishes_what_it_has_where_a_space_is_exhausted(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three genotypes one breaks down; the others are trained to the end."""

    def train(self: PredictorSearch, number: int, proposal: Any, *_: object) -> float:
        if number == 1:
            raise TrainingError("it broke down")
        return 0.1 + 0.01 * number + (0.5 if proposal.share == 1 else 0)

    def candidates(self: PredictorSearch, random: np.random.Generator, known: set[str]) -> list[Any]:
        return [new] if len(known) < 3 and (new := self.draw(random, known)) else []

    monkeypatch.setattr(PredictorSearch, "_train", train)
    monkeypatch.setattr(PredictorSearch, "candidates", candidates)
    run_search(job("predictor", "search.trials.predictor.finish=5"), tmp_path / "run")
    trials = trials_of(tmp_path / "run")
    assert [(t["share"], t["continues"]) for t in trials] == [(0.25, None)] * 3 + [(1.0, 2), (1.0, 0)]
    assert "found no more new genotypes after 3 trials" in caplog.text


def test_best_trials_wait_for_short_ones_of_other_processes(job: Job) -> None:
    strategy = PredictorSearch(job("predictor"), lambda *_: None)
    short = [strategy.propose(number, ()) for number in range(2)]
    for number, proposal in enumerate(short):
        assert proposal is not None
        outcome = {"score": 0.2 + 0.1 * number, "parameters": 1, "seconds": 1.0}
        strategy.observe(Trial(**dict(proposal), **outcome, number=number))
    third = strategy.propose(2, ())
    assert third is not None
    fourth = strategy.propose(3, [third])
    assert fourth is not None
    assert fourth.genotype.identity() != third.genotype.identity()
    assert strategy.propose(4, [third, fourth]) is None
    for number, proposal in enumerate((third, fourth), start=2):
        strategy.observe(Trial(**dict(proposal), score=0.05, parameters=1, seconds=1.0, number=number))
    first = strategy.propose(4, ())
    assert first is not None
    assert (first.continues, first.after, first.share) == (1, 0.25, 1.0)
    second = strategy.propose(5, [first])
    assert second is not None
    assert second.continues == 0
    assert strategy.propose(6, [first, second]) is None


def test_local_search_climbs_by_single_changes_and_starts_anew_at_the_top(tables: Path) -> None:
    for neighbors in ("first", "all"):
        folder = tables / neighbors
        run_search(on_table("bench_cells", "local", "trials.trials=60", f"trials.local.neighbors={neighbors}"), folder)
        trials = trials_of(folder)
        assert all(trial["parent"] is None for trial in trials[:4])
        center = max(trials[:4], key=lambda t: t["score"])
        for trial in trials[4:]:
            if trial["parent"] not in (None, center["number"]):
                moved = trials[trial["parent"]]
                assert moved["score"] > center["score"] or moved["parent"] is None
                center = moved
        assert len({trial["parent"] for trial in trials}) > 2


@pytest.mark.parametrize("name", [*TABLES, "msi"])
def test_neighbors_are_the_architectures_of_the_space_that_differ_in_one_choice(name: str) -> None:
    """Against every change of one of NNI's labels to a value that it has in some genotype."""
    space = load_space(find_shipped_file("search_spaces", name))
    network = space.network(*SIZE)
    kind, generator = kind_of(space), np.random.default_rng(0)
    drawn = [kind.random_genotype(space, network, generator, origin=Origin()) for _ in range(200)]
    options: dict[str, list[Any]] = {}
    for label, value in (pair for each in drawn for pair in each.to_sample().items()):
        if value not in options.setdefault(label, []):
            options[label].append(value)
    for genotype in drawn[:4]:
        sample, expected = genotype.to_sample(), set()
        for label, values in options.items():
            for value in values:
                changed = kind.genotype_of({**sample, label: value}, space, network, origin=Origin())
                expected.add(str(changed.one_hot()))
        found = list(Neighborhood(space, network, Origin()).random(genotype, np.random.default_rng(1)))
        assert len(found) == len({str(each.one_hot()) for each in found})
        assert {str(each.one_hot()) for each in found} == expected - {str(genotype.one_hot())}


def test_a_chains_left_out_blocks_have_no_choices_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(CHAIN)
    space = load_space(tmp_path / "chain.yaml")
    network = space.network(16, 8)
    skipped = decode("k3e1w8&skip+none", space, 16, 8)
    found = {encode(each) for each in Neighborhood(space, network, Origin()).random(skipped, np.random.default_rng(0))}
    assert found == {
        "k5e1w8&skip+none", "k3e2w8&skip+none", "k3e1w12&skip+none", "k3e1w8&k3e1w8+none", "k3e1w8&skip+dcs",
    }  # fmt: skip


def test_cells_that_differ_in_the_order_of_their_nodes_have_one_identity() -> None:
    space = load_space(find_shipped_file("search_spaces", "bench_cells"))
    texts = [
        "skip_connect~0|sep_conv_3x3~1+none",
        "sep_conv_3x3~1|skip_connect~0+none",
        "skip_connect~0|dil_conv_3x3~1+none",
    ]
    first, same, other = (decode(text, space, *SIZE).identity() for text in texts)
    assert first == same != other


def test_both_predictors_order_what_they_know() -> None:
    random = np.random.default_rng(0)
    features, weights = random.standard_normal((40, 6)), random.standard_normal(6)
    scores, unseen = features @ weights, random.standard_normal((60, 6))
    for model in ("gaussian_process", "forest"):
        mean, deviation = predict(PredictorConfig(model=model), features, scores, unseen, seed=0)
        assert np.corrcoef(mean, unseen @ weights)[0, 1] > 0.7
        assert (deviation >= 0).all()
        again = predict(PredictorConfig(model=model), features, scores, unseen, seed=0)
        assert np.array_equal(mean, again.mean)
    mean, deviation = predict(PredictorConfig(), features, scores, features, seed=0)
    assert deviation.max() < predict(PredictorConfig(), features, scores, 10 + features, seed=0).deviation.min()
    flat = predict(PredictorConfig(), features, np.zeros(40), unseen, seed=0)
    assert (flat.mean == 0).all()
    assert (flat.deviation == 1).all()


def test_the_gaussian_process_is_that_of_its_formula() -> None:
    random = np.random.default_rng(0)
    features, scores, unseen = random.standard_normal((7, 3)), random.random(7), random.standard_normal((5, 3))
    mean, spread = scores.mean(), scores.std()

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.array([[np.exp(-((a - b) ** 2).sum() / 2) for b in y] for a in x])

    inverse = np.linalg.inv(kernel(features, features) + 0.1 * np.eye(7))
    cross = kernel(unseen, features)
    found = predict(PredictorConfig(), features, scores, unseen, seed=0)
    np.testing.assert_allclose(found.mean, mean + spread * cross @ inverse @ ((scores - mean) / spread), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, spread * np.sqrt(1 - np.diag(cross @ inverse @ cross.T)), rtol=1e-6)


def test_the_expected_improvement_is_the_mean_of_what_draws_improve() -> None:
    prediction = Prediction(np.array([0.2, 0.5, 0.8, 0.4, 0.9]), np.array([0.3, 0.1, 0.05, 0.0, 0.0]))
    draws = prediction.mean + prediction.deviation * np.random.default_rng(0).standard_normal((400_000, 5))
    expected = np.maximum(draws - 0.6, 0).mean(0)
    np.testing.assert_allclose(expect_improvement(prediction, 0.6), expected, atol=3e-4)


def test_a_pending_trial_counts_with_its_predicted_score(tables: Path) -> None:
    strategy = PredictorSearch(on_table("bench_chain", "predictor"), lambda *_: None)
    random = np.random.default_rng(0)
    drawn = [strategy.proposal(genotype) for genotype in _draw(strategy, 60)]
    for number, proposal in enumerate(drawn[:5]):
        outcome = Outcome(score=float(random.random()), parameters=1, seconds=1)
        strategy.observe(Trial(number=number, **proposal.model_dump(), **outcome.model_dump()))
    rest = [proposal.genotype for proposal in drawn[5:]]
    pending = strategy.choose_promising(5, rest, ())
    rest.remove(pending.genotype)
    unaware, aware = (strategy.choose_promising(6, rest, each) for each in ((), (pending,)))
    assert aware != unaware
    seen = [trial.genotype for trial in strategy.observed]
    features = encode_features([encode_choices(each) for each in (*seen, pending.genotype, *rest)], [{}] * 60)
    scores = np.array([trial.score for trial in strategy.observed])
    mean, _ = predict(PredictorConfig(), features[:5], scores, features[5:6], seed=0)
    strategy.observe(Trial(number=5, score=mean[0], parameters=1, seconds=1, **pending.model_dump()))
    assert strategy.choose_promising(6, rest, ()) == aware


def _draw(strategy: TrialStrategy, count: int) -> list[AnyGenotype]:
    random, known = np.random.default_rng(1), dict[str, AnyGenotype]()
    while len(known) < count:
        genotype = strategy.draw(random, set(known))
        assert genotype is not None
        known[genotype.identity()] = genotype
    return list(known.values())


def test_features_are_encodings_and_ranks_of_equal_weight() -> None:
    encodings = [np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0]), np.array([1.0, 0, 0])]
    evidence = [{"a": 1e9, "b": 1}, {"a": -5, "b": 1}, {"b": 2}, {"a": 0, "b": 3}]
    features = encode_features(encodings, evidence)
    assert features.shape == (4, 5)
    assert features[:, :3].var(0).sum() == pytest.approx(1)
    assert features[:, 3:].var(0).sum() == pytest.approx(1)
    assert np.argsort(features[:, 3]).tolist() == [2, 1, 3, 0]  # a missing score ranks below all
    assert features[0, 4] == features[1, 4] < features[2, 4] < features[3, 4]


Job = Callable[..., Config]


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A tiny job on cells or on a chain, with overrides."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "cells.yaml").write_text(SPACE)
    (folder / "chain.yaml").write_text(CHAIN)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["search"]["space"] = ""
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    small = ["local.start=1", "predictor.start=2", "predictor.candidates=6", "proposals.candidates=5", "sample=1"]

    def config(strategy: str, *overrides: str, space: str = "cells") -> Config:
        own = [f"search.strategy={strategy}", f"search.space={folder / space}.yaml", "search.trials.trials=4"]
        own += [f"search.trials.{setting}" for setting in [*small, "epochs=4"]]
        return load_config(folder / "job.yaml", [*own, *overrides])

    return config


BY_TRAINING = [name for name in STRATEGIES if "nni" not in name and name != "bilevel"]


@pytest.mark.parametrize(("strategy", "space"), list(zip(BY_TRAINING, itertools.cycle(["cells", "chain"]))))
def test_every_strategy_trains(strategy: str, space: str, job: Job, tmp_path: Path) -> None:
    staged = strategy in ("halving", "predictor")
    few = ["search.trials.epochs=4" if staged else "search.trials.epochs=1", "search.epochs=1"]
    evidence = ["search.trials.evidence=[parameters,naswot,synflow,jacobian,gradient_norm]"]
    found = run_search(job(strategy, *few, *evidence, space=space), tmp_path / "run")
    trials = trials_of(tmp_path / "run")
    assert found.kind == space
    assert len(trials) == {"predictor": 4 + 2}.get(strategy, 4) or strategy == "halving"
    assert not list(tmp_path.glob("run/trials/*/checkpoints"))
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    spent = sum(trial["seconds"] + trial["proposal_seconds"] for trial in trials)
    assert rows[-1]["spent"] == pytest.approx(spent, abs=1e-3)
    if strategy in ("predictor", "proposals"):
        names = {"naswot", "synflow", "parameters", "gradient_norm"}
        assert all(names <= set(trial["evidence"]) for trial in trials)
    if strategy == "proposals":
        pool = yaml.safe_load((tmp_path / "run/pool.yaml").read_text())
        assert all("supernet" in trial["evidence"] for trial in trials)
        assert trials[0]["proposal_seconds"] >= pool["seconds"] > trials[1]["proposal_seconds"]
        first = [each["genotype"] for each in pool["candidates"][:2]]
        assert [trial["genotype"] for trial in trials[:2]] == first


def test_proposals_go_by_the_supernet_and_resume_to_the_same_trials(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["search.epochs=2", "search.trials.evidence=[parameters]", "search.trials.predictor.start=2"]
    own += ["search.trials.proposals.supernet=bilevel", "search.trials.proposals.draw=alphas"]
    config = job("proposals", "search.trials.epochs=1", *own)
    whole = run_search(config, tmp_path / "whole")
    pool = yaml.safe_load((tmp_path / "whole/pool.yaml").read_text())["candidates"]
    scores = [each["evidence"]["supernet"] for each in pool]
    assert scores == sorted(scores, reverse=True)
    assert all("parameters" in each["evidence"] for each in pool)
    assert (tmp_path / "whole/supernet/genotype.yaml").is_file()
    for call in (1, 3):  # in the supernet, in a trial
        with monkeypatch.context() as patch:
            patch.setattr(loop.TrainingLoop, "_log_epoch", _interrupted_at(call, loop.TrainingLoop._log_epoch))
            with pytest.raises(KeyboardInterrupt):
                run_search(config, tmp_path / "run", resume=call > 1)
    assert run_search(config, tmp_path / "run", resume=True) == whole
    scores = [[trial["score"] for trial in trials_of(tmp_path / name)] for name in ("whole", "run")]
    assert scores[0] == scores[1]


def test_half_of_evolved_candidates_are_neighbours_of_those_that_the_supernet_scores_best(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a score that counts the first candidate of every row, of which a random genotype has few."""

    def score(self: Proposals, genotype: AnyGenotype) -> dict[str, float]:
        return {"supernet": float(sum(np.array(rows)[:, 0].sum() for rows in genotype.one_hot().values()))}

    monkeypatch.setattr(Proposals, "_score", score)
    pools = {}
    for draw in ("uniform", "evolution"):
        few = ["search.epochs=1", "search.trials.trials=1", "search.trials.epochs=1"]
        own = [f"search.trials.proposals.draw={draw}", "search.trials.proposals.candidates=40"]
        run_search(job("proposals", *few, *own), tmp_path / draw)
        pool = yaml.safe_load((tmp_path / draw / "pool.yaml").read_text())["candidates"]
        pools[draw] = {yaml.safe_dump(each["genotype"]): each["evidence"]["supernet"] for each in pool}
    assert [len(pool) for pool in pools.values()] == [40, 40]
    assert len(pools["uniform"].keys() & pools["evolution"].keys()) >= 20
    assert sum(pools["evolution"].values()) > 1.2 * sum(pools["uniform"].values())


@pytest.mark.parametrize("supernet", ["paths", "bilevel"])
def test_the_supernet_of_proposals_trains_paths_drawn_alike_or_as_a_bilevel_search(
    supernet: str, job: Job, tmp_path: Path
) -> None:
    few = ["search.epochs=2", "search.trials.epochs=1", "search.trials.trials=1", "search.arch_lr=0.1"]
    run_search(job("proposals", *few, f"search.trials.proposals.supernet={supernet}"), tmp_path / "run")
    settings = RunFolder(tmp_path / "run/supernet").config().section("search")
    assert settings.relaxation.kind == ("gumbel" if supernet == "paths" else "softmax")
    assert settings.weight_share == (1 if supernet == "paths" else 0.5)
    state = load_checkpoint(RunFolder(tmp_path / "run/supernet").checkpoint("last"))["state_dict"]
    moved = max(float(value.abs().max()) for name, value in state.items() if "alpha" in name)
    assert (moved > 0.01) == (supernet == "bilevel")


@pytest.mark.parametrize("strategy", ["evolution", "nni.random"])
def test_trials_are_trained_and_returned_at_the_width_of_the_parameters_asked_for(
    strategy: str, job: Job, tmp_path: Path
) -> None:
    wanted = 3000
    few = ["search.trials.epochs=1", f"search.trials.parameters={wanted}"]
    found = run_search(job(strategy, *few), tmp_path / "run")
    trials = trials_of(tmp_path / "run")
    widths = [trial["genotype"]["network"]["channels"] for trial in trials]
    for trial, channels in zip(trials, widths):
        genotype = parse_genotype(trial["genotype"], source="trial")
        distances = []
        for near in (max(1, channels - 1), channels, channels + 1):
            resized = genotype.resize(genotype.network.height, genotype.network.width, channels=near)
            backbone = CellKind().build_fixed_network(resized)
            distances.append(abs(sum(p.numel() for p in backbone.parameters()) - wanted))
        assert min(distances) == distances[1] == abs(trial["parameters"] - wanted)
    assert len(set(widths)) > 1
    assert found.network.channels in widths


def test_more_parameters_than_a_network_may_have_are_refused_before_anything_is_written(
    job: Job, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"search.trials.parameters is 5000000000: the network of this genotype would"):
        run_search(job("proposals", "search.trials.parameters=5000000000"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_number_of_parameters_is_for_cells(job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"search.trials.parameters is for spaces of cells, and this one is of kind"):
        run_search(job("random", "search.trials.parameters=3000", space="chain"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("weight", "best"), [(0, 1), (1, 0)])
def test_the_best_of_proposals_counts_the_supernets_score_too(
    weight: float, best: int, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supernet 0.3 and trial 0.5 against 0.1 and 0.6."""
    monkeypatch.setattr(Proposals, "_score", lambda self, genotype: {"supernet": next(scores)})
    monkeypatch.setattr(Proposals, "_train", lambda self, number, *_: (0.5, 0.6)[number])
    scores = iter([0.3, 0.1, 0.0, 0.0, 0.0])
    few = ["search.epochs=1", "search.trials.trials=2", f"search.trials.proposals.weight={weight}"]
    found = run_search(job("proposals", *few), tmp_path / "run")
    assert found == load_genotype(tmp_path / f"run/trials/00{best}/trial.yaml")
    last = read_metrics(tmp_path / "run" / "metrics.csv")[-1]
    assert last["best/mAP"] == (0.5, 0.6)[best]


def test_a_promoted_training_continues_to_the_bits_of_one_without_a_stop(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job("halving")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", _interrupted_at(5, loop.validate))
        with pytest.raises(KeyboardInterrupt):
            run_search(config, tmp_path / "run")
    run_search(config, tmp_path / "run", resume=True)
    trials = trials_of(tmp_path / "run")
    (last,) = (trial for trial in trials if trial["share"] == 1)
    straight = job("random", "search.trials.trials=2")
    one = STRATEGIES["random"](straight, None)
    assert isinstance(one, TrialStrategy)
    genotype = load_genotype(tmp_path / f"run/trials/{last['number']:03d}/trial.yaml")
    trials_folder = TrialFolder(straight.search.trials, RunFolder(tmp_path / "one"), one.space, most=1)
    outcome = one.evaluate(0, Proposal(genotype=genotype), trials_folder)
    assert outcome.score == last["score"]


def test_workers_train_every_genotype_once_and_a_dead_ones_trial_is_handed_out_again(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers' loop, in this process: one claims a trial, writes it and dies, two go on."""
    folder = tables / "run"
    config = on_table("bench_cells", "evolution", "trials.concurrency=2")
    started: list[Path] = []

    class Child:
        def is_running(self) -> bool:
            return True

        def ask_to_stop(self) -> None:
            pass

        def stop(self) -> None:
            pass

    def start(run: Any, number: int, settings: Any) -> Child:
        started.append(run.path)
        return Child()

    handed: list[int] = []

    def work(_: float) -> None:
        """In place of waiting for workers: what they do meanwhile."""
        strategy = STRATEGIES["evolution"](config, None)
        assert isinstance(strategy, TrialStrategy)
        trials = TrialFolder(config.search.trials, RunFolder(folder), strategy.space, most=16)
        study = parallel._open_study(folder)
        if not handed:
            dead = parallel._next(Worker(folder, study, "dead"))  # its lock in workers/ is not held
            assert dead is not None
            handed.append(dead.number)
            trials.write(dead.number, parallel._proposal(dead), Outcome(score=0.123, parameters=1, seconds=1))
        with register_worker(folder) as one, register_worker(folder) as two:
            claimed = [parallel._next(Worker(folder, study, name)) for name in (one, two)]
            for trial in claimed:
                if trial is not None:
                    handed.append(trial.number)
                    parallel._train(trial, strategy, trials)

    monkeypatch.setattr(parallel, "_start_worker", start)
    monkeypatch.setattr(parallel, "time", SimpleNamespace(sleep=work))
    found = run_search(config, folder)
    assert len(started) == 2
    assert handed.count(0) == 2
    assert trials_of(folder)[0]["score"] == 0.123  # not trained again
    assert sorted(set(handed)) == list(range(16))
    assert len(handed) == 17
    identities = [load_genotype(path).identity() for path in folder.glob("trials/*/trial.yaml")]
    assert len(set(identities)) == len(identities) == 16
    assert found == load_genotype(folder / "genotype.yaml")
    assert len(open_journal(folder).get_all_studies()) == 1
    assert run_search(config, folder, resume=True) == found


def test_a_search_of_one_process_continues_with_workers_as_processes_of_their_own(job: Job, tmp_path: Path) -> None:
    few = ["search.trials.epochs=1", "search.trials.trials=4", "search.trials.predictor.start=4", "search.epochs=1"]
    run_search(job("proposals", *few), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "run")
    (tmp_path / "run/genotype.yaml").unlink()
    for number in range(1, 4):
        shutil.rmtree(tmp_path / f"run/trials/{number:03d}")
    found = run_search(job("proposals", *few, "search.trials.concurrency=2"), tmp_path / "run", resume=True)
    scores = [[trial["score"] for trial in trials_of(tmp_path / name)] for name in ("one", "run")]
    assert scores[0] == scores[1]  # the supernet's order looks at no score
    assert found == load_genotype(tmp_path / "one/genotype.yaml")
    assert len(read_metrics(tmp_path / "run/metrics.csv")) == 4


@pytest.mark.parametrize(
    ("strategy", "override", "said"),
    [
        ("nni.random", "trials.concurrency=2", "trials.concurrency is 2, but strategy nni.random runs in one process"),
        (
            "random",
            "trials.concurrency=2 trials.gpus=[0]",
            "concurrency is 2, but gpus names 1; set concurrency to one",
        ),
        ("local", "trials.local.start=16", "trials.local.start 16 of 16 trials leaves none to choose"),
        ("predictor", "trials.predictor.start=20", "trials.predictor.start 20 of 16 trials leaves none to choose"),
        ("evolution", "trials.population=16", "trials.population 16 of 16 trials leaves none to evolve"),
        ("halving", "trials.halving.rungs=4", "begins with 1/8 of the epochs, but a table has scores after a quarter"),
        ("halving", "trials.halving.factor=3", "begins with 1/9 of the epochs, but a table has"),
        ("halving", "trials.table=null trials.epochs=3", "begins with 1/4 of 3 epochs, less than one; raise trials.ep"),
        ("predictor", "trials.predictor.share=0.3", "share is 0.3, but a table has scores after a quarter, half and a"),
        (
            "predictor",
            "trials.table=null trials.epochs=3",
            "share 0.25 of 3 epochs leaves no whole epoch .*set trials.epochs to 4 or",
        ),
        (
            "predictor",
            "trials.table=null trials.epochs=4 trials.predictor.share=0.9",
            "to 10 or more, or trials.predict",
        ),
        (
            "proposals",
            "trials.evidence=[naswot] trials.predictor.start=20",
            "read by a predictor after 20 trials, but tri",
        ),
        ("predictor", "trials.evidence=[nas_wot]", "trials.evidence.0: .*'naswot'.*found 'nas_wot'"),
        ("random", "trials.parameters=9", "trials.parameters is 9, but trials.table is 'bench_cells', whose networks"),
        ("genetic", "trials.trials=16", "strategy: .*'evolution'.*found 'genetic'"),
    ],
)
def test_combinations_that_make_no_sense_are_refused_in_a_line(strategy: str, override: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        on_table("bench_cells", strategy, *override.split(" "))
    assert "\n" not in str(caught.value)


def test_a_failed_trial_of_proposals_is_not_the_best_so_far(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: Proposals, number: int, *_: object) -> float:
        if number == 0:
            raise TrainingError("it broke down")
        return 0.01

    monkeypatch.setattr(Proposals, "_score", lambda self, genotype: {"supernet": next(scores)})
    monkeypatch.setattr(Proposals, "_train", train)
    scores = iter([0.9, 0.1, 0.0, 0.0, 0.0])
    run_search(job("proposals", "search.epochs=1", "search.trials.trials=2"), tmp_path / "run")
    assert read_metrics(tmp_path / "run" / "metrics.csv")[-1]["best/mAP"] == 0.01


def test_a_recorded_search_by_proposals_keeps_the_supernet_that_it_had(job: Job, tmp_path: Path) -> None:
    run_search(
        job("proposals", "search.epochs=1", "search.trials.trials=1", "search.trials.epochs=1"), tmp_path / "run"
    )
    data = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    data["search"]["trials"]["proposals"] = {"candidates": 5, "draw": "alphas"}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(data))
    settings = RunFolder(tmp_path / "run").config().section("search").trials.proposals
    assert (settings.supernet, settings.batches, settings.weight) == ("bilevel", 8, 0)
