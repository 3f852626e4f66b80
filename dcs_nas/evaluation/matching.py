"""Scores of each query from labels and distances: its matches, their ranks, average precision, negative penalty.

Shapes: Q queries, G gallery images, b queries of a block, H pairs of a query and a gallery image of its identity,
R repeats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dcs_nas.evaluation.distances import DistanceBlocks
from dcs_nas.evaluation.features import Integers, as_labels

JUNK = -1
"""The identity of junk images (Market-1501: bad detections): they count neither for nor against a query."""

SKIP_CAUSES = ("no_match_in_gallery", "only_same_camera", "junk")
"""Why a query has no score: its identity is not in the gallery, only under the query's own camera, or is junk."""

AVERAGE_PRECISIONS = ("hits", "trapezoid")
_COMPARISONS = 2**25  # at most, at a time, on an accelerator


@dataclass(frozen=True, eq=False)
class Labels:
    """Identity and camera of every query (Q,) and gallery image (G,), int64."""

    query_pids: np.ndarray
    gallery_pids: np.ndarray
    query_camids: np.ndarray
    gallery_camids: np.ndarray

    @classmethod
    def from_arrays(
        cls,
        query_pids: Integers,
        gallery_pids: Integers,
        query_camids: Integers,
        gallery_camids: Integers,
        *,
        shape: tuple[int, int],
    ) -> Labels:
        """Check and return the labels of a distance matrix of ``shape`` (Q, G).

        Raises:
            InputError: not vectors of integers, or not one of each per image.
        """
        queries, gallery = shape
        return cls(
            as_labels("query_pids", query_pids, queries),
            as_labels("gallery_pids", gallery_pids, gallery),
            as_labels("query_camids", query_camids, queries),
            as_labels("gallery_camids", gallery_camids, gallery),
        )

    @cached_property
    def junk(self) -> np.ndarray:
        """Gallery indices of junk images."""
        return np.flatnonzero(self.gallery_pids == JUNK)

    @cached_property
    def _by_identity(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.gallery_pids, kind="stable")
        return order, self.gallery_pids[order]

    def match_identities(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of a query and an image of its identity: positions in ``queries``, gallery indices, (H,)."""
        order, sorted_pids = self._by_identity
        pids = self.query_pids[queries]
        first = np.searchsorted(sorted_pids, pids, side="left")
        counts = np.searchsorted(sorted_pids, pids, side="right") - first
        return np.repeat(np.arange(len(queries)), counts), order[concatenate_ranges(first, counts)]

    def find_skip_causes(self, *, camera_filter: bool) -> np.ndarray:
        """Return the cause (one of ``SKIP_CAUSES``) why a query cannot be scored, or "" where it can; (Q,) strings."""
        images = _count_images(self.query_pids[:, None], self.gallery_pids[:, None])
        causes = np.full(len(self.query_pids), "", dtype="<U32")
        if camera_filter:
            query = np.stack([self.query_pids, self.query_camids], axis=1)
            gallery = np.stack([self.gallery_pids, self.gallery_camids], axis=1)
            causes[images == _count_images(query, gallery)] = "only_same_camera"
        causes[images == 0] = "no_match_in_gallery"
        causes[self.query_pids == JUNK] = "junk"
        return causes


def _count_images(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return how often each row of ``query`` (Q, n) occurs among the rows of ``gallery`` (G, n)."""
    _, codes = np.unique(np.concatenate([gallery, query]), axis=0, return_inverse=True)
    codes = codes.ravel()
    return np.bincount(codes[: len(gallery)], minlength=codes.max() + 1)[codes[len(gallery) :]]


def concatenate_ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return first[0], first[0] + 1, ... (counts[0] numbers), first[1], ..., all in one vector.

    >>> concatenate_ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)


