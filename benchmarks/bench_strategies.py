"""How good are strategies on a space that is trained as a whole: regret at equal cost, rank correlation of supernets.

    python benchmarks/bench_strategies.py
    python benchmarks/bench_strategies.py --table bench_chain

Searches with a supernet are run on synthetic people by configs/TABLE.yaml; what each finds, its seconds of processor
time and Kendall's tau of its supernet's scores against the true scores of a random 60 architectures become a row. The
seconds are those of the machine of the table: three of its trainings, repeated first, say how much faster this one is.
Strategies by trials read the table, at the cost that it has recorded, for as many seconds as each of the searches took
with the same seed, and for ten trainings; those that look at images too, for scores without training or a supernet of
their own, for ten trainings alone. Everything that they spend counts. Resumable: rows that --out holds are kept.
--only takes strategies; without a search among them the rest have ten trainings each. --summary prints means, and what
the noise of the table leaves to a strategy that knows every architecture's true score.
"""

from __future__ import annotations

import argparse
import functools
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_table import DATA, train
from measure import append_row, begin_table, read_rows, reference_file, shrink_by_noise
from scipy.stats import kendalltau

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.runs import read_metrics
from dcs_nas.space import find_shipped_file
from dcs_nas.space.table import TABLES, Table
from dcs_nas.strategies.derive import score_supernet
from dcs_nas.strategies.job import run_search

