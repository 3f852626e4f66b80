"""What ``evaluate`` and ``rank`` have in common: their options, and how scores are shown and kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcs_nas.cli.console import say, table
from dcs_nas.errors import InputError

if TYPE_CHECKING:
    from dcs_nas.evaluation import RankingResult

Protocol = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cross_camera, single_gallery_shot or no_camera_filter."),
]
Expand = Annotated[
    int | None,
    typer.Option(
        metavar="K", help="Average query expansion over the K nearest gallery images (5 is usual), 0 for none."
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(help="With --expand: weights are similarity to this power; 0, the default, is the plain average."),
]
Rerank = Annotated[
    bool | None, typer.Option("--rerank/--no-rerank", help="k-reciprocal re-ranking (arXiv 1701.08398).")
]
K1 = Annotated[int | None, typer.Option("--k1", help="With --rerank: neighbours; 20 as published.")]
K2 = Annotated[int | None, typer.Option("--k2", help="With --rerank: encodings averaged; 6 as published.")]
Weight = Annotated[
    float | None, typer.Option("--lambda", help="With --rerank: share of the original distance; 0.3 as published.")
]
Trapezoid = Annotated[
    bool | None,
    typer.Option("--trapezoid/--hits", help="Average precision by the trapezoid rule, as in MATLAB, or at each hit."),
]
Confidence = Annotated[
    int | None,
    typer.Option(metavar="N", help="95 % intervals from N bootstrap resamples of the queries (1000 is usual)."),
]
MaxRank = Annotated[int | None, typer.Option(help="Length of the CMC curve; 50 by default.")]
Csv = Annotated[Path | None, typer.Option(metavar="FILE", help="One line per query: scores, or why it was skipped.")]

_RANKS = (1, 5, 10)


def changes(
    *,
    flip: bool | None = None,
    protocol: str | None,
    metric: str | None,
    expand: int | None,
    alpha: float | None,
    rerank: bool | None,
    k1: int | None,
    k2: int | None,
    weight: float | None,
    trapezoid: bool | None,
    confidence: int | None,
    max_rank: int | None,
) -> dict[str, Any]:
    """The options given on the command line as settings of ``EvaluateConfig``."""
    given = {
        "protocol": protocol,
        "metric": metric,
        "flip": flip,
        "expand": expand,
        "expand_alpha": alpha,
        "rerank": rerank,
        "rerank_k1": k1,
        "rerank_k2": k2,
        "rerank_lambda": weight,
        "average_precision": None if trapezoid is None else "trapezoid" if trapezoid else "hits",
        "confidence": confidence,
        "max_rank": max_rank,
    }
    return {key: value for key, value in given.items() if value is not None}


def score_table(report: Mapping[str, Any], title: str) -> None:
    """The scores of a report in percent, their intervals, and which queries they count by which rules."""
    columns, scores = _named_scores(report)
    rows = [[f"{100 * s:.2f} %" for s in scores]]
    confidence = report.get("confidence")
    if confidence:
        bounds = [confidence["mAP"], confidence["mINP"], *(confidence["cmc"][k - 1] for k in _ranks(report))]
        rows.append([f"{100 * low:.1f}-{100 * high:.1f}" for low, high in bounds])
    table(title, columns, rows)
    say(_counts_line(report))
    if confidence:
        level = f"{100 * confidence['level']:g} %"
        say(f"second line: {level} intervals, {confidence['resamples']:,} bootstrap resamples of the queries")


def average_table(report: Mapping[str, Any], names: Sequence[str], title: str) -> None:
    """One line for each evaluation, then mean and standard deviation."""
    columns, means = _named_scores(report)
    rows = [
        [name, *(f"{100 * s:.2f} %" for s in _named_scores(part)[1])]
        for name, part in zip(names, report["evaluations"], strict=True)
    ]
    rows.append(["mean", *(f"{100 * s:.2f} %" for s in means)])
    spread = {**report["standard_deviation"]}
    rows.append(["standard deviation", *(f"{100 * s:.2f}" for s in _named_scores(spread)[1])])
    table(title, ["", *columns], rows)
    say(f"each: {_counts_line(report['evaluations'][0])}")


def write_query_csv(path: Path, result: RankingResult, names: Sequence[str] | None) -> None:
    result.write_csv(path, names=names)
    say(f"queries: {path}")


def report_name(
    given: Mapping[str, Any],
    *,
    data: str | None,
    data_options: Mapping[str, Any],
    features: str,
    checkpoint: str,
    images: str | None = None,
    splits: int | None = None,
) -> str:
    """One name for each way to evaluate, so that none replaces another, e.g. ``evaluation_dukemtmc_rerank_flip``.

    ``given`` are the settings that replace the run's own; intervals don't change scores and are not named. ``images``
    is the fingerprint of images that are not the run's.
    """
    settings = {key: value for key, value in given.items() if key not in ("confidence", "max_rank")}
    parts = [
        data,
        f"images-{images}" if images else None,
        *(f"{key}-{value}" for key, value in data_options.items()),
        *(_short_name(key, value) for key, value in settings.items()),
        features if features != "network" else None,
        checkpoint if checkpoint != "last" else None,
        f"{splits}-splits" if splits else None,
    ]
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", "_".join(["evaluation", *filter(None, parts)]))


def _short_name(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no-{key}"
    return value if isinstance(value, str) else f"{key.replace('rerank_', '').replace('_', '-')}-{value}"


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """Options KEY=VALUE of a data set's loader, values as YAML."""
    from dcs_nas.settings import parse_yaml

    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"option '{item}' is not of the form key=value")
        options[key.strip()] = parse_yaml(value, source=f"the value of option '{item}'")
    return options


def _ranks(report: Mapping[str, Any]) -> list[int]:
    return [k for k in _RANKS if k <= len(report["cmc"])]


def _named_scores(report: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    ranks = _ranks(report)
    values = [report["mAP"], report["mINP"], *(report["cmc"][k - 1] for k in ranks)]
    return ["mAP", "mINP", *(f"rank-{k}" for k in ranks)], values


def _counts_line(report: Mapping[str, Any]) -> str:
    queries, protocol = report["queries"], report["protocol"]
    causes = [(cause.replace("_", " "), count) for cause, count in queries["skipped"].items() if count]
    skipped = "".join(f"; {count} skipped: {cause}" for cause, count in causes)
    gallery = f"gallery of {report['gallery_size']}"
    if report.get("gallery_junk_dropped"):
        gallery += f" ({report['gallery_junk_dropped']} junk images left out)"
    flip = ", mirrored images added" if report.get("flip") else ""
    return f"{queries['used']} of {queries['total']} queries{skipped}; {gallery}; {_rules(protocol)}{flip}"


def _rules(protocol: Mapping[str, Any]) -> str:
    rules = [f"protocol {protocol['name']}", f"{protocol['metric']} distance"]
    if protocol["repeats"] > 1:
        rules.append(f"mean of {protocol['repeats']} drawn galleries, seed {protocol['seed']}")
    if protocol["average_precision"] != "hits":
        rules.append(f"average precision by {protocol['average_precision']} rule")
    if protocol.get("expansion"):
        expansion = protocol["expansion"]
        rules.append(f"queries expanded by {expansion['neighbours']} neighbours, alpha {expansion['alpha']:g}")
    if protocol["rerank"]:
        settings = protocol["rerank"]
        rules.append(f"re-ranked with k1 {settings['k1']}, k2 {settings['k2']}, lambda {settings['weight']:g}")
    return ", ".join(rules)
