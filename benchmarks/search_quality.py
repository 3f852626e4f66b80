"""Does the search find better cells than chance, on synthetic people, at equal size and training?

    python benchmarks/search_quality.py --work results/search_quality

Every genotype is trained from scratch by configs/search_quality.yaml, at the width whose parameters come nearest to
--parameters (within 10 %), and scored on people unseen in search and training. Searches: ours (orders 1 and 2, with
and without the information bottleneck) over sampled paths with parameters as a cost; ours over weighted sums without a
cost, as DARTS; NNI's DARTS with as many epochs as the latter; NNI's evolution for as many minutes as ours of order 1
and the same seed took; best of 100 that the alphas of order 1 think likely by retrieval
(search.derivation); and, without a search, random genotypes, DARTS' published cell (V2) and all-sep_conv_3x3.
Kendall's tau compares what a search says of all genotypes but its own with what training them gives. Resumable:
whatever is finished in --work is kept; --only does some of the work, --table writes from what there is.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, ttest_ind

from dcs_nas.config import Config, RetrievalConfig, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.environment import describe_environment
from dcs_nas.files import write_json, write_text
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.models.cell_space import build_fixed_network
from dcs_nas.runs import RunFolder
from dcs_nas.space import (
    CellGenotype,
    Edge,
    Genotype,
    Origin,
    SpaceReference,
    SpaceSpec,
    edge_index,
    find_shipped_file,
    load_genotype,
    read_space,
)
from dcs_nas.strategies.derive import SupernetScore, derive_by_retrieval, score_supernet
from dcs_nas.strategies.job import run_search
from dcs_nas.strategies.record import ArchitectureRecord
from dcs_nas.training.evaluate import evaluate_run
from dcs_nas.training.retrain_job import run_retraining

IB = ["loss.ib_kind=ibb", "loss.ib_weight=0.1"]
ORDER_2 = ["search.order=2"]
SAMPLED = [
    "search.epochs=30",
    "search.warmup_epochs=10",
    "search.relaxation.kind=gumbel",
    "search.cost={kind: parameters, form: multiplicative, beta: 0.1}",
    "search.guard.eigenvalue_iterations=0",
]
SEARCHES: dict[str, list[str]] = {
    "ours, order 1": SAMPLED,
    "ours, order 1, IB": [*SAMPLED, *IB],
    "ours, order 2": [*SAMPLED, *ORDER_2],
    "ours, order 2, IB": [*SAMPLED, *ORDER_2, *IB],
    "ours, softmax": [],
    "ours, softmax, IB": IB,
    "NNI DARTS": ["search.strategy=nni.darts"],
    "NNI evolution": ["search.strategy=nni.evolution"],
}
REDERIVED = {"ours, order 1, retrieval": "ours, order 1", "ours, order 1, IB, retrieval": "ours, order 1, IB"}
CANDIDATES = 100
RANDOM = 8
_V2 = {  # arXiv 1806.09055, cnn/genotypes.py: DARTS_V2
    "normal": "sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 0 sep_conv_3x3 1 "
    "sep_conv_3x3 1 skip_connect 0 skip_connect 0 dil_conv_3x3 2",
    "reduce": "max_pool_3x3 0 max_pool_3x3 1 skip_connect 2 max_pool_3x3 1 "
    "max_pool_3x3 0 skip_connect 2 skip_connect 2 max_pool_3x3 1",
}


def main() -> None:
    arguments = _arguments()
    data = arguments.work / "data"
    if not data.is_dir():
        write_synthetic(data, settings=SyntheticSettings())
    entries = _given(arguments)
    for seed in arguments.seeds:
        for name in SEARCHES:
            path = _search(name, seed, arguments) if not arguments.table else _folder(name, seed, arguments)
            if (path / "genotype.yaml").is_file():
                entries.setdefault(name, []).append((path / "genotype.yaml", seed))
        for name in REDERIVED:
            path = _rederived(name, seed, arguments)
            if path is not None:
                entries.setdefault(name, []).append((path, seed))
        if not arguments.table:
            for name in list(entries):
                for genotype, own in entries[name]:
                    if own == seed and name in _wanted(arguments, list(entries)):
                        _train(name, genotype, own, arguments)
    _write(entries, arguments)


def _given(arguments: argparse.Namespace) -> dict[str, list[tuple[Path, int]]]:
    """Genotypes that nothing searched for: files of random cells, DARTS' own, and all separable convolutions."""
    config, space = _config(0, arguments, []), _space()
    network = space.network(config.data.height, config.data.width)
    random = np.random.default_rng(0)
    made = {}
    for i in range(RANDOM):
        made[f"random_{i}"] = CellKind().random_genotype(space, network, random, origin=Origin(method="random"))
    made["darts_v2"] = _genotype(space, _V2)
    made["sep_conv_3x3"] = _genotype(space, dict.fromkeys(("normal", "reduce"), _uniform(space.nodes)))
    found: dict[str, list[tuple[Path, int]]] = {"random": [], "DARTS V2 (published)": [], "all sep_conv_3x3": []}
    for (name, genotype), entry in zip(made.items(), ["random"] * RANDOM + list(found)[1:]):
        path = arguments.work / "given" / f"{name}.yaml"
        write_text(path, genotype.to_yaml())
        found[entry].append((path, 0))
    return found


