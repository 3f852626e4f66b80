"""From the ranks of a query's matches to its scores.

Shapes: H matches of all queries together, Q queries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

AVERAGE_PRECISIONS = ("hits", "trapezoid")


class QueryScores(NamedTuple):
    """Scores of every query, each (Q,); NaN, or 0 for integers, where a query has no match."""

    average_precision: np.ndarray
    inverse_negative_penalty: np.ndarray
    first_rank: np.ndarray
    matches: np.ndarray


def score_queries(query: np.ndarray, rank: np.ndarray, num_queries: int, *, average_precision: str) -> QueryScores:
    """Scores from the 1-based ``rank`` (H,) of every match in the ranked list of its ``query`` (H,).

    With ranks r_1 < ... < r_n of a query's n matches:

    - average precision "hits": 1/n sum_j j / r_j, the precision at each hit;
    - "trapezoid": 1/n sum_j (j / r_j + (j - 1) / (r_j - 1)) / 2, with 1 for 0/0, the area under the precision-recall
      curve as in the MATLAB evaluation of Market-1501 (Zheng et al., ICCV 2015) and of Oxford Buildings;
    - inverse negative penalty: n / r_n (Ye et al., arXiv 2001.04193, equation 6), whose mean is mINP.
    """
    order = np.lexsort((rank, query))
    query, rank = query[order], rank[order].astype(np.float64)
    matches = np.bincount(query, minlength=num_queries)
    last = np.cumsum(matches) - 1
    hit = np.arange(len(query)) - (last - matches + 1)[query] + 1
    precision = hit / rank
    if average_precision == "trapezoid":
        before = np.divide(hit - 1, rank - 1, out=np.ones_like(rank), where=rank > 1)
        precision = (precision + before) / 2
    scored = matches > 0
    ap, inp, first = np.full(num_queries, np.nan), np.full(num_queries, np.nan), np.zeros(num_queries, dtype=np.int64)
    ap[scored] = np.bincount(query, weights=precision, minlength=num_queries)[scored] / matches[scored]
    inp[scored] = matches[scored] / rank[last[scored]]
    first[scored] = rank[(last - matches + 1)[scored]]
    return QueryScores(ap, inp, first, matches)
