"""Do searches find better cells than chance, on several data sets, at equal size and training?

    python benchmarks/search_quality.py --seeds 0 1 2 3 4
    python benchmarks/search_quality.py --data tiles --only proposals random
    python benchmarks/search_quality.py --data emoji --packages FOLDER   # real pictures: _emoji.py says which

The cells of quality_cells, with attention on their outputs among the choices. Every genotype is trained from scratch
three times by configs/search_quality.yaml, at the width whose parameters come nearest to --parameters, with seeds
that no search has and that are the same for the cells of one seed, and scored on identities unseen in search and
training; each training is a row, the first of all seeds before the second of any. Searches by trials train at this
size too, as many minutes as ``proposals`` took with the same seed, so run them on one machine. ``random`` are
genotypes that nothing chose, one a seed and three beside; DARTS' published cell and plain convolutions have no
attention. Resumable, also on another machine: rows that --out holds are kept, with the architectures that were found;
what is finished in --work is used again. --summary prints, per data set, means over searches with 95 % intervals, the
differences from random, and of ``proposals`` from the searches as long and from the cells given, each with its p, and
over data sets the mean rank and the worst. A training that breaks off has no row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from _emoji import write_emoji
from measure import append_row, begin_table, budgets_of_processor_time, read_rows
from scipy.stats import rankdata, t, ttest_ind

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.errors import TrainingError
from dcs_nas.files import write_json, write_text
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.models.cell_space import build_fixed_network
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.space import (
    CellGenotype,
    Edge,
    Genotype,
    NetworkSpec,
    Origin,
    SpaceReference,
    SpaceSpec,
    find_shipped_file,
    load_genotype,
    read_space,
)
from dcs_nas.space.architectures import decode, encode
from dcs_nas.strategies.job import run_search
from dcs_nas.strategies.trial_strategy import count_parameters
from dcs_nas.training.evaluate import evaluate_run
from dcs_nas.training.retrain_job import run_retraining

DATA: dict[str, SyntheticSettings] = {
    "people": SyntheticSettings(),
    "occluded": SyntheticSettings(seed=1, occlusion=60, misalignment=250),
    "few": SyntheticSettings(seed=2, train_identities=40, images_per_camera=8),
    "tiles": SyntheticSettings(seed=3, subject="tiles", occlusion=80, misalignment=400),
}
IB = ["loss.ib_kind=ibb", "loss.ib_weight=0.1"]
BILEVEL = [
    "search.strategy=bilevel", "search.epochs=8", "search.warmup_epochs=2", "search.arch_lr=0.02",
    "search.validate_every=4", "search.guard={eigenvalue_iterations: 0, gap: false}",
]  # fmt: skip
PATHS = [
    *BILEVEL, "search.epochs=30", "search.warmup_epochs=10", "search.relaxation.kind=gumbel",
    "search.cost={kind: parameters, form: multiplicative, beta: 0.1}",
]  # fmt: skip
MANY = "search.trials.trials=1000"
SEARCHES: dict[str, list[str]] = {
    "proposals": [],
    "proposals, IB": IB,
    "proposals, evolved": ["search.trials.proposals.draw=evolution"],
    "softmax": BILEVEL,
    "softmax, order 2": [*BILEVEL, "search.order=2"],
    "paths + cost": PATHS,
    "NNI DARTS": ["search.strategy=nni.darts", "search.epochs=8", "search.warmup_epochs=2", "search.arch_lr=0.02"],
}
AS_LONG: dict[str, list[str]] = {
    "NNI evolution": ["search.strategy=nni.evolution", MANY, "search.trials.population=5", "search.trials.sample=3"],
    "predictor": ["search.strategy=predictor", MANY, "search.trials.epochs=8"],
    "halving": ["search.strategy=halving", MANY],
    "local": ["search.strategy=local", MANY, "search.trials.local.start=3"],
}
GIVEN = ("random", "DARTS V2 (published)", "all sep_conv_3x3")
MORE_RANDOM, TRAININGS, SEED = 3, 3, 1000  # SEED: of the first training
COLUMNS = ["data", "cells", "seed", "training", "mAP", "parameters", "channels", "search_minutes", "trained"]
COLUMNS += ["architecture"]
PUBLISHED_CELLS = {  # arXiv 1806.09055, cnn/genotypes.py: DARTS_V2
    "normal": "sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 0 sep_conv_3x3 1 "
    "sep_conv_3x3 1 skip_connect 0 skip_connect 0 dil_conv_3x3 2",
    "reduce": "max_pool_3x3 0 max_pool_3x3 1 skip_connect 2 max_pool_3x3 1 "
    "max_pool_3x3 0 skip_connect 2 skip_connect 2 max_pool_3x3 1",
}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    if arguments.summary:
        _summarize(read_rows(arguments.out))
        return
    if not arguments.out.is_file():
        notes = [
            f"mAP in percent; parameters: nearest to {arguments.parameters}; data: synthetic (DATA in the script) and",
            "emoji; search_minutes: of one processor, supernet and trainings; trained: networks, by the search;",
            "architecture: the normal and the reduction cell, attention on the output after +",
        ]
        begin_table(arguments.out, "python benchmarks/search_quality.py", notes, COLUMNS)
    wanted = [name for name in (*SEARCHES, *AS_LONG, *GIVEN) if name in (arguments.only or name)]
    for training, seed, data in itertools.product(range(TRAININGS), arguments.seeds, arguments.data):
        if not (arguments.work / data).is_dir():
            _write_data(data, arguments)
        for name in wanted:
            for number in _numbers(name, seed, arguments):
                _train(name, data, number, training, arguments)
    _summarize(read_rows(arguments.out))


def _write_data(data: str, arguments: argparse.Namespace) -> None:
    if data == "emoji":
        write_emoji(arguments.work / data, arguments.packages)
    else:
        write_synthetic(arguments.work / data, settings=DATA[data])


def _numbers(name: str, seed: int, arguments: argparse.Namespace) -> list[int]:
    """Return the seeds of the genotypes of a row: of random ones, more beside the first seed."""
    more = range(100, 100 + MORE_RANDOM) if name == "random" and seed == arguments.seeds[0] else ()
    return [seed, *more]


def _genotype(name: str, data: str, number: int, arguments: argparse.Namespace) -> Genotype:
    """Return the genotype that the table holds, that a search finds, or that is given."""
    space, network = _space()
    text = _known({"data": data, "cells": name, "seed": str(number)}, arguments).get("architecture")
    if text is None and name not in GIVEN:
        text = encode(load_genotype(_search(name, data, number, arguments) / "genotype.yaml"))
    if text is not None:
        genotype = decode(text, space, network.height, network.width)
        assert isinstance(genotype, Genotype)
        return genotype
    if name == "random":
        return CellKind().random_genotype(space, network, np.random.default_rng(number), origin=Origin(method="random"))
    plain = dict.fromkeys(PUBLISHED_CELLS, " ".join("sep_conv_3x3 0 sep_conv_3x3 1" for _ in range(4)))
    return read_cells(PUBLISHED_CELLS if "V2" in name else plain, space, network)


def _space() -> tuple[SpaceSpec, NetworkSpec]:
    config = load_config(find_shipped_file("configs", "search_quality"))
    space = read_space(find_shipped_file("search_spaces", "quality_cells"))
    return space, space.network(config.data.height, config.data.width)


def read_cells(texts: Mapping[str, str], space: SpaceSpec, network: NetworkSpec) -> Genotype:
    """Return the genotype of cells written as operations and sources, two a node, without attention."""
    cells = {}
    for kind, text in texts.items():
        words = text.split()
        edges = [Edge(op=op, source=int(source)) for op, source in zip(words[::2], words[1::2])]
        nodes = tuple(tuple(sorted(edges[i : i + 2], key=lambda e: e.source)) for i in range(0, len(edges), 2))
        cells[kind] = CellGenotype(nodes=nodes, attention="none")
    return Genotype(space=SpaceReference.of(space, space.name), network=network, cells=cells, origin=Origin())


def _search(name: str, data: str, seed: int, arguments: argparse.Namespace) -> Path:
    folder = _folder(name, data, seed, arguments)
    if not (folder / "minutes.json").is_file():
        overrides = list({**SEARCHES, **AS_LONG}[name])
        if name in AS_LONG:
            overrides.append(f"search.trials.minutes={_minutes('proposals', data, seed, arguments):.3f}")
        began, spent = time.process_time(), folder / "spent.json"  # also that of runs that were interrupted
        before = json.loads(spent.read_text())["minutes"] if spent.is_file() else 0.0
        try:
            with budgets_of_processor_time():
                run_search(_config(data, seed, overrides, arguments), folder, resume=(folder / "config.yaml").is_file())
        finally:
            minutes = {"minutes": before + (time.process_time() - began) / 60}
            if folder.is_dir():
                write_json(spent, minutes)
        write_json(folder / "minutes.json", minutes)
    return folder


def _train(name: str, data: str, number: int, training: int, arguments: argparse.Namespace) -> None:
    key = {"data": data, "cells": name, "seed": str(number), "training": str(training)}
    if _known(key, arguments):
        return
    fitted = CellKind().fit_width(_genotype(name, data, number, arguments), arguments.parameters)
    channels, parameters = fitted.network.channels, count_parameters(build_fixed_network(fitted))
    folder = arguments.work / "retrain" / f"{data}_{_slug(name)}-{number}-{training}"
    config = _config(data, SEED + TRAININGS * number + training, [f"retrain.channels={channels}"], arguments)
    file = arguments.work / "genotypes" / f"{folder.name}.yaml"
    write_text(file, fitted.to_yaml())
    try:
        if not RunFolder(folder).finished_file.is_file():
            run_retraining(config, folder, genotype=file, resume=(folder / "config.yaml").is_file())
        report = evaluate_run(folder).report
    except TrainingError as error:
        print(f"{key}: {error}", flush=True)
        return
    found = _known({**key, "training": "0"}, arguments)
    row = {**key, "mAP": f"{100 * report['mAP']:.2f}", "parameters": parameters, "channels": channels}
    row["architecture"] = encode(fitted)
    if name not in GIVEN:
        row["search_minutes"] = f"{_minutes(name, data, number, arguments):.2f}"
    if name in AS_LONG or name.startswith("proposals"):
        metrics = _folder(name, data, number, arguments) / "metrics.csv"
        row["trained"] = found.get("trained") or len(read_metrics(metrics))
    append_row(arguments.out, COLUMNS, row)
    print(row, flush=True)


def _summarize(rows: list[dict[str, str]]) -> None:
    scores: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        scores[row["data"]][row["cells"]][row["seed"]].append(float(row["mAP"]))
    places = defaultdict(list)
    for data, cells in scores.items():
        means = {name: [statistics.mean(maps) for maps in seeds.values()] for name, seeds in cells.items()}
        for name, place in zip(means, rankdata([-statistics.mean(values) for values in means.values()])):
            places[name].append(place)
            print(f"{data}: {name}: {_describe(means[name], means.get('random', []))}; place {place:g}")
        for name in (*AS_LONG, *GIVEN[1:]):
            if "proposals" in means and len(means.get(name, [])) > 1:
                print(f"{data}: proposals{_compare(means['proposals'], means[name], name)}")
    for name, each in sorted(places.items(), key=lambda item: statistics.mean(item[1])):
        print(f"{name}: mean place {statistics.mean(each):.1f}, worst {max(each):g}, of {len(each)} data sets")


def _describe(values: list[float], chance: list[float]) -> str:
    text = f"mAP {statistics.mean(values):.1f}"
    if len(values) > 1:
        text += f" +- {t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5:.1f}"
    text += f" ({len(values)} genotypes)"
    return text + (_compare(values, chance, "random") if values != chance else "")


def _compare(values: list[float], others: list[float], name: str) -> str:
    """Return the difference of the means with the p of Welch's test, one-sided; nothing for a single genotype."""
    if len(others) < 2:
        return ""
    text = f", {statistics.mean(values) - statistics.mean(others):+.1f} from {name}"
    if len(values) > 1:
        text += f" (p {ttest_ind(values, others, equal_var=False, alternative='greater').pvalue:.3f})"
    return text


