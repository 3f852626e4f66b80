"""Rank the networks of a space by supernets and by scores without training, and compare with their trainings.

    python benchmarks/supernet_ranking.py --seeds 0 1 2
    python benchmarks/supernet_ranking.py --table bench_chain
    python benchmarks/supernet_ranking.py --summary

Each row is one supernet, trained on the synthetic identities of a table, or one zero-cost score. It scores the
architectures that the table holds with at least three seeds, at most 60; Kendall's tau is between these scores and the
mean test mAP of the table. ``tau_within`` is the mean over the kinds of attention, each alone. The last column keeps
the scores, so that --summary can join them: mean ranks of several supernets, of a supernet and a zero-cost score, and
of both with the validation mAP of a training of a quarter of the epochs, which the table holds; and the regret of
choices simulated with these scores and the table's trainings.
Resumable: rows that --out holds are kept.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from bench_strategies import BILEVEL
from bench_table import DATA
from measure import append_row, begin_table, read_rows, reference_file, shrink_by_noise
from scipy.stats import kendalltau, rankdata

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.files import write_text
from dcs_nas.models.relaxation import Gumbel, Sample
from dcs_nas.models.space_kinds import kind_of
from dcs_nas.settings import to_yaml
from dcs_nas.space import Origin, SpaceReference, find_shipped_file, load_space
from dcs_nas.space.table import TABLES, Entry, Table
from dcs_nas.strategies.bilevel import BilevelSearch, without_gradients
from dcs_nas.strategies.derive import score_supernet
from dcs_nas.strategies.evidence import Evidence
from dcs_nas.strategies.job import run_search
from dcs_nas.strategies.proposals import supernet_settings
from dcs_nas.strategies.random_search import RandomSearch
from dcs_nas.strategies.zero_cost import ZERO_COST

MOST, SEEDS_OF_TRUTH = 60, 3
COLUMNS = ["score", "seed", "train_seconds", "score_seconds", "tau", "tau_within", "scores"]
SPLIT = "a supernet for each attention, 3 epochs each"
Patch = Callable[[Config, Table], AbstractContextManager[Any]]


def _epochs(count: int, *more: str) -> list[str]:
    """Return the overrides of a supernet of single paths, as the strategy proposals trains it."""
    return ["search.strategy=proposals", f"search.epochs={count}", *more]


def _no_patch(config: Config, table: Table) -> AbstractContextManager[Any]:
    return nullcontext()


def _fair(config: Config, table: Table) -> AbstractContextManager[Any]:
    """Draw every candidate of an edge once before any is drawn again (FairNAS, arXiv 1907.01845, strict fairness)."""
    left: dict[tuple[int, int], torch.Tensor] = {}

    def sample(self: Gumbel, alpha: torch.Tensor) -> Sample:
        key = (id(self), len(alpha))
        if key not in left or not left[key].shape[1]:
            left[key] = torch.rand(alpha.shape).argsort(dim=1)
        chosen, left[key] = left[key][:, :1], left[key][:, 1:]
        one = torch.zeros_like(alpha).scatter_(-1, chosen, 1.0)
        return Sample(one + (alpha - alpha.detach()), chosen.tolist())

    return mock.patch.object(Gumbel, "sample", sample)


def _not_recalibrated(config: Config, table: Table) -> AbstractContextManager[Any]:
    """Score with the running statistics of all paths together."""
    return mock.patch("dcs_nas.strategies.derive.recalibrate_statistics", return_value=nullcontext())


def _genotypes(count: int, *, extremes: bool = False) -> Patch:
    """Train networks of the space, with the edges that they keep, in place of one operation on every edge.

    A step takes the mean gradient of ``count`` random genotypes, with ``extremes`` also of those of the least and the
    most multiply-adds: the sandwich rule (Yu, Huang, arXiv 1903.05134).
    """

    def patch(config: Config, table: Table) -> AbstractContextManager[Any]:
        kind, spec = kind_of(table.space), table.space.network(config.data.height, config.data.width)
        random = np.random.default_rng(config.seed)
        origin = Origin(data="synthetic", seed=config.seed, method="drawn")
        by_cost = sorted(table, key=lambda entry: entry.multiply_adds)
        always = [table.genotype(by_cost[i].architecture) for i in (0, -1)] if extremes else []

        def step(self: BilevelSearch, current: Any, optimizer: Any) -> None:
            drawn = [kind.random_genotype(table.space, spec, random, origin=origin) for _ in range(count)]
            optimizer.zero_grad(set_to_none=True)
            with without_gradients(self.alphas):
                for genotype in (*always, *drawn):
                    with self.supernet.fix_to(genotype):
                        self.manual_backward(current.loss() / (len(always) + count))
            self._finish(current, optimizer)

        return mock.patch.object(BilevelSearch, "_weight_step", step)

    return patch


SUPERNETS: dict[str, tuple[list[str], Patch]] = {
    "softmax, 10 epochs": (BILEVEL, _no_patch),
    "paths, 1 epochs": (_epochs(1), _no_patch),
    "paths, 4 epochs": (_epochs(4), _no_patch),
    "paths, 12 epochs": (_epochs(12), _no_patch),
    "paths, 12 epochs, rate 0.02": (_epochs(12, "search.lr=0.02"), _no_patch),
    "paths, 24 epochs": (_epochs(24), _no_patch),
    "paths, 4 epochs, rate 0.02": (_epochs(4, "search.lr=0.02"), _no_patch),
    "paths, 4 epochs, rate 0.15": (_epochs(4, "search.lr=0.15"), _no_patch),
    "paths, 8 epochs of twice the batch": (_epochs(8, "data.identities_per_batch=32"), _no_patch),
    "fair paths, 4 epochs": (_epochs(4), _fair),
    "fair paths, 12 epochs": (_epochs(12), _fair),
    "genotypes, 4 epochs": (_epochs(4), _genotypes(1)),
    "genotypes, 12 epochs": (_epochs(12), _genotypes(1)),
    "four genotypes a step, 4 epochs": (_epochs(4), _genotypes(4)),
    "sandwich of four, 4 epochs": (_epochs(4), _genotypes(2, extremes=True)),
    "paths, 12 epochs, statistics of all paths": (_epochs(12), _not_recalibrated),
    SPLIT: (_epochs(3), _no_patch),
}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    table = Table.read(arguments.table)
    judged = [entry for entry in table if len(entry.trainings) >= SEEDS_OF_TRUTH]
    judged = sorted(judged, key=lambda entry: entry.architecture)[:MOST]
    noise = table.noise.single if table.noise else 0.0
    if arguments.summary:
        _summarize(read_rows(arguments.out), judged, noise)
        return
    data = arguments.work / "people"
    if not data.is_dir():
        write_synthetic(data, settings=SyntheticSettings(**DATA))
    if not arguments.out.is_file():
        _begin(arguments, len(judged))
    names = arguments.names or [name for name in SUPERNETS if name != SPLIT or table.space.kind == "cells"]
    own = ["trainer.loggers=[]", f"data.root={data}", f"data.cache={arguments.work / 'cache'}"]
    for seed in arguments.seeds:
        for name in names:
            if not _is_known(arguments.out, name, seed):
                _append(arguments.out, judged, name, seed, *_scored(name, seed, own, table, judged, arguments.work))
        for name in ZERO_COST:
            if not arguments.names and not _is_known(arguments.out, name, seed):
                _append(arguments.out, judged, name, seed, *_without_training(name, seed, own, table, judged))
    _summarize(read_rows(arguments.out), judged, noise)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"supernets alone: {'; '.join(SUPERNETS)}")
    parser.add_argument("--table", choices=TABLES, default="bench_cells")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--summary", action="store_true", help="print the means of what there is")
    parser.add_argument("--work", type=Path, default=Path("results/bench"))
    parser.add_argument("--out", type=Path, help="by default results/reference/supernet_ranking.csv, or ..._chain.csv")
    arguments = parser.parse_args()
    arguments.out = arguments.out or reference_file("supernet_ranking", arguments.table)
    if strange := set(arguments.names) - set(SUPERNETS):
        parser.error(f"unknown supernet '{min(strange)}'; choose from: {'; '.join(SUPERNETS)}")
    return arguments


def _begin(arguments: argparse.Namespace, count: int) -> None:
    notes = [
        f"{count} architectures of {arguments.table}; seconds of processor time, score_seconds of all; scores in",
        "the order of the architectures' names: mAP in percent of 30 identities held out, or the zero-cost score",
    ]
    begin_table(arguments.out, f"python benchmarks/supernet_ranking.py --table {arguments.table}", notes, COLUMNS)


def _scored(
    name: str, seed: int, own: list[str], table: Table, judged: list[Entry], work: Path
) -> tuple[float, float, list[float]]:
    """Return the seconds of a supernet's training, those of scoring, and the scores."""
    overrides, patch = SUPERNETS[name]
    more = ["search.guard={eigenvalue_iterations: 0, gap: false}", "search.validate_every=1000"]
    config = load_config(find_shipped_file("configs", table.name), [f"seed={seed}", *own, *more, *overrides])
    if (search := config.section("search")).strategy == "proposals":
        config = config.model_copy(update={"search": supernet_settings(search)})
    genotypes = [table.genotype(entry.architecture) for entry in judged]
    if name != SPLIT:
        with patch(config, table):
            return _search_and_score(config, genotypes, work)
    training, scoring, scores = 0.0, 0.0, dict[int, float]()
    for attention in table.space.attention:
        numbers = [i for i, genotype in enumerate(genotypes) if genotype.cells["normal"].attention == attention]
        narrow = table.space.model_copy(update={"attention": (attention,)})
        file = work / f"{table.name}_{attention}.yaml"
        write_text(file, to_yaml(narrow))
        space = SpaceReference.of(load_space(file), file.stem)
        own_search = config.section("search").model_copy(update={"space": str(file)})
        seconds = _search_and_score(
            config.model_copy(update={"search": own_search}),
            [genotypes[i].model_copy(update={"space": space}) for i in numbers],
            work,
        )
        training, scoring = training + seconds[0], scoring + seconds[1]
        scores |= dict(zip(numbers, seconds[2]))
    return training, scoring, [scores[i] for i in range(len(genotypes))]


