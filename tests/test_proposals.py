"""The strategy proposals: a supernet proposes, trainings decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dcs_nas.config import RetrainConfig
from dcs_nas.errors import TrainingError
from dcs_nas.models.build import build_fixed
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.space import AnyGenotype, load_genotype
from dcs_nas.strategies.job import run_search
from dcs_nas.strategies.proposals import Proposals
from dcs_nas.training import loop
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.supernet_weights import inherit, load_supernet
from tests.run_folders import foreign_names
from tests.test_baselines import _interrupted_at
from tests.trial_searches import Job, trials_of


def test_proposals_go_on_beyond_a_small_pool(trial_job: Job, tmp_path: Path) -> None:
    few = ["search.trials.epochs=1", "search.epochs=1", "search.trials.proposals.candidates=2"]
    run_search(trial_job("proposals", *few, "search.trials.predictor.start=4"), tmp_path / "run")
    assert len(trials_of(tmp_path / "run")) == 4


def test_proposals_go_by_the_supernet_and_resume_to_the_same_trials(
    trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["search.epochs=2", "search.trials.evidence=[parameters]", "search.trials.predictor.start=2"]
    own += ["search.trials.proposals.supernet=bilevel", "search.trials.proposals.draw=alphas"]
    config = trial_job("proposals", "search.trials.epochs=1", *own)
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
    trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a score that counts the first candidate of every row, of which a random genotype has few."""

    def score(self: Proposals, genotype: AnyGenotype) -> dict[str, float]:
        return {"supernet": float(sum(np.array(rows)[:, 0].sum() for rows in genotype.one_hot().values()))}

    monkeypatch.setattr(Proposals, "_score", score)
    pools = {}
    for draw in ("uniform", "evolution"):
        few = ["search.epochs=1", "search.trials.trials=1", "search.trials.epochs=1"]
        own = [f"search.trials.proposals.draw={draw}", "search.trials.proposals.candidates=40"]
        run_search(trial_job("proposals", *few, *own), tmp_path / draw)
        pool = yaml.safe_load((tmp_path / draw / "pool.yaml").read_text())["candidates"]
        pools[draw] = {yaml.safe_dump(each["genotype"]): each["evidence"]["supernet"] for each in pool}
    assert [len(pool) for pool in pools.values()] == [40, 40]
    assert len(pools["uniform"].keys() & pools["evolution"].keys()) >= 20
    assert sum(pools["evolution"].values()) > 1.2 * sum(pools["uniform"].values())


@pytest.mark.parametrize("supernet", ["paths", "bilevel"])
def test_the_supernet_of_proposals_trains_paths_drawn_alike_or_as_a_bilevel_search(
    supernet: str, trial_job: Job, tmp_path: Path
) -> None:
    few = ["search.epochs=2", "search.trials.epochs=1", "search.trials.trials=1", "search.arch_lr=0.1"]
    run_search(trial_job("proposals", *few, f"search.trials.proposals.supernet={supernet}"), tmp_path / "run")
    settings = RunFolder(tmp_path / "run/supernet").config().section("search")
    assert settings.relaxation.kind == ("gumbel" if supernet == "paths" else "softmax")
    assert settings.weight_share == (1 if supernet == "paths" else 0.5)
    state = load_checkpoint(RunFolder(tmp_path / "run/supernet").checkpoint("last"))["state_dict"]
    moved = max(float(value.abs().max()) for name, value in state.items() if "alpha" in name)
    assert (moved > 0.01) == (supernet == "bilevel")
    assert not foreign_names(tmp_path / "run")
    space, network = load_supernet(tmp_path / "run")[1:]
    genotype = RunFolder(tmp_path / "run").genotype()
    fixed = build_fixed(RetrainConfig(), RunFolder(tmp_path / "run").config().data, 3, genotype)
    inherit(fixed, genotype, tmp_path / "run")
    inherited = network.backbone.inherit_state(genotype)
    assert inherited
    for name, tensor in inherited.items():
        torch.testing.assert_close(fixed.backbone.state_dict()[name], tensor)
    assert space.name == genotype.space.name


@pytest.mark.parametrize(("weight", "best"), [(0, 1), (1, 0)])
def test_the_best_of_proposals_counts_the_supernets_score_too(
    weight: float, best: int, trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supernet 0.3 and trial 0.5 against 0.1 and 0.6."""
    monkeypatch.setattr(Proposals, "_score", lambda self, genotype: {"supernet": next(scores)})
    monkeypatch.setattr(Proposals, "_train", lambda self, number, *_: (0.5, 0.6)[number])
    scores = iter([0.3, 0.1, 0.0, 0.0, 0.0])
    few = ["search.epochs=1", "search.trials.trials=2", f"search.trials.proposals.weight={weight}"]
    found = run_search(trial_job("proposals", *few), tmp_path / "run")
    assert found == load_genotype(tmp_path / f"run/trials/00{best}/trial.yaml")
    last = read_metrics(tmp_path / "run" / "metrics.csv")[-1]
    assert last["best/mAP"] == (0.5, 0.6)[best]


def test_a_failed_trial_of_proposals_is_not_the_best_so_far(
    trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: Proposals, number: int, *_: object) -> float:
        if number == 0:
            raise TrainingError("it broke down")
        return 0.01

    monkeypatch.setattr(Proposals, "_score", lambda self, genotype: {"supernet": next(scores)})
    monkeypatch.setattr(Proposals, "_train", train)
    scores = iter([0.9, 0.1, 0.0, 0.0, 0.0])
    run_search(trial_job("proposals", "search.epochs=1", "search.trials.trials=2"), tmp_path / "run")
    assert read_metrics(tmp_path / "run" / "metrics.csv")[-1]["best/mAP"] == 0.01


def test_a_recorded_search_by_proposals_keeps_the_supernet_that_it_had(trial_job: Job, tmp_path: Path) -> None:
    run_search(
        trial_job("proposals", "search.epochs=1", "search.trials.trials=1", "search.trials.epochs=1"), tmp_path / "run"
    )
    data = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    data["search"]["trials"]["proposals"] = {"candidates": 5, "draw": "alphas"}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(data))
    settings = RunFolder(tmp_path / "run").config().section("search").trials.proposals
    assert (settings.supernet, settings.batches, settings.weight) == ("bilevel", 8, 0)