def _config(data: str, seed: int, overrides: list[str], arguments: argparse.Namespace) -> Config:
    own = [f"seed={seed}", f"data.root={arguments.work / data}", f"data.cache={arguments.work / 'cache'}"]
    own += ["trainer.loggers=[]", f"search.trials.parameters={arguments.parameters}"]
    return load_config(find_shipped_file("configs", "search_quality"), [*own, *overrides])


def _minutes(name: str, data: str, seed: int, arguments: argparse.Namespace) -> float:
    """Return the minutes that a search took; one that is in neither the table nor --work is run."""
    if row := _known({"data": data, "cells": name, "seed": str(seed)}, arguments):
        return float(row["search_minutes"])
    return float(json.loads((_search(name, data, seed, arguments) / "minutes.json").read_text())["minutes"])


def _known(key: dict[str, str], arguments: argparse.Namespace) -> dict[str, str]:
    """Return the first row of the table that agrees with ``key``, or nothing."""
    return next((row for row in read_rows(arguments.out) if key.items() <= row.items()), {})


def _folder(name: str, data: str, seed: int, arguments: argparse.Namespace) -> Path:
    return arguments.work / "search" / f"{data}_{_slug(name)}-{seed}"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", nargs="+", choices=[*DATA, "emoji"], default=list(DATA))
    parser.add_argument("--packages", type=Path, default=Path("."), help="folder of the npm packages of --data emoji")
    parser.add_argument("--parameters", type=int, default=120_000, help="of every network that is trained")
    parser.add_argument(
        "--only", nargs="+", choices=[*SEARCHES, *AS_LONG, *GIVEN], help="rows of the table to work for"
    )
    parser.add_argument("--summary", action="store_true", help="print the means of what there is")
    parser.add_argument("--work", type=Path, default=Path("results/search_quality"))
    parser.add_argument("--out", type=Path, default=Path("results/reference/search_quality.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