def _search_and_score(config: Config, genotypes: list[Any], work: Path) -> tuple[float, float, list[float]]:
    with tempfile.TemporaryDirectory(dir=work) as folder:
        began = time.process_time()
        run_search(config, Path(folder) / "search")
        trained = time.process_time()
        judge = score_supernet(Path(folder) / "search")
        scores = [100 * judge(genotype) for genotype in genotypes]
    return trained - began, time.process_time() - trained, scores


def _without_training(
    name: str, seed: int, own: list[str], table: Table, judged: list[Entry]
) -> tuple[float, float, list[float]]:
    config = load_config(find_shipped_file("configs", table.name), [f"seed={seed}", *own, "search.strategy=random"])
    began = time.process_time()
    evidence = Evidence(RandomSearch(config, lambda *_: None), [name])
    scores = [evidence(table.genotype(entry.architecture)).get(name, 0.0) for entry in judged]
    return 0.0, time.process_time() - began, scores


def _append(
    out: Path, judged: list[Entry], name: str, seed: int, training: float, scoring: float, scores: list[float]
) -> None:
    truth = _truth(judged)
    kinds = np.array([entry.architecture.rpartition("+")[2] for entry in judged])
    within = [_tau(np.array(scores)[kinds == kind], truth[kinds == kind]) for kind in sorted(set(kinds))]
    row = {
        "score": name, "seed": seed, "train_seconds": f"{training:.0f}", "score_seconds": f"{scoring:.0f}",
        "tau": f"{_tau(scores, truth):.3f}", "tau_within": f"{statistics.mean(within):.3f}",
        "scores": ";".join(f"{score:.5g}" for score in scores),
    }  # fmt: skip
    append_row(out, COLUMNS, row)
    print({name: value for name, value in row.items() if name != "scores"}, flush=True)


