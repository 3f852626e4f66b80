"""Scores with the rules by which they were measured, and the CMC curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dcs_nas.errors import Attempts
from dcs_nas.evaluation.result import describe_protocol
from dcs_nas.report.charts import embed_chart, paint_cmc, read_cmc_curve
from dcs_nas.report.embedded import Picture
from dcs_nas.runs import Evaluation

RANKS = (1, 5, 10)
SCORE_COLUMNS = ["mAP", "mINP", *(f"rank-{k}" for k in RANKS)]


@dataclass(frozen=True)
class Score:
    """One row: percentages as text, mAP as a fraction, and the rules by which they were measured.

    ``spread`` says in words what the ``intervals`` are.
    """

    name: str
    cells: list[str]
    intervals: list[str]
    spread: str
    data: str
    counts: str
    rules: str
    value: float

    def interval(self, column: int) -> str:
        """Return the interval or spread of a column; "" without one."""
        return self.intervals[column] if self.intervals else ""


def make_rows(
    named: Sequence[tuple[str, Evaluation]], attempt: Attempts
) -> tuple[list[Score], list[tuple[str, Evaluation]]]:
    """Return the rows of all complete evaluations, and these evaluations; the others become notes."""
    pairs = [
        (attempt(f"{name}, {one.name}.json", partial(_row, name, one.report), None), (name, one)) for name, one in named
    ]
    return [row for row, _ in pairs if row is not None], [pair for row, pair in pairs if row is not None]


def explain_spreads(rows: Sequence[Score]) -> str:
    """Return a sentence on the small figures of the rows; "" without any."""
    words = "; ".join(dict.fromkeys(row.spread for row in rows if row.spread))
    return f"Small figures: {words}." if words else ""


def are_comparable(rows: Sequence[Score]) -> bool:
    """Return whether all rows were measured on the same data by the same rules."""
    return len({(row.data, row.counts, row.rules) for row in rows}) <= 1


def name_evaluations(evaluations: Sequence[Evaluation]) -> list[tuple[str, Evaluation]]:
    """Return each evaluation with a different name: its words, and its data or file where words repeat."""
    for name in (_words, lambda e: f"{_words(e)} on {_data(e.report)}"):
        names = [name(one) for one in evaluations]
        if len(set(names)) == len(names):
            return list(zip(names, evaluations))
    return [(f"{_words(one)}, {one.name}", one) for one in evaluations]


def _words(evaluation: Evaluation) -> str:
    """Return an evaluation in words: features, checkpoint and switches."""
    report = evaluation.report
    words = [str(report.get("features", "network")).replace("-", " ")]
    if report.get("checkpoint") not in (None, "last"):
        words.append(f"checkpoint {report['checkpoint']}")
    words += ["flip"] * bool(report.get("flip")) + ["re-ranked"] * bool(_protocol(report).get("rerank"))
    words += ["expanded queries"] * bool(_protocol(report).get("expansion"))
    return ", ".join(words)


def draw_cmc_figure(named: Sequence[tuple[str, Evaluation]], styles: Sequence[int] | None = None) -> Picture | None:
    """Return the CMC curves of all evaluations on one pair of axes, in the ``styles`` given; None without any."""
    if not named:
        return None
    numbers = range(len(named)) if styles is None else styles
    curves = [read_cmc_curve(one.report, name, style=i) for (name, one), i in zip(named, numbers, strict=True)]
    return embed_chart(paint_cmc(curves, "svg"), "cumulative matching characteristic")


def _row(name: str, report: Mapping[str, Any]) -> Score:
    values = [report["mAP"], report["mINP"], *_select_ranks(report["cmc"])]
    return Score(
        name=name,
        cells=["–" if v is None else f"{100 * v:.1f} %" for v in values],
        intervals=_format_intervals(report),
        spread=_describe_intervals(report),
        data=_data(report),
        counts=_counts(report),
        rules=describe_protocol(_protocol(report)),
        value=float(report["mAP"]),
    )


def _format_intervals(report: Mapping[str, Any]) -> list[str]:
    """Return 95 % intervals, or the standard deviation of a mean; [] without either."""
    if confidence := report.get("confidence"):
        bounds = [confidence["mAP"], confidence["mINP"], *_select_ranks(confidence["cmc"])]
        return ["" if b is None else f"{100 * b[0]:.1f}–{100 * b[1]:.1f}" for b in bounds]
    if spread := report.get("standard_deviation"):
        deviations = [spread["mAP"], spread["mINP"], *_select_ranks(spread["cmc"])]
        return ["" if v is None else f"± {100 * v:.1f}" for v in deviations]
    return []


def _describe_intervals(report: Mapping[str, Any]) -> str:
    if confidence := report.get("confidence"):
        return f"{100 * float(confidence.get('level', 0.95)):g} % intervals of the choice of queries (bootstrap)"
    if report.get("standard_deviation"):
        return f"± the standard deviation of {len(report.get('evaluations') or [])} evaluations"
    return ""


def _select_ranks(curve: Sequence[Any]) -> list[Any]:
    """Return the curve's values at ``RANKS``, None beyond its end."""
    return [curve[k - 1] if k <= len(curve) else None for k in RANKS]


def _protocol(report: Mapping[str, Any]) -> Mapping[str, Any]:
    protocol = report.get("protocol")
    return protocol if isinstance(protocol, Mapping) else {}


def _first(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a report, or the first part of a mean, which holds the facts that the mean lacks."""
    parts = report.get("evaluations")
    return parts[0] if parts else report


def _data(report: Mapping[str, Any]) -> str:
    data = _first(report).get("data")
    return str(data.get("version") or data.get("name") or "") if isinstance(data, Mapping) else ""


def _counts(report: Mapping[str, Any]) -> str:
    one = _first(report)
    queries = one.get("queries") or {}
    if not queries:
        return ""
    skipped = sum((queries.get("skipped") or {}).values())
    words = f"{queries['used']:,} queries"
    words += f" ({skipped:,} skipped)" if skipped else ""
    words += f", gallery {one['gallery_size']:,}" if "gallery_size" in one else ""
    parts = report.get("evaluations")
    return f"mean of {len(parts)} evaluations, each {words}" if parts else words
