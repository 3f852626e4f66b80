"""Strategies by trials: on made-up tables of whole spaces, and end to end on eight synthetic people."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dcs_nas.errors import InputError, TrainingError
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.report.graphs import draw_history
from dcs_nas.report.page import Options, write_report
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.space import find_shipped_file, load_genotype, load_space, parse_genotype
from dcs_nas.space.architectures import architectures, decode, encode
from dcs_nas.space.table import SIZE, TABLES
from dcs_nas.strategies import trial_strategy
from dcs_nas.strategies.job import STRATEGIES, run_search
from dcs_nas.strategies.local_search import LocalSearch
from dcs_nas.strategies.neighbors import encode_choices
from dcs_nas.strategies.trial_strategy import TrialStrategy
from dcs_nas.strategies.trials import Proposal, Trial, TrialFolder
from dcs_nas.training import loop
from tests.command_line import run_command
from tests.test_baselines import _interrupted_at
from tests.trial_searches import Job, on_table, trials_of

ON_TABLES = ["random", "evolution", "local", "predictor", "halving"]


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


BY_TRAINING = [name for name in STRATEGIES if "nni" not in name and name != "bilevel"]


@pytest.mark.parametrize(("strategy", "space"), list(zip(BY_TRAINING, itertools.cycle(["cells", "chain"]))))
def test_every_strategy_trains(strategy: str, space: str, trial_job: Job, tmp_path: Path) -> None:
    staged = strategy in ("halving", "predictor")
    few = ["search.trials.epochs=4" if staged else "search.trials.epochs=1", "search.epochs=1"]
    evidence = ["search.trials.evidence=[parameters,naswot,synflow,jacobian,gradient_norm]"]
    found = run_search(trial_job(strategy, *few, *evidence, space=space), tmp_path / "run")
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


@pytest.mark.parametrize("strategy", ["evolution", "nni.random"])
def test_trials_are_trained_and_returned_at_the_width_of_the_parameters_asked_for(
    strategy: str, trial_job: Job, tmp_path: Path
) -> None:
    wanted = 3000
    few = ["search.trials.epochs=1", f"search.trials.parameters={wanted}"]
    found = run_search(trial_job(strategy, *few), tmp_path / "run")
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
    trial_job: Job, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"search.trials.parameters is 5000000000: .* at another size: channels: .* 2048"
    ):
        run_search(trial_job("proposals", "search.trials.parameters=5000000000"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_number_of_parameters_is_for_cells(trial_job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"search.trials.parameters is for spaces of cells, and this one is of kind"):
        run_search(trial_job("random", "search.trials.parameters=3000", space="chain"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_promoted_training_continues_to_the_bits_of_one_without_a_stop(
    trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trial_job("halving")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", _interrupted_at(5, loop.validate))
        with pytest.raises(KeyboardInterrupt):
            run_search(config, tmp_path / "run")
    run_search(config, tmp_path / "run", resume=True)
    trials = trials_of(tmp_path / "run")
    (last,) = (trial for trial in trials if trial["share"] == 1)
    straight = trial_job("random", "search.trials.trials=2")
    one = STRATEGIES["random"](straight, None)
    assert isinstance(one, TrialStrategy)
    genotype = load_genotype(tmp_path / f"run/trials/{last['number']:03d}/trial.yaml")
    trials_folder = TrialFolder(straight.search.trials, RunFolder(tmp_path / "one"), one.space, most=1)
    outcome = one.evaluate(0, Proposal(genotype=genotype), trials_folder)
    assert outcome.score == last["score"]


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


@pytest.mark.parametrize("workers", [1, 4])
def test_local_search_leaves_its_center_for_a_worse_trial_only_where_all_neighbours_are_known(
    workers: int, tables: Path
) -> None:
    """Random trials that several processes began at first, and that end after the first neighbour."""
    strategy = LocalSearch(on_table("bench_cells", "local"), lambda *_: None)
    random, pending = np.random.default_rng(0), list[Proposal]()
    for number in range(60):
        while len(pending) < workers and (proposal := strategy.propose(number + len(pending), pending)) is not None:
            pending.append(proposal)
        center, known = strategy.center, strategy.list_known(pending[1:])
        ended = Trial(**dict(pending.pop(0)), score=random.random(), parameters=1, seconds=1, number=number)
        neighbors = set() if center is None else set(strategy._neighbors)
        strategy.observe(ended)
        if center is not None and strategy.center is not None and strategy.center.score < center.score:
            assert neighbors <= known | {ended.genotype.identity()}


@pytest.mark.parametrize(("strategy", "processes"), [("proposals", 1), ("random", 2)])
def test_a_search_continues_with_its_images_elsewhere(
    strategy: str, processes: int, trial_job: Job, people: Path, tmp_path: Path
) -> None:
    own = [f"search.trials.concurrency={processes}", "search.trials.epochs=1", "search.epochs=1"]
    shutil.copytree(people, tmp_path / "here")
    config = trial_job(strategy, *own, f"data.root={tmp_path / 'here'}")
    found = run_search(config, tmp_path / "run")
    shutil.move(tmp_path / "here", tmp_path / "there")
    (tmp_path / "run/genotype.yaml").unlink()
    (tmp_path / "run/journal.log").unlink(missing_ok=True)
    for number in (2, 3):
        shutil.rmtree(tmp_path / f"run/trials/{number:03d}")
    moved = trial_job(strategy, *own, f"data.root={tmp_path / 'there'}")
    assert run_search(moved, tmp_path / "run", resume=True) == found


def test_an_interrupted_trial_continues_with_the_genotype_that_it_began(
    trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trial_job("random", "search.trials.trials=2")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", _interrupted_at(1, loop.validate))
        with pytest.raises(KeyboardInterrupt):
            run_search(config, tmp_path / "run")
    begun = load_genotype(tmp_path / "run/trials/000/proposal.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(TrialStrategy, "random", lambda self, number: np.random.default_rng(99 + number))
        run_search(config, tmp_path / "run", resume=True)
    assert load_genotype(tmp_path / "run/trials/000/trial.yaml") == begun
    assert not list(tmp_path.glob("run/trials/*/proposal.yaml"))


def test_a_genotype_too_large_for_the_memory_loses_and_the_search_continues(
    trial_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = trial_strategy.train_trial, []

    def full(*arguments: Any, **options: Any) -> float:
        calls.append(1)
        if len(calls) == failing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return train(*arguments, **options)

    monkeypatch.setattr(trial_strategy, "train_trial", full)
    failing = 2
    run_search(trial_job("random", "search.trials.epochs=1", "search.trials.trials=3"), tmp_path / "run")
    problems = [trial.get("problem") for trial in trials_of(tmp_path / "run")]
    assert "CUDA out of memory" in problems[1]
    assert not problems[0]
    assert not problems[2]
    failing = len(calls) + 1
    with pytest.raises((torch.OutOfMemoryError, InputError, TrainingError), match="out of|memory"):
        run_search(trial_job("random", "search.trials.epochs=1", "search.trials.trials=2"), tmp_path / "all")


def test_a_single_random_genotype_has_the_parameters_asked_for(trial_job: Job, tmp_path: Path) -> None:
    own = ["search.trials.trials=1", "search.trials.parameters=3000"]
    found = run_search(trial_job("random", *own), tmp_path / "run")
    (row,) = read_metrics(tmp_path / "run/metrics.csv")
    assert found == CellKind().fit_width(found, 3000)
    assert row["parameters"] == pytest.approx(3000, rel=0.3)