def _truth(judged: list[Entry]) -> np.ndarray:
    return np.array([statistics.mean(training.mAP for training in entry.trainings.values()) for entry in judged])


def _tau(scores: Any, truth: Any) -> float:
    return float(kendalltau(scores, truth).statistic)


def _is_known(out: Path, name: str, seed: int) -> bool:
    return any((row["score"], row["seed"]) == (name, str(seed)) for row in read_rows(out))


def _ceiling(judged: list[Entry], single: float, *, draws: int = 500) -> float:
    """Return the mean tau of true scores and the table's, both simulated: as far apart, with the table's noise."""
    truth, random = _truth(judged), np.random.default_rng(0)
    noise = single / statistics.mean(len(entry.trainings) for entry in judged) ** 0.5
    true = shrink_by_noise(truth, noise)
    return statistics.mean(_tau(true, true + random.normal(0, noise, len(true))) for _ in range(draws))


def _tau_of_one(judged: list[Entry], column: str) -> float:
    """Return the mean tau of a column of one training with the mean mAP of the trainings with other seeds."""
    seeds = sorted(set.intersection(*(set(entry.trainings) for entry in judged)))
    taus = []
    for seed in seeds:
        own = np.array([getattr(entry.trainings[seed], column) for entry in judged])
        others = [statistics.mean(entry.trainings[o].mAP for o in seeds if o != seed) for entry in judged]
        taus.append(_tau(own, np.array(others)))
    return statistics.mean(taus)