def _uniform(nodes: int) -> str:
    return " ".join("sep_conv_3x3 0 sep_conv_3x3 1" for _ in range(nodes))


def _genotype(space: SpaceSpec, cells: dict[str, str]) -> Genotype:
    config_size = 64, 32
    found = {}
    for kind, text in cells.items():
        words = text.split()
        edges = [Edge(op=op, source=int(source)) for op, source in zip(words[::2], words[1::2])]
        nodes = tuple(tuple(sorted(edges[i : i + 2], key=lambda e: e.source)) for i in range(0, len(edges), 2))
        found[kind] = CellGenotype(nodes=nodes, attention="none")
    return Genotype(
        space=SpaceReference.of(space, space.name), network=space.network(*config_size), cells=found, origin=Origin()
    )


def _search(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    folder = _folder(name, seed, arguments)
    if (folder / "genotype.yaml").is_file() or name not in _wanted(arguments, list(SEARCHES)):
        return folder
    overrides = list(SEARCHES[name])
    if name == "NNI evolution":
        minutes = json.loads((_folder("ours, order 1", seed, arguments) / "minutes.json").read_text())["minutes"]
        overrides.append(f"search.trials.minutes={minutes:.2f}")
    began = time.perf_counter()
    run_search(_config(seed, arguments, overrides), folder, resume=(folder / "config.yaml").is_file())
    write_json(folder / "minutes.json", {"minutes": (time.perf_counter() - began) / 60})
    return folder


def _rederived(name: str, seed: int, arguments: argparse.Namespace) -> Path | None:
    """What ``search.derivation=retrieval`` gives of the supernet of a finished search."""
    path = _folder(name, seed, arguments) / "genotype.yaml"
    source = _folder(REDERIVED[name], seed, arguments)
    if not path.is_file() and not arguments.table and name in _wanted(arguments, list(REDERIVED)):
        score = score_supernet(source)
        method = f"{load_genotype(source / 'genotype.yaml').origin.method}, by retrieval"
        record = ArchitectureRecord(RunFolder(path.parent), _space(), data="synthetic", seed=seed, method=method)
        retrieval = RetrievalConfig(candidates=CANDIDATES)
        settings = score.config.section("search").model_copy(update={"retrieval": retrieval})
        write_text(path, derive_by_retrieval(score, record, settings).to_yaml())
    return path if path.is_file() else None


def _train(name: str, genotype: Path, seed: int, arguments: argparse.Namespace) -> None:
    folder = _trained(name, genotype, seed, arguments)
    if (folder / "evaluation.json").is_file():
        return
    channels, parameters = _width(genotype, arguments.parameters)
    config = _config(seed, arguments, [f"retrain.channels={channels}"])
    if not RunFolder(folder).finished_file.is_file():
        run_retraining(config, folder, genotype=genotype, resume=(folder / "config.yaml").is_file())
    report = evaluate_run(folder).report
    write_json(folder / "evaluation.json", {**report, "parameters": parameters, "channels": channels})
    score = f"{100 * report['mAP']:.2f} % with {parameters:,} parameters"
    print(f"{name}, {genotype.stem}, seed {seed}: mAP {score}", file=sys.stderr, flush=True)


def _width(path: Path, wanted: int) -> tuple[int, int]:
    """The width whose backbone comes nearest to ``wanted`` parameters."""
    genotype = load_genotype(path)
    sizes = {}
    for channels in range(2, 65):
        network = genotype.network.model_copy(update={"channels": channels})
        changed = genotype.model_copy(update={"network": network})
        sizes[channels] = sum(p.numel() for p in build_fixed_network(changed).parameters())
        if sizes[channels] > 2 * wanted:
            break
    return min(sizes.items(), key=lambda item: abs(item[1] - wanted))


def _write(entries: dict[str, list[tuple[Path, int]]], arguments: argparse.Namespace) -> None:
    scores: dict[str, list[dict[str, Any]]] = {}
    for name, found in entries.items():
        files = [_trained(name, genotype, seed, arguments) / "evaluation.json" for genotype, seed in found]
        scores[name] = [json.loads(file.read_text()) for file in files if file.is_file()]
    chance = [100 * report["mAP"] for report in scores["random"]]
    rows = [
        {**_row(name, reports, chance), "search_minutes": _minutes(name, arguments)}
        for name, reports in scores.items()
        if reports
    ]
    text = io.StringIO()
    text.write("# synthetic people (dcs-nas synth, defaults); people unseen in search and training; mAP in percent\n")
    text.write("# python benchmarks/search_quality.py; configs/search_quality.yaml; ")
    text.write(
        f"torch {describe_environment()['versions']['torch']}; equal training, "
        f"about {arguments.parameters:,} parameters\n"
    )
    text.write("# p: Welch's t-test against random, one-sided (above)\n")
    text.writelines(f"# {tau}\n" for tau in _taus(entries, arguments))
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(arguments.out, text.getvalue())
    print(text.getvalue())


def _row(name: str, reports: list[dict[str, Any]], chance: list[float]) -> dict[str, Any]:
    maps = [100 * report["mAP"] for report in reports]
    several = len(maps) > 1 and len(chance) > 1
    above = ttest_ind(maps, chance, equal_var=False, alternative="greater").pvalue if several else None
    return {
        "cells": name,
        "trainings": len(maps),
        "mAP_mean": round(statistics.mean(maps), 2),
        "mAP_std": round(statistics.stdev(maps), 2) if len(maps) > 1 else "",
        "above_random": round(statistics.mean(maps) - statistics.mean(chance), 2) if chance else "",
        "p": "" if above is None or name == "random" else f"{above:.3f}",
        "parameters": "/".join(
            f"{n:,}" for n in sorted({report["parameters"] for report in reports})[:: max(1, len(maps) - 1)]
        ),
    }


def _minutes(name: str, arguments: argparse.Namespace) -> float | str:
    """Of a search, the median of its seeds."""
    files = [_folder(name, seed, arguments) / "minutes.json" for seed in arguments.seeds]
    found = [json.loads(file.read_text())["minutes"] for file in files if file.is_file()]
    return round(statistics.median(found), 1) if found else ""


def _taus(entries: dict[str, list[tuple[Path, int]]], arguments: argparse.Namespace) -> list[str]:
    """Kendall's tau of two scores of the first-order searches with the mAP of the genotypes trained, as sentences.

    A genotype's score is its log probability under the alphas, or its mAP with the supernet's weights among the people
    that the search held out. Those that a search has found itself are left out of its own tau.
    """
    trained = {}
    for name, found in entries.items():
        for genotype, seed in found:
            file = _trained(name, genotype, seed, arguments) / "evaluation.json"
            if file.is_file():
                trained[genotype] = float(json.loads(file.read_text())["mAP"])
    taus: dict[str, list[str]] = {"log probability under the alphas": [], "mAP with the supernet's weights": []}
    for seed in arguments.seeds:
        folder = _folder("ours, order 1", seed, arguments)
        others = [genotype for genotype in trained if genotype.parent != folder]
        if len(others) < 3 or not (folder / "genotype.yaml").is_file():
            continue
        scores = _supernet_scores(folder, others, arguments.work)
        for i, kind in enumerate(taus):
            result = kendalltau([score[i] for score in scores], [trained[genotype] for genotype in others])
            taus[kind].append(f"{result.statistic:.2f} (p {result.pvalue:.3f}, {len(others)} genotypes)")
    return [f"Kendall's tau of {kind} and trained mAP, searches of order 1: {'; '.join(t)}" for kind, t in taus.items()]


def _supernet_scores(folder: Path, genotypes: list[Path], work: Path) -> list[tuple[float, float]]:
    """Log probability and mAP of each genotype with a search's supernet; known ones are read."""
    kept = folder / "supernet_scores.json"
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    judge: SupernetScore | None = None
    for path in genotypes:
        key = str(path.relative_to(work))
        if key not in known:
            judge = judge or score_supernet(folder)
            genotype = load_genotype(path)
            known[key] = [_log_probability(judge, genotype), judge(genotype)]
            write_json(kept, known)
    return [tuple(known[str(path.relative_to(work))]) for path in genotypes]


def _log_probability(judge: SupernetScore, genotype: Genotype) -> float:
    """The sum of the logs of the mixture weights of the operations on the genotype's edges."""
    supernet = judge.supernet
    weights = {kind: torch.log(table.detach().double()) for kind, table in supernet.mixture_weights().items()}
    operations = list(genotype.space.operations)
    return sum(
        float(weights[kind][edge_index(node, edge.source), operations.index(edge.op)])
        for kind, cell in genotype.cells.items()
        for node, edges in enumerate(cell.nodes)
        for edge in edges
    )


def _config(seed: int, arguments: argparse.Namespace, overrides: list[str]) -> Config:
    own = [f"seed={seed}", f"data.root={arguments.work / 'data'}", f"results={arguments.work}"]
    return load_config(find_shipped_file("configs", "search_quality"), [*own, *overrides])


def _space() -> SpaceSpec:
    return read_space(find_shipped_file("search_spaces", "quality_cells"))


def _folder(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    return arguments.work / "search" / f"{name.replace(', ', '_').replace(' ', '-')}-{seed}"


def _trained(name: str, genotype: Path, seed: int, arguments: argparse.Namespace) -> Path:
    label = genotype.stem if genotype.parent.name == "given" else name.replace(", ", "_").replace(" ", "-")
    return arguments.work / "retrain" / f"{label}-{seed}"


def _wanted(arguments: argparse.Namespace, names: list[str]) -> list[str]:
    return arguments.only or names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parameters", type=int, default=120_000, help="of every network that is trained")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows of the table to work for, e.g. random")
    parser.add_argument("--table", action="store_true", help="write the table from what is finished")
    parser.add_argument("--work", type=Path, default=Path("results/search_quality"))
    parser.add_argument("--out", type=Path, default=Path("results/reference/search_quality.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
