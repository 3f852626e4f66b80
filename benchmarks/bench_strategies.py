"""How good are strategies on a space that is trained as a whole: regret at equal cost, rank correlation of supernets.

    python benchmarks/bench_strategies.py --seeds 20

Searches with a supernet are run on synthetic people by configs/bench_cells.yaml; what each finds, its seconds of
processor time and Kendall's tau of its supernet's scores against the true scores of a random 60 architectures become a
row. Strategies of trials read the table, at the cost that it has recorded, for as many seconds as each of the searches
took with the same seed, and for ten trainings. Resumable: rows that --out holds are kept. --summary prints means.
"""

from __future__ import annotations

import argparse
import csv
import logging
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_table import DATA
from scipy.stats import kendalltau

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.environment import environment
from dcs_nas.files import write_text
from dcs_nas.space import shipped_file
from dcs_nas.space.table import Table
from dcs_nas.strategies.derive import supernet_score
from dcs_nas.strategies.job import run_search

NAME, JUDGED, TEN = "bench_cells", 60, "ten trainings"
SEARCHES: dict[str, list[str]] = {
    "softmax": [],
    "softmax, order 2": ["search.order=2"],
    "gumbel + cost": [
        "search.relaxation.kind=gumbel",
        "search.cost={kind: parameters, form: multiplicative, beta: 0.1}",
    ],
    "gumbel, retrieval": ["search.relaxation.kind=gumbel", "search.derivation=retrieval"],
}
TRIALS = ("random", "nni.evolution")
COLUMNS = ["strategy", "as_long_as", "seed", "seconds", "architecture", "mAP", "rank", "regret", "attention", "tau"]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    table = Table.read(NAME)
    if arguments.summary:
        _summarize(_rows(arguments.out))
        return
    if not table.whole:
        raise SystemExit(f"the table {NAME} has {len(table)} architectures so far; finish it with bench_table.py first")
    data = arguments.work / "people"
    if not data.is_dir():
        write_synthetic(data, settings=SyntheticSettings(**DATA))
    if not arguments.out.is_file():
        _begin(arguments.out, arguments.seeds)
    for seed in range(arguments.seeds):
        budgets = {TEN: 10 * statistics.mean(entry.seconds for entry in table)}
        for name in SEARCHES:
            row = _known(arguments.out, name, "", seed) or _search(name, seed, table, data, arguments)
            budgets[name] = float(row["seconds"])
        for budget, seconds in budgets.items():
            for strategy in TRIALS:
                if not _known(arguments.out, strategy, budget, seed):
                    _try(strategy, budget, seconds, seed, table, arguments)
    _summarize(_rows(arguments.out))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--summary", action="store_true", help="print the means of what there is")
    parser.add_argument("--work", type=Path, default=Path("results/bench"))
    parser.add_argument("--out", type=Path, default=Path("results/reference/bench_strategies.csv"))
    return parser.parse_args()


def _begin(out: Path, seeds: int) -> None:
    versions = ", ".join(f"{package} {version}" for package, version in environment(1)["versions"].items())
    head = [
        f"# python benchmarks/bench_strategies.py --seeds {seeds}; table {NAME}, one thread; {versions}",
        "# seconds: processor time; as_long_as: whose seconds trials had; mAP, regret: points; tau: Kendall's, of",
        f"# the supernet's mAP of identities held out and the table's scores, {JUDGED} random architectures",
    ]
    write_text(out, "\n".join([*head, ",".join(COLUMNS)]) + "\n")


def _search(name: str, seed: int, table: Table, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        own = [f"data.root={data}", f"data.cache={arguments.work / 'cache'}"]
        config = _config(seed, [*own, *SEARCHES[name]])
        began = time.process_time()
        genotype = run_search(config, Path(folder) / "search")
        seconds = time.process_time() - began
        judge = supernet_score(Path(folder) / "search")
        texts = random.Random(seed).sample(sorted(entry.architecture for entry in table), JUDGED)
        scores = [judge(table.genotype(text)) for text in texts]
    tau = kendalltau(scores, [table[text].score for text in texts]).statistic
    return _append(arguments.out, table, genotype, strategy=name, seed=seed, seconds=f"{seconds:.1f}", tau=f"{tau:.3f}")


def _try(
    strategy: str, budget: str, seconds: float, seed: int, table: Table, arguments: argparse.Namespace
) -> dict[str, Any]:
    own = [f"search.strategy={strategy}", f"search.trials.table={NAME}", "search.trials.trials=100000"]
    config = _config(seed, [*own, f"search.trials.minutes={seconds / 60:.4f}"])
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        genotype = run_search(config, Path(folder) / "search")
    row = {"strategy": strategy, "as_long_as": budget, "seed": seed, "seconds": f"{seconds:.1f}"}
    return _append(arguments.out, table, genotype, **row)


def _config(seed: int, overrides: list[str]) -> Config:
    return load_config(shipped_file("configs", NAME), [f"seed={seed}", "trainer.loggers=[]", *overrides])


def _append(out: Path, table: Table, genotype: Any, **row: Any) -> dict[str, Any]:
    entry = table[genotype]
    scores = {"mAP": f"{entry.score:.3f}", "rank": entry.rank, "regret": f"{entry.regret:.3f}"}
    row |= {"architecture": entry.architecture, **scores, "attention": entry.architecture.rpartition("+")[2]}
    with out.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, COLUMNS).writerow(row)
    print(row, flush=True)
    return row


def _rows(out: Path) -> list[dict[str, str]]:
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def _known(out: Path, strategy: str, budget: str, seed: int) -> dict[str, Any] | None:
    wanted = (strategy, budget, str(seed))
    return next((r for r in _rows(out) if (r["strategy"], r["as_long_as"], r["seed"]) == wanted), None)


def _summarize(rows: list[dict[str, str]]) -> None:
    for strategy, budget in dict.fromkeys((row["strategy"], row["as_long_as"]) for row in rows):
        own = [row for row in rows if (row["strategy"], row["as_long_as"]) == (strategy, budget)]
        regrets = [float(row["regret"]) for row in own]
        taus = [float(row["tau"]) for row in own if row["tau"]]
        spread = f" +- {statistics.stdev(regrets):.2f}" if len(own) > 1 else ""
        name = f"{strategy}, as long as {budget}" if budget else strategy
        tau = f", tau {statistics.mean(taus):.2f}" if taus else ""
        seconds = statistics.mean(float(row["seconds"]) for row in own)
        print(f"{name}: regret {statistics.mean(regrets):.2f}{spread}, {seconds:.0f} s, {len(own)} seeds{tau}")


if __name__ == "__main__":
    logging.getLogger("dcs_nas").setLevel(logging.WARNING)
    main()
