"""Accuracy against multiply-adds: a front of chains by sweeping the exponent of the cost term, against chance.

    python benchmarks/chain_front.py --work results/chain_front

One search of configs/demo_chain.yaml for each beta and seed minimizes L log(cost)^beta (0: L alone). Every network is
then trained from scratch alike and scored on people unseen in search and training. Beside them stand the space's
smallest and largest network, and random ones with the multiply-adds of each searched one (within 3 %): their choices
are drawn independently, tilted to the dearer or the cheaper candidates until the expected multiply-adds meet those
wanted; attention is drawn uniformly. Resumable: whatever is finished in --work is kept; --table writes from what there
is. Beside --out stands a plot of the same name (SVG, PNG).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _chain_samples import ChainSampler
from _front_plot import Series, plot_front

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.environment import describe_environment
from dcs_nas.files import write_json, write_text
from dcs_nas.models.chain_space import build_fixed_chain
from dcs_nas.models.flops import count
from dcs_nas.runs import RunFolder
from dcs_nas.space import ChainGenotype, ChainSpec, find_shipped_file, load_genotype, load_space
from dcs_nas.strategies.job import run_search
from dcs_nas.training.evaluate import evaluate_run
from dcs_nas.training.retrain_job import run_retraining


@dataclass(frozen=True)
class Entry:
    """A network to train: how it was chosen, for which beta, by which seed, and where its genotype lies."""

    how: str
    beta: float | None
    seed: int
    path: Path

    @property
    def name(self) -> str:
        return f"{self.how}{'' if self.beta is None else f'-{self.beta:g}'}-{self.seed}"


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    data = arguments.work / "data"
    if not arguments.table:
        if not data.is_dir():
            write_synthetic(data, settings=SyntheticSettings())
        for seed in arguments.seeds:
            for beta in arguments.betas:
                _search(beta, seed, arguments)
            for entry in _entries(arguments):
                if entry.seed == seed:
                    _train(entry, arguments)
    rows = [row for entry in _entries(arguments) if (row := _row(entry, arguments)) is not None]
    if not rows:
        raise SystemExit(f"nothing in {arguments.work} is trained yet; run without --table")
    table = _table(rows, arguments)
    write_text(arguments.out, table)
    plot_front(list(_series(rows)), arguments.out, title="Chains on synthetic people")
    if arguments.json:
        write_json(arguments.json, {"rows": rows, "settings": _settings(arguments), **describe_environment()})
    print(table)


SERIES = {  # label, family of the palette, marker, line
    "searched": ("searched, by beta", "separable", "o", "-"),
    "random": ("random, as many multiply-adds", "pooling", "s", "--"),
    "smallest": ("smallest", "dilated", "v", "none"),
    "largest": ("largest", "attention", "^", "none"),
}


def _series(rows: Sequence[Mapping[str, Any]]) -> Iterator[Series]:
    """Yield the networks of each kind, in groups of one beta."""
    for how, look in SERIES.items():
        own = [row for row in rows if row["network"] == how]
        betas = sorted({row["beta"] for row in own}, key=lambda beta: -float(beta or 0))
        groups = [[(r["multiply_adds"] / 1e6, r["mAP"]) for r in own if r["beta"] == beta] for beta in betas]
        yield Series(*look, groups, [f"β {beta}" for beta in betas] if how == "searched" else [])


def _search(beta: float, seed: int, arguments: argparse.Namespace) -> None:
    folder = _searched(beta, seed, arguments)
    if (folder / "genotype.yaml").is_file():
        return
    began = time.perf_counter()
    cost = "{kind: none}" if not beta else f"{{kind: flops, form: multiplicative, weight: {arguments.weight:g}, "
    cost += f"beta: {beta:g}}}" if beta else ""
    last = 5.0 * 0.956 ** (arguments.search_epochs - 1)  # arXiv 2505.08961: 5.0 * 0.956^epoch
    config = _config(
        seed,
        arguments,
        f"search.cost={cost}",
        f"search.epochs={arguments.search_epochs}",
        f"search.warmup_epochs={arguments.warmup}",
        f"search.relaxation.temperature_end={last}",
    )
    run_search(config, folder, resume=(folder / "config.yaml").is_file())
    minutes = (time.perf_counter() - began) / 60
    size = _sampler().multiply_adds(_genotype(folder / "genotype.yaml")) / 1e6
    _say(f"beta {beta:g}, seed {seed}: {size:.2f} M multiply-adds, {minutes:.1f} min of search")


def _entries(arguments: argparse.Namespace) -> Iterator[Entry]:
    """All networks whose genotypes are known by now; random ones are drawn here."""
    sampler = _sampler()
    for seed in arguments.seeds:
        for beta in arguments.betas:
            path = _searched(beta, seed, arguments) / "genotype.yaml"
            if path.is_file():
                yield Entry("searched", beta, seed, path)
                wanted = sampler.multiply_adds(_genotype(path))
                given = arguments.work / "given" / f"random-{beta:g}-{seed}.yaml"
                if not given.is_file():
                    random = np.random.default_rng([seed, int(1000 * beta)])
                    write_text(given, sampler.random(wanted, random).to_yaml())
                yield Entry("random", beta, seed, given)
        for how in ("smallest", "largest"):
            given = arguments.work / "given" / f"{how}.yaml"
            if not given.is_file():
                write_text(given, sampler.extreme(largest=how == "largest").to_yaml())
            yield Entry(how, None, seed, given)


def _train(entry: Entry, arguments: argparse.Namespace) -> None:
    folder = _trained(entry, arguments)
    if (folder / "evaluation.json").is_file():
        return
    began = time.perf_counter()
    config = _config(entry.seed, arguments, f"retrain.epochs={arguments.epochs}")
    if not RunFolder(folder).finished_file.is_file():
        run_retraining(config, folder, genotype=entry.path, resume=(folder / "config.yaml").is_file())
    report = evaluate_run(folder).report
    write_json(folder / "evaluation.json", report)
    minutes = (time.perf_counter() - began) / 60
    _say(f"{entry.name}: mAP {100 * report['mAP']:.2f} %, {minutes:.1f} min of training")


def _row(entry: Entry, arguments: argparse.Namespace) -> dict[str, Any] | None:
    file = _trained(entry, arguments) / "evaluation.json"
    if not file.is_file():
        return None
    report, genotype = json.loads(file.read_text()), _genotype(entry.path)
    cost = count(build_fixed_chain(genotype), genotype.network.height, genotype.network.width)
    return {
        "network": entry.how,
        "beta": "" if entry.beta is None else f"{entry.beta:g}",
        "seed": entry.seed,
        "multiply_adds": cost.macs,
        "parameters": cost.parameters,
        "mAP": round(100 * report["mAP"], 2),
        "rank1": round(100 * report["cmc"][0], 2),
        "blocks": sum(len(stage.blocks) for stage in genotype.stages),
        "attention": "/".join(stage.attention for stage in genotype.stages),
    }


def _table(rows: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> str:
    text = io.StringIO()
    text.write("# synthetic people (dcs-nas synth, defaults), unseen in search and training; mAP, rank1 in percent\n")
    words = ", ".join(f"{name} {value}" for name, value in _settings(arguments).items())
    seeds = " ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    betas = " ".join(sorted({row["beta"] for row in rows} - {""}, key=float))
    text.write(
        f"# python benchmarks/chain_front.py --seeds {seeds} --betas {betas}; configs/demo_chain.yaml, {words}\n"
    )
    versions = describe_environment()["versions"]
    text.write(f"# torch {versions['torch']}, dcs_nas {versions['dcs_nas']}; {_verdict(rows)}\n")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Searched against random networks of the same multiply-adds and seed, over the pairs that are finished."""
    scores = {(r["network"], r["beta"], r["seed"]): r["mAP"] for r in rows}
    gains = [
        value - scores["random", beta, seed]
        for (how, beta, seed), value in scores.items()
        if how == "searched" and ("random", beta, seed) in scores
    ]
    if len(gains) < 2:
        return "too few pairs of searched and random networks"
    mean, error = statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    return f"searched minus random mAP over {len(gains)} pairs: {mean:+.2f}, standard error {error:.2f}"


