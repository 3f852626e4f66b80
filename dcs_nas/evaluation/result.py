"""The result of a ranking: scores, their protocol, and a table of the queries.

Shapes: Q queries, R repeats (1 except for single-gallery-shot), S bootstrap resamples.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dcs_nas.errors import InputError
from dcs_nas.evaluation.matching import SKIP_CAUSES
from dcs_nas.files import write_text

_RESAMPLES_AT_ONCE = 64
_SCORES = ("mAP", "mINP", "cmc")


@dataclass(frozen=True)
class RankingProtocol:
    """The rules of a result.

    ``rerank`` and ``expansion`` hold the settings of re-ranking and query expansion, ``seed`` that of gallery draws.
    """

    name: str
    metric: str
    camera_filter: str
    average_precision: str
    repeats: int
    seed: int | None
    rerank: Mapping[str, Any] | None
    expansion: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class RankingResult:
    """Scores of a ranking, as fractions.

    Attributes:
        average_precision: (Q,), NaN for skipped queries, as is ``inverse_negative_penalty``.
        first_ranks: (Q, R) 1-based rank of the first match, 0 for skipped queries.
        matches: (Q,) number of matches that count.
        skipped: (Q,) cause why a query has no score, "" where it has one.
    """

    average_precision: np.ndarray
    inverse_negative_penalty: np.ndarray
    first_ranks: np.ndarray
    matches: np.ndarray
    skipped: np.ndarray
    query_pids: np.ndarray
    query_camids: np.ndarray
    gallery_size: int
    gallery_junk_dropped: int
    max_rank: int
    protocol: RankingProtocol

    @cached_property
    def used(self) -> np.ndarray:
        """Indices of the queries that have a score."""
        return np.flatnonzero(self.skipped == "")

    @cached_property
    def cmc(self) -> np.ndarray:
        """(max_rank,) share of queries whose first match is among the first 1, 2, ... gallery images."""
        return _compute_cmc(self.first_ranks[self.used], self.max_rank).mean(axis=0)

    @cached_property
    def mAP(self) -> float:  # noqa: N802
        """Mean average precision."""
        return float(self.average_precision[self.used].mean())

    @cached_property
    def mINP(self) -> float:  # noqa: N802
        """Mean inverse negative penalty."""
        return float(self.inverse_negative_penalty[self.used].mean())

    def to_dict(self) -> dict[str, Any]:
        """Return the scores, protocol and counts, ready for JSON."""
        skipped = {cause: int((self.skipped == cause).sum()) for cause in SKIP_CAUSES}
        return {
            "mAP": self.mAP,
            "mINP": self.mINP,
            "cmc": self.cmc.tolist(),
            "protocol": asdict(self.protocol),
            "queries": {"total": len(self.skipped), "used": len(self.used), "skipped": skipped},
            "gallery_size": self.gallery_size,
            "gallery_junk_dropped": self.gallery_junk_dropped,
        }

    def hardest(self, count: int | None = None) -> np.ndarray:
        """Return the indices of the ``count`` scored queries of lowest average precision, lowest first."""
        return self.used[np.argsort(self.average_precision[self.used], kind="stable")][:count]

    def confidence_intervals(
        self, *, ranks: Sequence[int] = (1, 5, 10), resamples: int = 1000, level: float = 0.95, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Return percentile bootstrap intervals (Efron, 1979) of mAP, mINP and rank-k, over scored queries.

        They show how much the scores depend on the choice of queries, for one gallery and network.

        Raises:
            InputError: a level outside (0, 1), no resamples, or a rank below 1.
        """
        if not 0 < level < 1 or resamples < 1 or min(ranks, default=1) < 1:
            raise InputError(
                f"level is {level}, resamples {resamples}, ranks {ranks}; expected 0 < level < 1, the others >= 1"
            )
        columns = {"mAP": self.average_precision[self.used], "mINP": self.inverse_negative_penalty[self.used]}
        first = self.first_ranks[self.used]
        columns |= {f"rank-{k}": (first <= k).mean(axis=1) for k in ranks}
        means = _resample_means(np.stack(list(columns.values()), axis=1), resamples, seed)
        tail = (1 - level) / 2
        low, high = np.quantile(means, [tail, 1 - tail], axis=0)
        return {name: (float(low[i]), float(high[i])) for i, name in enumerate(columns)}

    def confidence(self, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """Return ``confidence_intervals`` of mAP, mINP and the whole CMC curve (max_rank pairs), ready for JSON."""
        ranks = range(1, self.max_rank + 1)
        intervals = self.confidence_intervals(ranks=ranks, resamples=resamples, level=level, seed=seed)
        return {
            "method": "percentile bootstrap over queries",
            "level": level,
            "resamples": resamples,
            "seed": seed,
            "mAP": list(intervals["mAP"]),
            "mINP": list(intervals["mINP"]),
            "cmc": [list(intervals[f"rank-{k}"]) for k in ranks],
        }

    def write_csv(self, path: Path | str, *, names: Sequence[str] | None = None) -> None:
        """Write one line per query: index, name (where ``names`` (Q,) are given), ids, scores, or why it was skipped.

        Raises:
            InputError: not one name per query.
        """
        if names is not None and len(names) != len(self.skipped):
            raise InputError(f"{len(names)} names for {len(self.skipped)} queries; expected one per query")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["query", "name", "pid", "camid", "matches", "first_rank", "ap", "inp", "skipped"])
        for q, cause in enumerate(self.skipped.tolist()):
            scores = ["", "", "", ""] if cause else self._format_scores(q)
            name = names[q] if names is not None else ""
            writer.writerow([q, name, self.query_pids[q], self.query_camids[q], *scores, cause])
        write_text(Path(path), text.getvalue())

    def _format_scores(self, query: int) -> list[str]:
        return [
            str(self.matches[query]),
            f"{self.first_ranks[query].mean():g}",
            f"{self.average_precision[query]:.8f}",
            f"{self.inverse_negative_penalty[query]:.8f}",
        ]


