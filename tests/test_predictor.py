"""The strategy predictor: its model, and short trainings of which the best go on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dcs_nas.config import PredictorConfig
from dcs_nas.errors import TrainingError
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.space import AnyGenotype, load_genotype
from dcs_nas.strategies.job import run_search
from dcs_nas.strategies.neighbors import encode_choices
from dcs_nas.strategies.predictor import PredictorSearch
from dcs_nas.strategies.surrogate import Prediction, encode_features, expect_improvement, predict
from dcs_nas.strategies.trial_strategy import TrialStrategy
from dcs_nas.strategies.trials import Outcome, Proposal, Trial, TrialFolder
from tests.trial_searches import Job, on_table, trials_of


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


def test_a_draw_that_fails_while_others_train_does_not_end_the_search(tables: Path) -> None:
    search = PredictorSearch(on_table("bench_cells", "predictor"), None)
    genotype = search.draw(search.random(0), set())
    assert genotype is not None
    search.propose_new = lambda number, pending: None  # type: ignore[method-assign]
    assert search.propose(1, [Proposal(genotype=genotype)]) is None
    assert not search.exhausted
    assert search.propose(1, []) is None
    assert search.exhausted


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
    trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: PredictorSearch, number: int, proposal: Proposal, *_: object) -> float:
        if proposal.continues == 3:
            raise TrainingError("it broke down")
        return 0.1 + 0.01 * number

    monkeypatch.setattr(PredictorSearch, "_train", train)
    run_search(trial_job("predictor", "search.trials.predictor.finish=1"), tmp_path / "run")
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


def test_only_what_may_continue_keeps_its_checkpoints(trial_job: Job, tmp_path: Path, monkeypatch: Any) -> None:
    kept: list[list[str]] = []

    def end(self: TrialFolder, trial: Trial) -> None:
        ended(self, trial)
        kept.append(sorted(path.parent.name for path in (tmp_path / "run/trials").glob("*/checkpoints")))

    ended = TrialFolder.end
    monkeypatch.setattr(TrialFolder, "end", end)
    run_search(trial_job("predictor", "search.trials.predictor.finish=1"), tmp_path / "run")
    assert [len(folders) for folders in kept] == [1, 1, 1, 1, 0]
    (best,) = kept[3]
    assert trials_of(tmp_path / "run")[-1]["continues"] == int(best)


def test_a_predictor_of_whole_trainings_has_none_to_finish(tables: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = "trials.predictor.share=1"
    run_search(on_table("bench_chain", "predictor", whole, "trials.predictor.finish=5"), tables / "run")
    assert "search.trials.predictor.finish has no effect: search.trials.predictor.share is 1" in caplog.text
    assert [(t["share"], t["continues"], t["seconds"]) for t in trials_of(tables / "run")] == [(1.0, None, 2.5)] * 16


def test_the_predictor_finishes_what_it_has_where_a_space_is_exhausted(
    trial_job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
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
    run_search(trial_job("predictor", "search.trials.predictor.finish=5"), tmp_path / "run")
    trials = trials_of(tmp_path / "run")
    assert [(t["share"], t["continues"]) for t in trials] == [(0.25, None)] * 3 + [(1.0, 2), (1.0, 0)]
    assert "found no more new genotypes after 3 trials" in caplog.text


def test_best_trials_wait_for_short_ones_of_other_processes(trial_job: Job) -> None:
    strategy = PredictorSearch(trial_job("predictor"), lambda *_: None)
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


def test_features_are_encodings_and_ranks_of_equal_weight() -> None:
    encodings = [np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0]), np.array([1.0, 0, 0])]
    evidence = [{"a": 1e9, "b": 1}, {"a": -5, "b": 1}, {"b": 2}, {"a": 0, "b": 3}]
    features = encode_features(encodings, evidence)
    assert features.shape == (4, 5)
    assert features[:, :3].var(0).sum() == pytest.approx(1)
    assert features[:, 3:].var(0).sum() == pytest.approx(1)
    assert np.argsort(features[:, 3]).tolist() == [2, 1, 3, 0]  # a missing score ranks below all
    assert features[0, 4] == features[1, 4] < features[2, 4] < features[3, 4]
