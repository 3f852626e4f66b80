"""The shipped kinds of space under one engine: searched at equal cost and trained alike at equal multiply-adds.

    python benchmarks/spaces.py --seeds 0 1 2

For each space of SPACES, on synthetic people of 128 x 64: a search by the default strategy of search_quality.yaml for
--minutes of one processor with everything that it spends, and the published genotype. The space is narrowed so that the
published genotype has --millions of multiply-adds an image; the search trains its candidates at that width, whatever
their multiply-adds, and ends the trial that it has begun. Then every genotype is trained from scratch alike, at the
width whose multiply-adds come nearest to each of --targets, with a seed that no search has, and scored on identities
unseen in search and training: a row. Windows of ``dcs_window`` are learned again. A training that breaks off has no
row. Resumable: rows that --out holds are kept, and what is finished in --work is used again; --summary prints means.
Beside --out stands a plot of the same name.
"""

from __future__ import annotations

import argparse
import bisect
import functools
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _front_plot import Series, plot_front
from measure import append_row, begin_table, budgets_of_processor_time, read_rows
from search_quality import PUBLISHED_CELLS, read_cells

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.errors import TrainingError
from dcs_nas.files import write_text
from dcs_nas.models.flops import count
from dcs_nas.models.space_kinds import kind_of
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.settings import to_yaml
from dcs_nas.space import AnyGenotype, Origin, Space, find_shipped_file, load_genotype, load_space
from dcs_nas.strategies.job import run_search
from dcs_nas.strategies.trial_strategy import count_parameters
from dcs_nas.training.evaluate import evaluate_run
from dcs_nas.training.retrain_job import run_retraining

HEIGHT, WIDTH = 128, 64
DATA = SyntheticSettings(height=HEIGHT, width=WIDTH)
SPACES = {  # and the published genotype
    "attention_cells": "DARTS V2",
    "dcs_dnas_3x": "dcs_dnas_3x",
    "msi": "msinet_msmt",
    "osnet_ain": "osnet_ain",
}
HOW = ("searched", "published")
SEED = 1000  # of the first training
COLUMNS = ["space", "genotype", "seed", "target", "mAP", "rank1", "multiply_adds", "parameters", "share"]
COLUMNS += ["search_minutes", "trained"]
NOTES = [
    "mAP and rank-1 in percent; target in millions of multiply-adds; share: of the shipped widths",
    "search_minutes: of one processor, supernet and trainings; trained: networks by the search",
]
SHARES = [n / 64 for n in range(2, 193)]  # of the shipped widths
MILLION = 1e6


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    rows = functools.partial(read_rows, arguments.out)
    if arguments.summary:
        _summarize(rows())
        return
    if not arguments.out.is_file():
        command = f"python benchmarks/spaces.py --minutes {arguments.minutes:g} --millions {arguments.millions:g}"
        begin_table(arguments.out, command, NOTES, COLUMNS)
    if not (arguments.work / "people").is_dir():
        write_synthetic(arguments.work / "people", settings=DATA)
    for seed, space, how in itertools.product(arguments.seeds, arguments.only, HOW):
        key = {"space": space, "genotype": how, "seed": str(seed)}
        for target in arguments.targets:
            if not any((key | {"target": f"{target:g}"}).items() <= row.items() for row in rows()):
                try:
                    row = _train(_genotype(space, how, seed, arguments), key, target, arguments)
                except TrainingError as error:
                    print(f"{key}, {target:g}: {error}", flush=True)
                    continue
                append_row(arguments.out, COLUMNS, row)
                print(row, flush=True)
    _summarize(rows())
    plot_front(list(_series(rows())), arguments.out, title="Spaces on synthetic people of 128 x 64")


def _series(rows: list[dict[str, str]]) -> Iterator[Series]:
    """Yield the rows of each space and kind of genotype, in groups of one target."""
    for (space, family), (how, line, marker) in itertools.product(
        zip(SPACES, ("separable", "dilated", "pooling", "attention")), zip(HOW, ("-", ":"), ("o", "s"))
    ):
        own = [row for row in rows if (row["space"], row["genotype"]) == (space, how)]
        label = f"{space}, {how if how == 'searched' else SPACES[space]}"
        targets = sorted({row["target"] for row in own}, key=float)
        points = [
            [(int(r["multiply_adds"]) / MILLION, float(r["mAP"])) for r in own if r["target"] == t] for t in targets
        ]
        yield Series(label, family, marker, line, points)


def _genotype(name: str, how: str, seed: int, arguments: argparse.Namespace) -> AnyGenotype:
    if how == "published":
        return _published(name)
    folder = arguments.work / "search" / f"{name}-{seed}"
    if not RunFolder(folder).genotype_file.is_file():
        share, _, _ = _fit(_published(name), name, arguments.millions)
        file = arguments.work / "spaces" / f"{name}.yaml"
        write_text(file, to_yaml(narrow(load_space(find_shipped_file("search_spaces", name)), share)))
        own = [f"search.space={file}", f"search.trials.minutes={arguments.minutes}", "search.trials.trials=1000"]
        with budgets_of_processor_time():
            run_search(_config(seed, own, arguments), folder, resume=RunFolder(folder).is_run())
    return load_genotype(folder / "genotype.yaml")


def _published(name: str) -> AnyGenotype:
    """Return the published genotype for the small images, at its own widths."""
    space = load_space(find_shipped_file("search_spaces", name))
    if name == "attention_cells":
        return read_cells(PUBLISHED_CELLS, space, space.network(HEIGHT, WIDTH))
    return load_genotype(Path(SPACES[name])).resize(HEIGHT, WIDTH)