def _compute_cmc(first_ranks: np.ndarray, max_rank: int) -> np.ndarray:
    """Return the share (Q, max_rank) of repeats whose first match is within the first 1, 2, ... images."""
    hits = np.zeros((len(first_ranks), max_rank))
    rows, repeats = np.nonzero(first_ranks <= max_rank)
    np.add.at(hits, (rows, first_ranks[rows, repeats] - 1), 1 / first_ranks.shape[1])
    return hits.cumsum(axis=1)


def _resample_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the means of ``values`` (Q, M) over Q queries drawn with replacement, (S, M)."""
    generator = np.random.default_rng(seed)
    total = len(values)
    means = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        drawn = generator.integers(total, size=(min(_RESAMPLES_AT_ONCE, resamples - start), total))
        means.append(np.stack([np.bincount(row, minlength=total) @ values for row in drawn]) / total)
    return np.concatenate(means)


def average(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean and sample standard deviation (n - 1) of mAP, mINP and the CMC curve of n evaluations.

    Args:
        reports: of ``RankingResult.to_dict``, with the statistics of the data set under ``data``.

    Raises:
        InputError: fewer than two evaluations, or evaluations of different data sets, protocols or CMC lengths.
    """
    if len(reports) < 2:
        raise InputError(f"found {len(reports)} evaluations; a mean needs two or more: name more runs")
    properties: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "data set": _describe_data,
        "protocol": lambda report: report["protocol"],
        "length of the CMC curve": lambda report: len(report["cmc"]),
    }
    for key, get in properties.items():
        values = {str(get(report)) for report in reports}
        if len(values) > 1:
            listed = " and ".join(sorted(values))
            raise InputError(f"evaluations of more than one {key} have no mean; found {listed}: name runs of one")
    scores = {name: np.array([report[name] for report in reports]) for name in _SCORES}
    return {
        **{name: score.mean(axis=0).tolist() for name, score in scores.items()},
        "standard_deviation": {name: score.std(axis=0, ddof=1).tolist() for name, score in scores.items()},
        "protocol": reports[0]["protocol"],
        "evaluations": [dict(report) for report in reports],
    }


def _describe_data(report: Mapping[str, Any]) -> str:
    return ", fingerprint ".join([report["data"]["name"], *filter(None, [report["data"].get("fingerprint", "")[:8]])])


def describe_protocol(protocol: Mapping[str, Any]) -> str:
    """Return a report's protocol in words; what it lacks is left out."""
    words = [f"protocol {protocol['name']}"] if protocol.get("name") else []
    words += [f"{protocol['metric']} distance"] if protocol.get("metric") else []
    if (protocol.get("repeats") or 1) > 1:
        words.append(f"mean of {protocol['repeats']} drawn galleries, seed {protocol.get('seed')}")
    if protocol.get("average_precision") not in (None, "hits"):
        words.append(f"average precision by {protocol['average_precision']} rule")
    if expansion := protocol.get("expansion"):
        words.append(f"queries expanded by {expansion['neighbours']} neighbours, alpha {expansion['alpha']:g}")
    if rerank := protocol.get("rerank"):
        words.append(f"re-ranked with k1 {rerank['k1']}, k2 {rerank['k2']}, lambda {rerank['weight']:g}")
    return ", ".join(words)
