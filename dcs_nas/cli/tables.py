"""Genotypes and scores as tables on the terminal; lists of the nearest images as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcs_nas.cli.console import say, table

if TYPE_CHECKING:
    from dcs_nas.api import TrainedRun
    from dcs_nas.space import AnyGenotype

_RANKS = (1, 5, 10)


def show_genotype(genotype: AnyGenotype) -> None:
    """Print the cells of a genotype, or the stages of a chain."""
    for title, columns, rows in genotype.tables():
        table(title, columns, rows, words=True)


def show_trained(run: TrainedRun) -> None:
    """Print size, data and last figures of a trained network."""
    from dcs_nas.models.flops import count
    from dcs_nas.runs import RunFolder
    from dcs_nas.settings import read_yaml

    config = run.config
    cost = count(run.network.backbone, config.data.height, config.data.width)
    facts, last = read_yaml(RunFolder(run.folder).finished_file), run.metrics[-1]
    shown = {
        "parameters": f"{cost.parameters:,}",
        "FLOPs (M)": f"{cost.macs / 1e6:,.1f}",
        "identities" if config.pretrain is None else "classes": f"{facts['train_people']:,}",
        "images": f"{facts['train_images']:,}",
        "epochs": str(facts["epochs"]),
        "loss": f"{last['train/loss']:.3g}",
    }
    for name in ("mAP", "top-1", "top-5"):
        if f"validation/{name}" in last:
            shown[f"held-out {name}"] = f"{100 * last[f'validation/{name}']:.2f} %"
    assert config.training is not None
    title = f"{run.folder}: {config.training.backbone or 'searched network'}"
    table(title, list(shown), [list(shown.values())])


def score_table(report: Mapping[str, Any], title: str) -> None:
    """Print the scores of a report in percent, their intervals, the queries used and the protocol."""
    columns, scores = _name_scores(report)
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
    """Print one line per evaluation, then mean and standard deviation."""
    columns, means = _name_scores(report)
    rows = [
        [name, *(f"{100 * s:.2f} %" for s in _name_scores(part)[1])]
        for name, part in zip(names, report["evaluations"], strict=True)
    ]
    rows.append(["mean", *(f"{100 * s:.2f} %" for s in means)])
    spread = {**report["standard_deviation"]}
    rows.append(["standard deviation", *(f"{100 * s:.2f}" for s in _name_scores(spread)[1])])
    table(title, ["", *columns], rows)
    say(f"each: {_counts_line(report['evaluations'][0])}")


def list_nearest(rows: Iterable[tuple[object, int, object, float]]) -> str:
    """Return query, rank, image and distance of each row as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "image", "distance"])
    writer.writerows([query, rank, image, f"{distance:.6f}"] for query, rank, image, distance in rows)
    return text.getvalue()


def _ranks(report: Mapping[str, Any]) -> list[int]:
    return [k for k in _RANKS if k <= len(report["cmc"])]


def _name_scores(report: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    ranks = _ranks(report)
    values = [report["mAP"], report["mINP"], *(report["cmc"][k - 1] for k in ranks)]
    return ["mAP", "mINP", *(f"rank-{k}" for k in ranks)], values


def _counts_line(report: Mapping[str, Any]) -> str:
    from dcs_nas.evaluation.result import describe_protocol

    queries, protocol = report["queries"], report["protocol"]
    causes = [(cause.replace("_", " "), count) for cause, count in queries["skipped"].items() if count]
    skipped = "".join(f"; {count} skipped: {cause}" for cause, count in causes)
    gallery = f"gallery of {report['gallery_size']}"
    if report.get("gallery_junk_dropped"):
        gallery += f" ({report['gallery_junk_dropped']} junk images left out)"
    flip = ", mirrored images added" if report.get("flip") else ""
    return f"{queries['used']} of {queries['total']} queries{skipped}; {gallery}; {describe_protocol(protocol)}{flip}"
