"""Every column of ``metrics.csv`` as a chart, in groups that belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from dcs_nas.report.charts import Chart, Series, draw_line_chart
from dcs_nas.runs import RunContents

_EXPLAINED = {
    "loss": "the sum that is minimized",
    "ib": "information-bottleneck term",
    "ib_compression": "its first addend; of ibb and ibb_tight a constant of the input",
    "ib_relevance": "its second addend; lower where features hold more information about identities",
    "entropy": "of the mixture weights: 1 undecided, 0 decided",
    "skips": "skip connections in the derived cells",
    "guard/eigenvalue": "dominant one of the architecture loss's Hessian; sharp growth announces collapse",
    "guard/gap": "loss of the derived network minus that of the mixture, on the same images",
    "lr": "learning rate of the weights",
    "tau": "temperature of DCS-Attention's channel selection",
    "relaxation_temperature": "of the mixture",
    "dcs_kept": "share of channels that DCS-Attention keeps",
    "validation": "by retrieval among identities held out",
    "accuracy": "share of held-out images whose class is the first, or among the first five",
    "evidence/supernet": "mAP of the trial's genotype in the supernet, before it is trained",
    "test": "by retrieval on the test set, only for this curve: nothing is chosen by it",
}
GROUPS = {
    "losses": "Losses",
    "ib": "Information bottleneck",
    "validation": "Validation",
    "schedule": "Schedules and channel selection",
    "collapse": "Collapse diagnostics",
    "other": "Other figures",
}
_HALVES = ("weights", "architecture", "train")


@dataclass
class Group:
    """Charts under one heading."""

    key: str
    title: str
    charts: list[Chart] = field(default_factory=list)


def draw_curves(runs: Sequence[RunContents], names: Sequence[str] = ()) -> list[Group]:
    """Return charts of all columns of the runs' metrics, in groups.

    Of one run, columns of one kind share a chart (the losses of both halves, the entropies of all cells). Of several
    runs, ``names`` name their lines and every column has a chart of its own.
    """
    columns = sorted({key for run in runs for row in run.metrics for key in row if key != "epoch"}, key=_order)
    single, step = len(runs) == 1, " or ".join(sorted({run.step for run in runs}))
    groups: dict[str, Group] = {}
    for (group, chart), members in groupby(columns, key=lambda c: _find_place(c) if single else (_find_place(c)[0], c)):
        same = list(members)
        if single:
            series = [_series(runs[0], column, _shorten(column, chart)) for column in same]
        else:
            series = [_series(run, same[0], name) for run, name in zip(runs, names, strict=True)]
        note = _EXPLAINED.get(chart, _EXPLAINED.get(_find_place(same[0])[1], ""))
        drawn = draw_line_chart(chart, series, note=note, step=step)
        if drawn is not None:
            groups.setdefault(group, Group(group, GROUPS[group])).charts.append(drawn)
    return [groups[key] for key in GROUPS if key in groups]


def _find_place(column: str) -> tuple[str, str]:
    """Return the group and the chart of a column.

    >>> _find_place("weights/triplet"), _find_place("guard/gap"), _find_place("entropy/normal")
    (('losses', 'triplet'), ('collapse', 'guard/gap'), ('collapse', 'entropy'))
    """
    head, _, tail = column.rpartition("/")
    if head in _HALVES:
        return ("ib" if tail == "ib" or tail.startswith("ib_") else "losses"), tail
    if head in ("entropy", "skips"):
        return "collapse", head
    if head == "guard":
        return "collapse", column
    if head == "validation" and tail.startswith("top-"):
        return "validation", "accuracy"
    if head in ("validation", "best"):
        return "validation", "validation"
    if head == "evidence":
        return "validation", column
    if head == "test":
        return "validation", "test"
    if column in ("lr", "tau", "relaxation_temperature", "dcs_kept"):
        return "schedule", column
    return "other", column


def _order(column: str) -> tuple[int, bool, str, str]:
    group, chart = _find_place(column)
    return list(GROUPS).index(group), chart != "loss", chart, column


def _shorten(column: str, chart: str) -> str:
    """Return the part of a column's name that its chart's title omits."""
    head, _, tail = column.rpartition("/")
    if column == chart:
        return tail
    if head == "best":
        return f"best {tail}"
    return head if tail == chart else tail


def _series(run: RunContents, column: str, name: str) -> Series:
    rows = [row for row in run.metrics if column in row]
    values = [row[column] if math.isfinite(row[column]) else None for row in rows]
    return Series(name, [row["epoch"] + 1 for row in rows], values)