def count_ranks(block: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the 1-based rank (H,) of entry (rows[h], columns[h]) in its row of ``block`` (b, G), ties in column order.

    An entry's rank in a stable sort is one more than the number of entries to its left that are not larger and to its
    right that are smaller, so one pass over the row per match replaces sorting it.
    """
    if block.device.type == "cpu":
        return 1 + _count_ahead_on_cpu(block.numpy(), rows, columns)
    return 1 + _count_ahead(block, rows, columns)


def _count_ahead_on_cpu(block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    counts = np.empty(len(rows), dtype=np.int64)
    ahead = np.empty(block.shape[1], dtype=bool)
    for h, (r, c) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        row = block[r]
        np.less_equal(row[:c], row[c], out=ahead[:c])
        np.less(row[c:], row[c], out=ahead[c:])
        counts[h] = np.count_nonzero(ahead)
    return counts


def _count_ahead(block: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    position = torch.arange(block.shape[1], device=block.device)
    step = max(1, _COMPARISONS // block.shape[1])
    counts = []
    for start in range(0, len(rows), step):
        r = torch.as_tensor(rows[start : start + step], device=block.device)
        c = torch.as_tensor(columns[start : start + step], device=block.device)
        values, entry = block[r], block[r, c][:, None]
        ahead = (values < entry) | ((values == entry) & (position < c[:, None]))
        counts.append(ahead.sum(dim=1))
    return torch.cat(counts).cpu().numpy() if counts else np.empty(0, dtype=np.int64)


def split_blocks(queries: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield ``queries`` in blocks of ``size``."""
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def filter_block(
    distances: DistanceBlocks, labels: Labels, queries: np.ndarray, *, camera_filter: bool
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return the distances (b, G) of ``queries``, infinite for removed images, and rows and columns of matches (H,).

    Junk is removed and, with the camera filter, images of the query's identity under the query's camera.
    """
    block = distances.block(queries)
    rows, columns = labels.match_identities(queries)
    if len(labels.junk):
        block[:, torch.as_tensor(labels.junk, device=block.device)] = torch.inf
    if camera_filter:
        same = labels.gallery_camids[columns] == labels.query_camids[queries[rows]]
        removed = (torch.as_tensor(i[same], device=block.device) for i in (rows, columns))
        block[tuple(removed)] = torch.inf
        rows, columns = rows[~same], columns[~same]
    return block, rows, columns


def rank_matches(
    distances: DistanceBlocks, labels: Labels, queries: np.ndarray, *, camera_filter: bool, query_block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the query and rank, each (H,), of every match of ``queries`` among the images that are not removed."""
    results = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
    for selected in split_blocks(queries, query_block):
        block, rows, columns = filter_block(distances, labels, selected, camera_filter=camera_filter)
        results.append((selected[rows], count_ranks(block, rows, columns)))
    query, rank = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return query, rank


def rank_single_shots(
    distances: DistanceBlocks, labels: Labels, queries: np.ndarray, *, repeats: int, seed: int, query_block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank matches in ``repeats`` galleries of one random image per identity from cameras other than the query's.

    All queries of a camera share a draw, as in the classic CUHK03 protocol (Li et al., CVPR 2014), where one view is
    probe and the other gallery. The first result holds query * repeats + repeat.
    """
    results = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
    for camera in np.unique(labels.query_camids[queries]):
        draws = _draw_galleries(labels, int(camera), repeats, seed)
        for selected in split_blocks(queries[labels.query_camids[queries] == camera], query_block):
            block = distances.block(selected)
            for repeat, gallery in enumerate(draws):
                same = labels.query_pids[selected][:, None] == labels.gallery_pids[gallery]
                rows, columns = np.nonzero(same)
                shot = block[:, torch.as_tensor(gallery, device=block.device)]
                results.append((selected[rows] * repeats + repeat, count_ranks(shot, rows, columns)))
    query, rank = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return query, rank


def _draw_galleries(labels: Labels, camera: int, repeats: int, seed: int) -> list[np.ndarray]:
    """Draw ``repeats`` galleries of one image per identity not taken by ``camera``; return sorted gallery indices."""
    generator = np.random.default_rng([seed, *np.atleast_1d(np.int64(camera)).view(np.uint32).tolist()])
    valid = np.flatnonzero((labels.gallery_camids != camera) & (labels.gallery_pids != JUNK))
    draws = []
    for _ in range(repeats):
        shuffled = generator.permutation(valid)
        _, first = np.unique(labels.gallery_pids[shuffled], return_index=True)
        draws.append(np.sort(shuffled[first]))
    return draws


class QueryScores(NamedTuple):
    """Scores of every query, each (Q,); NaN, or 0 for integers, where a query has no match."""

    average_precision: np.ndarray
    inverse_negative_penalty: np.ndarray
    first_rank: np.ndarray
    matches: np.ndarray


def score_queries(query: np.ndarray, rank: np.ndarray, num_queries: int, *, average_precision: str) -> QueryScores:
    """Return the scores from the 1-based ``rank`` (H,) of every match in the ranked list of its ``query`` (H,).

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
