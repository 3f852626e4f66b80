"""Ranks of a query's matches without sorting the gallery: count who is closer.

Shapes: Q queries, G gallery images, b queries of a block, H matches, R repeats.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dcs_nas.evaluation.distances import DistanceBlocks
from dcs_nas.evaluation.labels import JUNK, Labels

_COMPARISONS = 2**25  # at most so many at a time on an accelerator


def ranks_of(block: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """1-based rank of entry (rows[h], columns[h]) within its row of ``block`` (b, G), ties in column order; (H,).

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


def blocks_of(queries: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """``queries`` in runs of ``size``."""
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def filtered_block(
    distances: DistanceBlocks, labels: Labels, queries: np.ndarray, *, camera_filter: bool
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The block of ``queries`` (b, G) with infinity where an image is removed, and its matches' rows and columns (H,).

    Removed are junk and, with the camera filter, images of the query's person under the query's camera.
    """
    block = distances.block(queries)
    rows, columns = labels.same_person(queries)
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
    """Query (H,) and rank (H,) of every match of ``queries`` among the gallery images that are not removed."""
    found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
    for chosen in blocks_of(queries, query_block):
        block, rows, columns = filtered_block(distances, labels, chosen, camera_filter=camera_filter)
        found.append((chosen[rows], ranks_of(block, rows, columns)))
    query, rank = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return query, rank


def rank_single_shots(
    distances: DistanceBlocks, labels: Labels, queries: np.ndarray, *, repeats: int, seed: int, query_block: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same with a gallery of one drawn image per person from cameras other than the query's, ``repeats`` times.

    All queries of a camera share a draw, as in the classic CUHK03 protocol (Li et al., CVPR 2014), where one view is
    probe and the other gallery. The first result holds query * repeats + repeat.
    """
    found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
    for camera in np.unique(labels.query_camids[queries]):
        draws = _draw_galleries(labels, int(camera), repeats, seed)
        for chosen in blocks_of(queries[labels.query_camids[queries] == camera], query_block):
            block = distances.block(chosen)
            for repeat, gallery in enumerate(draws):
                same = labels.query_pids[chosen][:, None] == labels.gallery_pids[gallery]
                rows, columns = np.nonzero(same)
                shot = block[:, torch.as_tensor(gallery, device=block.device)]
                found.append((chosen[rows] * repeats + repeat, ranks_of(shot, rows, columns)))
    query, rank = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return query, rank


def _draw_galleries(labels: Labels, camera: int, repeats: int, seed: int) -> list[np.ndarray]:
    """``repeats`` times one random image per person not seen by ``camera``, as sorted gallery indices."""
    generator = np.random.default_rng([seed, *np.atleast_1d(np.int64(camera)).view(np.uint32).tolist()])
    valid = np.flatnonzero((labels.gallery_camids != camera) & (labels.gallery_pids != JUNK))
    draws = []
    for _ in range(repeats):
        shuffled = generator.permutation(valid)
        _, first = np.unique(labels.gallery_pids[shuffled], return_index=True)
        draws.append(np.sort(shuffled[first]))
    return draws