JUDGED, TEN = 60, "ten trainings"
ALPHAS = [
    "search.epochs=10", "search.warmup_epochs=2", "search.arch_lr=0.02", "search.validate_every=5",
    "search.guard={eigenvalue_iterations: 0}",
]  # fmt: skip
BILEVEL, SAMPLED = ["search.strategy=bilevel", *ALPHAS], ["search.relaxation.kind=gumbel"]
SEARCHES: dict[str, list[str]] = {
    "softmax": BILEVEL,
    "softmax, order 2": [*BILEVEL, "search.order=2"],
    "gumbel + cost": [*BILEVEL, *SAMPLED, "search.cost={kind: parameters, form: multiplicative, beta: 0.1}"],
    "gumbel, retrieval": [*BILEVEL, *SAMPLED, "search.derivation=retrieval"],
}
FEW = "search.trials.predictor.start=3"  # of ten trainings
EVOLUTION = ["search.trials.population=5", "search.trials.sample=3"]
ZERO_COST = "search.trials.evidence=[parameters,naswot,synflow,jacobian,gradient_norm]"
PROPOSALS = ["search.strategy=proposals", "search.epochs=12", "search.trials.proposals.candidates=100"]
TRIALS: dict[str, list[str]] = {
    "random": ["search.strategy=random"],
    "evolution": ["search.strategy=evolution", *EVOLUTION],
    "local": ["search.strategy=local", "search.trials.local.start=3"],
    "predictor": ["search.strategy=predictor"],
    "predictor, whole trainings": ["search.strategy=predictor", FEW, "search.trials.predictor.share=1"],
    "halving": ["search.strategy=halving"],
    "nni.evolution": ["search.strategy=nni.evolution", *EVOLUTION],
    "nni.evolution, population 10": ["search.strategy=nni.evolution"],
}
WITH_IMAGES: dict[str, list[str]] = {
    "predictor, zero-cost": ["search.strategy=predictor", ZERO_COST],
    "proposals": PROPOSALS,
    "proposals, evolved": [*PROPOSALS, "search.trials.proposals.draw=evolution"],
    "proposals, predictor": [*PROPOSALS, "search.trials.predictor.start=3"],
    "proposals, zero-cost": [*PROPOSALS, "search.trials.predictor.start=3", ZERO_COST],
    "proposals, bilevel": [
        "search.strategy=proposals",
        FEW,
        *ALPHAS,
        *SAMPLED,
        "search.trials.proposals.supernet=bilevel",
    ],
}
COLUMNS = ["strategy", "as_long_as", "seed", "seconds", "architecture", "mAP", "rank", "regret", "attention", "tau"]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    table = Table.read(arguments.table)
    if arguments.summary:
        _summarize(read_rows(arguments.out), table)
        return
    if not table.whole:
        raise SystemExit(
            f"the table {table.name} has {len(table)} architectures so far; finish it by bench_table.py first"
        )
    data = arguments.work / "people"
    if not data.is_dir():
        write_synthetic(data, settings=SyntheticSettings(**DATA))
    if not arguments.out.is_file():
        _begin(arguments)
    speed = functools.cache(lambda: _measure_speed(table, data, arguments.work))
    for seed in arguments.seeds:
        budgets = {TEN: 10 * statistics.mean(entry.seconds for entry in table)}
        for name in [name for name in SEARCHES if name in arguments.only]:
            row = _known(arguments.out, name, "", seed) or _search(name, seed, table, data, speed, arguments)
            budgets[name] = float(row["seconds"])
        for budget, seconds in budgets.items():
            for strategy, overrides in (TRIALS | (WITH_IMAGES if budget == TEN else {})).items():
                cells_alone = strategy.startswith("nni.") and table.space.kind != "cells"
                if strategy in arguments.only and not (cells_alone or _known(arguments.out, strategy, budget, seed)):
                    _try(strategy, [*overrides, f"data.root={data}"], budget, seconds, seed, table, arguments)
    _summarize(read_rows(arguments.out), table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    names = [*SEARCHES, *TRIALS, *WITH_IMAGES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="strategies")
    parser.add_argument("--table", choices=TABLES, default="bench_cells")
    parser.add_argument("--summary", action="store_true", help="print the means of what there is")
    parser.add_argument("--work", type=Path, default=Path("results/bench"))
    parser.add_argument("--out", type=Path, help="by default results/reference/bench_strategies.csv, or ..._chain.csv")
    arguments = parser.parse_args()
    arguments.out = arguments.out or reference_file("bench_strategies", arguments.table)
    return arguments


def _begin(arguments: argparse.Namespace) -> None:
    command = f"python benchmarks/bench_strategies.py --table {arguments.table}"
    notes = [
        "seconds: processor time of the table's machine; as_long_as: whose seconds trials had; mAP, regret: points",
        f"tau: Kendall's, of the supernet's mAP of identities held out and the table's scores, {JUDGED} random ones",
    ]
    begin_table(arguments.out, command, notes, COLUMNS)


def _measure_speed(table: Table, data: Path, work: Path, *, trainings: int = 3) -> float:
    """Return how many seconds of the table's machine a second of processor time is here."""
    drawn = random.Random(0).sample(sorted(entry.architecture for entry in table), trainings)
    here = sum(float(train(text, table.seeds[0], table.name, data, work)["seconds"]) for text in drawn)
    there = sum(table[text].trainings[table.seeds[0]].seconds for text in drawn)
    print(f"{trainings} trainings took {here:.0f} s, in the table {there:.0f} s", flush=True)
    return there / here


def _search(
    name: str, seed: int, table: Table, data: Path, speed: Callable[[], float], arguments: argparse.Namespace
) -> dict[str, Any]:
    scale = speed()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        own = [f"data.root={data}", f"data.cache={arguments.work / 'cache'}"]
        config = _config(table, seed, [*own, *SEARCHES[name]])
        began = time.process_time()
        genotype = run_search(config, Path(folder) / "search")
        seconds = scale * (time.process_time() - began)
        judge = score_supernet(Path(folder) / "search")
        texts = random.Random(seed).sample(sorted(entry.architecture for entry in table), JUDGED)
        scores = [judge(table.genotype(text)) for text in texts]
    tau = kendalltau(scores, [table[text].score for text in texts]).statistic
    return _append(arguments.out, table, genotype, strategy=name, seed=seed, seconds=f"{seconds:.1f}", tau=f"{tau:.3f}")


def _try(
    strategy: str, overrides: list[str], budget: str, seconds: float, seed: int, table: Table,
    arguments: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    own = [f"search.trials.table={table.name}", "search.trials.trials=100000", f"data.cache={arguments.work / 'cache'}"]
    config = _config(table, seed, [*own, *overrides, f"search.trials.minutes={seconds / 60:.4f}"])
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        genotype = run_search(config, Path(folder) / "search")
        spent = read_metrics(Path(folder) / "search" / "metrics.csv")[-1]["spent"]
    row = {"strategy": strategy, "as_long_as": budget, "seed": seed, "seconds": f"{spent:.1f}"}
    return _append(arguments.out, table, genotype, **row)


def _config(table: Table, seed: int, overrides: list[str]) -> Config:
    return load_config(find_shipped_file("configs", table.name), [f"seed={seed}", "trainer.loggers=[]", *overrides])


def _append(out: Path, table: Table, genotype: Any, **row: Any) -> dict[str, Any]:
    entry = table[genotype]
    scores = {"mAP": f"{entry.score:.3f}", "rank": entry.rank, "regret": f"{entry.regret:.3f}"}
    row |= {"architecture": entry.architecture, **scores, "attention": entry.architecture.rpartition("+")[2]}
    append_row(out, COLUMNS, row)
    print(row, flush=True)
    return row


def _known(out: Path, strategy: str, budget: str, seed: int) -> dict[str, Any] | None:
    wanted = (strategy, budget, str(seed))
    return next((r for r in read_rows(out) if (r["strategy"], r["as_long_as"], r["seed"]) == wanted), None)


def _summarize(rows: list[dict[str, str]], table: Table) -> None:
    for what, regret, within in _least_regrets(table):
        print(f"{what}: regret {regret:.2f}, {within:.0%} within the best 2 % (simulated)")
    for strategy, budget in dict.fromkeys((row["strategy"], row["as_long_as"]) for row in rows):
        own = [row for row in rows if (row["strategy"], row["as_long_as"]) == (strategy, budget)]
        regrets = [float(row["regret"]) for row in own]
        taus = [float(row["tau"]) for row in own if row["tau"]]
        spread = f" +- {statistics.stdev(regrets):.2f}" if len(own) > 1 else ""
        name = f"{strategy}, as long as {budget}" if budget else strategy
        tau = f", tau {statistics.mean(taus):.2f}" if taus else ""
        seconds = statistics.mean(float(row["seconds"]) for row in own)
        print(f"{name}: regret {statistics.mean(regrets):.2f}{spread}, {seconds:.0f} s, {len(own)} seeds{tau}")


def _least_regrets(table: Table, *, draws: int = 5000) -> Iterator[tuple[str, float, float]]:
    """Yield regrets, and the share within the best 2 %, of choices by true scores, which no strategy can know.

    The scores are simulated: true ones, see ``shrink_by_noise``, and noise.
    """
    if table.noise is None:
        return
    scores, noise = np.array([entry.score for entry in table]), table.noise.score
    true = shrink_by_noise(scores, noise)
    random, count = np.random.default_rng(0), max(1, len(true) // 50)
    order = np.argsort(-true)
    for what, best in (("the true best", 1), ("one of the true best 2 %", count)):
        regrets, ranks = [], []
        for _ in range(draws):
            drawn = true + random.normal(0, noise, len(true))
            chosen = drawn[random.choice(order[:best])]
            regrets.append(drawn.max() - chosen)
            ranks.append(int((drawn > chosen).sum()))
        yield what, statistics.mean(regrets), statistics.mean(rank < count for rank in ranks)


if __name__ == "__main__":
    logging.getLogger("dcs_nas").setLevel(logging.WARNING)
    main()
