"""Scores with the rules that they belong to, and the CMC curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dcs_nas.errors import Attempts
from dcs_nas.report.charts import chart_picture, cmc_curve, paint_cmc
from dcs_nas.report.embedded import Picture
from dcs_nas.runs import Evaluation

RANKS = (1, 5, 10)
SCORE_COLUMNS = ["mAP", "mINP", *(f"rank-{k}" for k in RANKS)]


@dataclass(frozen=True)
class Score:
    """One row: percentages as text, mAP as a fraction, and by which rules they were measured."""

    name: str
    cells: list[str]
    intervals: list[str]
    data: str
    counts: str
    rules: str
    value: float

    def interval(self, column: int) -> str:
        """Return the interval or spread of a column; "" without one."""
        return self.intervals[column] if self.intervals else ""


def sound_rows(
    named: Sequence[tuple[str, Evaluation]], attempt: Attempts
) -> tuple[list[Score], list[tuple[str, Evaluation]]]:
    """Return the rows of the evaluations that hold all a row needs, and these evaluations; the others are noted."""
    pairs = [
        (attempt(f"{name}, {one.name}.json", partial(_row, name, one.report), None), (name, one)) for name, one in named
    ]
    return [row for row, _ in pairs if row is not None], [pair for row, pair in pairs if row is not None]


def comparable(rows: Sequence[Score]) -> bool:
    """Return whether all rows were measured on the same data by the same rules."""
    return len({(row.data, row.counts, row.rules) for row in rows}) <= 1


def named_evaluations(found: Sequence[Evaluation]) -> list[tuple[str, Evaluation]]:
    """Return each evaluation behind words of its own: with its data, or its file, where others have the same."""
    for name in (_words, lambda e: f"{_words(e)} on {_data(e.report)}"):
        names = [name(one) for one in found]
        if len(set(names)) == len(names):
            return list(zip(names, found))
    return [(f"{_words(one)}, {one.name}", one) for one in found]


def _words(found: Evaluation) -> str:
    """An evaluation in words: which features, checkpoint and switches."""
    report = found.report
    words = [str(report.get("features", "network")).replace("-", " ")]
    if report.get("checkpoint") not in (None, "last"):
        words.append(f"checkpoint {report['checkpoint']}")
    words += ["flip"] * bool(report.get("flip")) + ["re-ranked"] * bool(_protocol(report).get("rerank"))
    words += ["expanded queries"] * bool(_protocol(report).get("expansion"))
    return ", ".join(words)


def cmc_figure(named: Sequence[tuple[str, Evaluation]], styles: Sequence[int] | None = None) -> Picture | None:
    """Return the CMC curves of all evaluations on one pair of axes, in the ``styles`` given; None without any."""
    if not named:
        return None
    numbers = range(len(named)) if styles is None else styles
    curves = [cmc_curve(found.report, name, style=i) for (name, found), i in zip(named, numbers, strict=True)]
    return chart_picture(paint_cmc(curves, "svg", "light"), "cumulative matching characteristic")


def _row(name: str, report: Mapping[str, Any]) -> Score:
    values = [report["mAP"], report["mINP"], *_at_ranks(report["cmc"])]
    return Score(
        name=name,
        cells=["–" if v is None else f"{100 * v:.1f} %" for v in values],
        intervals=_intervals(report),
        data=_data(report),
        counts=_counts(report),
        rules=_rules(_protocol(report)),
        value=float(report["mAP"]),
    )


def _intervals(report: Mapping[str, Any]) -> list[str]:
    """95 % intervals, or the standard deviation of a mean; [] where there is neither."""
    if confidence := report.get("confidence"):
        bounds = [confidence["mAP"], confidence["mINP"], *_at_ranks(confidence["cmc"])]
        return ["" if b is None else f"{100 * b[0]:.1f}–{100 * b[1]:.1f}" for b in bounds]
    if spread := report.get("standard_deviation"):
        found = [spread["mAP"], spread["mINP"], *_at_ranks(spread["cmc"])]
        return ["" if v is None else f"± {100 * v:.1f}" for v in found]
    return []


def _at_ranks(curve: Sequence[Any]) -> list[Any]:
    """The curve's values at ``RANKS``, None where it ends before."""
    return [curve[k - 1] if k <= len(curve) else None for k in RANKS]


def _protocol(report: Mapping[str, Any]) -> Mapping[str, Any]:
    found = report.get("protocol")
    return found if isinstance(found, Mapping) else {}


def _first(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """A report itself, or of a mean the first of its parts, which holds what the mean does not."""
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


def _rules(protocol: Mapping[str, Any]) -> str:
    if not protocol:
        return ""
    words = [str(protocol.get("name", "")).replace("_", " "), f"{protocol.get('metric', '?')} distance"]
    if (protocol.get("repeats") or 1) > 1:
        words.append(f"{protocol['repeats']} drawn galleries, seed {protocol.get('seed')}")
    if protocol.get("average_precision") not in (None, "hits"):
        words.append(f"AP by {protocol['average_precision']}")
    if expansion := protocol.get("expansion"):
        words.append(f"expanded by {expansion['neighbours']} neighbours, alpha {expansion['alpha']:g}")
    if rerank := protocol.get("rerank"):
        words.append(f"re-ranked k1 {rerank['k1']}, k2 {rerank['k2']}, lambda {rerank['weight']:g}")
    return ", ".join(words)