def _summarize(rows: list[dict[str, str]], judged: list[Entry], noise: float) -> None:
    """Print the mean tau of each score, alone and joined to others by mean ranks.

    Of gradient norms the lower counts as better."""
    truth = _truth(judged)
    by_name: dict[str, list[np.ndarray]] = {}
    for row in rows:
        sign = -1 if row["score"] == "gradient_norm" else 1
        by_name.setdefault(row["score"], []).append(sign * rankdata([float(s) for s in row["scores"].split(";")]))
    quarter = rankdata([entry.trainings[0].quarter_mAP for entry in judged])
    norms = by_name.get("gradient_norm", [])
    print(f"the true order, for the noise of the table's scores: {_ceiling(judged, noise):.2f} (simulated)")
    for name in ("validation_mAP", "half_mAP", "quarter_mAP"):
        print(f"{name} of one training, against the mAP of the others: tau {_tau_of_one(judged, name):.2f}")
    for name, ranks in by_name.items():
        own = [row for row in rows if row["score"] == name]
        seconds = statistics.mean(float(row["train_seconds"]) for row in own)
        taus = [_tau(one, truth) for one in ranks]
        spread = f" +- {statistics.stdev(taus):.2f}" if len(taus) > 1 else ""
        line = f"{name}: tau {statistics.mean(taus):.2f}{spread}, {len(taus)} seeds, {seconds:.0f} s"
        if len(ranks) > 1:
            line += f"; all seeds {_tau(sum(ranks), truth):.2f}"
        if norms and name in SUPERNETS:
            joined = sum(ranks) / len(ranks) + norms[0]
            line += f"; with gradient_norm {_tau(joined, truth):.2f}, and a quarter {_tau(joined + quarter, truth):.2f}"
        print(line)
    _simulate(rows, judged)


def _simulate(rows: list[dict[str, str]], judged: list[Entry], *, pool: int = 40, draws: int = 3000) -> None:
    """Print the mean regret of choices among ``pool`` random architectures, below the best of all, and their cost."""
    truth, random = _truth(judged), np.random.default_rng(0)
    seeds = sorted(set.intersection(*(set(entry.trainings) for entry in judged)))
    columns = {
        name: {seed: np.array([getattr(entry.trainings[seed], name) for entry in judged]) for seed in seeds}
        for name in ("validation_mAP", "half_mAP", "quarter_mAP")
    }
    supernets = [
        np.array([float(score) for score in row["scores"].split(";")])
        for row in rows
        if row["score"] == "paths, 12 epochs"
    ]

    if not (supernets and seeds):
        return

    def best(of: np.ndarray, by: np.ndarray, count: int) -> np.ndarray:
        return of[np.argsort(-by[of], kind="stable")[:count]]

    regrets: dict[str, list[float]] = {"ten random": [], "halving of 28, 6, 3": []}
    for draw in range(draws):
        seed, supernet = seeds[draw % len(seeds)], supernets[draw // len(seeds) % len(supernets)]
        full, half, quarter = (columns[name][seed] for name in columns)
        order = random.permutation(len(truth))
        choices = {"ten random": best(order[:10], full, 1)[0]}
        choices["halving of 28, 6, 3"] = best(best(best(order[:28], quarter, 6), half, 3), full, 1)[0]
        for count in (1, 3, 4, 6, 10):
            first = best(order[:pool], supernet, count)
            choices[f"supernet of {pool}, {count} trained"] = best(first, full, 1)[0]
            weighed = best(first, full + 0.5 * supernet, 1)[0]
            choices[f"supernet of {pool}, {count} trained, and half of the supernet's mAP"] = weighed
        joined = _standardize(supernet) + _standardize(quarter)
        for many, few in ((8, 3), (12, 3), (16, 2)):
            second = best(best(order[:pool], supernet, many), joined, few)
            name = f"supernet of {pool}, {many} for a quarter, {few} trained, all joined"
            choices[name] = best(second, joined + 2 * _standardize(full), 1)[0]
        for name, choice in choices.items():
            regrets.setdefault(name, []).append(truth.max() - truth[choice])
    for name, values in regrets.items():
        print(f"{name}: regret {statistics.mean(values):.2f}")


def _standardize(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


if __name__ == "__main__":
    logging.getLogger("dcs_nas").setLevel(logging.WARNING)
    main()