def narrow(space: Any, share: float) -> Any:
    """Return a space with its widths multiplied by ``share``: what it has of channels, stem, features and widths."""

    def scale(width: int, multiple: int = 1) -> int:
        return max(multiple, round(width * share / multiple) * multiple)

    if space.kind == "cells":
        return space.model_copy(update={"channels": scale(space.channels)})
    if space.kind == "chain":
        stages = []
        for stage in space.stages:
            widths = [scale(width) for width in stage.widths]
            for i in range(1, len(widths)):  # candidates stay apart
                widths[i] = max(widths[i], widths[i - 1] + 1)
            stages.append(stage.model_copy(update={"widths": tuple(widths)}))
        update = {"stem": scale(space.stem, 4), "features": scale(space.features, 4), "stages": tuple(stages)}
        return space.model_copy(update=update)
    stem, *stages = (scale(width, 8) for width in space.channels)
    update = {"channels": (stem, *(max(64, width) for width in stages))}
    if space.kind == "osnet":
        update["features"] = scale(space.features, 8)
    return space.model_copy(update=update)


def at_share(genotype: AnyGenotype, space: Space, share: float) -> AnyGenotype:
    """Return the genotype's choices, by their places among the candidates, in ``space`` narrowed to ``share``."""
    narrowed = narrow(space, share)
    if genotype.kind == "cells":
        return genotype.resize(HEIGHT, WIDTH, channels=narrowed.channels)
    sample, new = genotype.to_sample(), {choice.label: choice.options for choice in narrowed.choices()}
    for choice in genotype.space.choices():
        sample[choice.label] = new[choice.label][choice.options.index(sample[choice.label])]
    network = narrowed.network(HEIGHT, WIDTH)
    return kind_of(genotype).genotype_of(sample, narrowed, network, origin=Origin(method="another width"))


def _fit(genotype: AnyGenotype, name: str, millions: float) -> tuple[float, AnyGenotype, int]:
    """Return the share of the shipped widths that comes nearest to so many multiply-adds, the genotype, and theirs."""
    space = load_space(find_shipped_file("search_spaces", name))

    @functools.cache
    def macs(share: float) -> int:
        fitted = at_share(genotype, space, share)
        with torch.device("meta"):
            return count(kind_of(fitted).build_fixed_network(fitted), HEIGHT, WIDTH).macs

    place = bisect.bisect_left(SHARES, millions * MILLION, key=macs)
    best = min(SHARES[max(0, place - 1) : place + 1], key=lambda share: abs(macs(share) - millions * MILLION))
    return best, at_share(genotype, space, best), macs(best)


def _train(genotype: AnyGenotype, key: dict[str, str], target: float, arguments: argparse.Namespace) -> dict[str, Any]:
    share, fitted, macs = _fit(genotype, key["space"], target)
    stem = "-".join((*key.values(), f"{target:g}"))
    file, folder = arguments.work / "genotypes" / f"{stem}.yaml", arguments.work / "retrain" / stem
    write_text(file, fitted.to_yaml())
    if not RunFolder(folder).finished_file.is_file():
        config = _config(SEED + int(key["seed"]), ["search=null"], arguments)
        run_retraining(config, folder, genotype=file, resume=RunFolder(folder).is_run())
    scores = evaluate_run(folder).report
    search = {}
    if key["genotype"] == "searched":
        metrics = read_metrics(arguments.work / "search" / f"{key['space']}-{key['seed']}" / "metrics.csv")
        search = {"search_minutes": f"{metrics[-1]['spent'] / 60:.1f}", "trained": len(metrics)}
    return {
        **key,
        "target": f"{target:g}",
        "mAP": f"{100 * scores['mAP']:.2f}",
        "rank1": f"{100 * scores['cmc'][0]:.2f}",
        "multiply_adds": macs,
        "parameters": count_parameters(kind_of(fitted).build_fixed_network(fitted)),
        "share": f"{share:.4f}",
        **search,
    }


def _config(seed: int, overrides: list[str], arguments: argparse.Namespace) -> Config:
    own = [f"seed={seed}", f"data.height={HEIGHT}", f"data.width={WIDTH}", "trainer.loggers=[]"]
    own += [f"data.root={arguments.work / 'people'}", f"data.cache={arguments.work / 'cache'}"]
    return load_config(find_shipped_file("configs", "search_quality"), [*own, *overrides])


def _label(row: dict[str, str]) -> str:
    return f"{row['space']}, {row['genotype']}"


def _summarize(rows: list[dict[str, str]]) -> None:
    keyed = sorted(rows, key=lambda row: (float(row["target"]), _label(row)))
    for (target, label), several in itertools.groupby(keyed, key=lambda row: (row["target"], _label(row))):
        scores = [float(row["mAP"]) for row in several]
        spread = f" +- {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        print(
            f"{target} million multiply-adds: {label}: mAP {statistics.mean(scores):.1f}{spread}, {len(scores)} seeds"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SPACES), default=list(SPACES), help="some of the spaces")
    parser.add_argument("--minutes", type=float, default=15, help="of a search")
    parser.add_argument(
        "--millions", type=float, default=20, help="multiply-adds of the published genotype in a search"
    )
    parser.add_argument(
        "--targets", type=float, nargs="+", default=[20, 40], help="millions of multiply-adds in training"
    )
    parser.add_argument("--summary", action="store_true", help="print the means of what there is")
    parser.add_argument("--work", type=Path, default=Path("results/spaces"))
    parser.add_argument("--out", type=Path, default=Path("results/reference/spaces.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