def _config(seed: int, arguments: argparse.Namespace, *overrides: str) -> Config:
    own = [f"seed={seed}", f"data.root={arguments.work / 'data'}", f"results={arguments.work}"]
    own += ["trainer.accelerator=cpu", f"trainer.threads={arguments.threads}"]
    return load_config(find_shipped_file("configs", "demo_chain"), [*own, *overrides])


def _sampler() -> ChainSampler:
    data = load_config(find_shipped_file("configs", "demo_chain")).data
    space = load_space(find_shipped_file("search_spaces", "demo_chain"))
    assert isinstance(space, ChainSpec)
    return ChainSampler(space, space.network(data.height, data.width))


def _genotype(path: Path) -> ChainGenotype:
    genotype = load_genotype(path)
    assert isinstance(genotype, ChainGenotype)
    return genotype


def _searched(beta: float, seed: int, arguments: argparse.Namespace) -> Path:
    return arguments.work / "search" / f"{beta:g}-{seed}"


def _trained(entry: Entry, arguments: argparse.Namespace) -> Path:
    return arguments.work / "retrain" / entry.name


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "search epochs": arguments.search_epochs,
        "of them without alphas": arguments.warmup,
        "training epochs": arguments.epochs,
    }


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--betas", type=float, nargs="+", default=[0, 0.1, 0.3, 0.6, 1], help="0: no cost term")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--weight", type=float, default=0.2, help="alpha of the cost term (arXiv 1812.03443)")
    parser.add_argument("--search-epochs", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3, help="first epochs of a search that move no alphas")
    parser.add_argument("--epochs", type=int, default=8, help="of training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="write table and plot from what is finished")
    parser.add_argument("--work", type=Path, default=Path("results/chain_front"))
    parser.add_argument("--out", type=Path, default=Path("results/reference/chain_front.csv"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
