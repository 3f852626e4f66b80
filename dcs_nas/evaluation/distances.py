"""Distances between queries and gallery, a block of queries at a time, so that no Q x G matrix is needed.

Shapes: Q queries, G gallery images, C channels, b queries of a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dcs_nas.errors import InputError, choices
from dcs_nas.evaluation.features import Array, as_matrix, compute_squared_norms, require_same_width

METRICS = ("euclidean", "cosine")

_SMALLEST_NORM = 1e-12  # a zero vector has cosine distance 1 to every other, as in torch.nn.functional.normalize
_ROUNDING = 1e-4  # rounding error allowed below a cosine distance of 0
_PAIRS = 8192  # pairs of feature vectors held at a time


class DistanceBlocks(ABC):
    """Distances of Q queries to G gallery images, computed one block at a time on request."""

    shape: tuple[int, int]
    metric: str
    rerank: Mapping[str, Any] | None = None

    @abstractmethod
    def block(self, queries: np.ndarray) -> Tensor:
        """Return a fresh (b, G) tensor of values, never NaN, that grow with the distances of ``queries`` (b,)."""

    def to_distance(self, values: Tensor, queries: np.ndarray) -> Tensor:
        """Convert ``values`` (b, k) from ``block(queries)`` to distances in the metric's unit."""
        return values

    def matrix(self, *, query_block: int = 512) -> Tensor:
        """Return all distances, (Q, G)."""
        rows = (np.arange(q, min(q + query_block, self.shape[0])) for q in range(0, self.shape[0], query_block))
        return torch.cat([self.to_distance(self.block(queries), queries) for queries in rows])


class PairDistances(DistanceBlocks):
    """Distances that can also be computed for single pairs, as re-ranking requires."""

    @abstractmethod
    def pairs(self, queries: np.ndarray, gallery: np.ndarray) -> Tensor:
        """Return the distances (H,) of ``queries`` (H,) to ``gallery`` (H,), one to one."""


class FeatureDistances(PairDistances):
    """Euclidean or cosine distances of feature vectors, by one matrix product per block.

    Euclidean blocks hold ||g||^2 - 2 q.g, which orders the gallery as ||q - g|| does and is not rounded by a square
    root; cosine blocks hold -q.g / (||q|| ||g||), one less than the cosine distance.

    Args:
        query_features: (Q, C).
        gallery_features: (G, C).
        metric: "euclidean" or "cosine".
        device: the device to compute on; by default the device of the query features.

    Raises:
        InputError: shapes that don't fit, NaN or infinite features, or an unknown metric.
    """

    def __init__(
        self,
        query_features: Array,
        gallery_features: Array,
        *,
        metric: str = "euclidean",
        device: torch.device | str | None = None,
    ) -> None:
        if metric not in METRICS:
            raise InputError(f"unknown metric '{metric}'; {choices(metric, METRICS)}")
        query = as_matrix("query_features", query_features, device)
        gallery = as_matrix("gallery_features", gallery_features, query.device)
        self._query, self._gallery = require_same_width(query, gallery)
        self._query_norms = compute_squared_norms("query_features", self._query)
        self._gallery_norms = compute_squared_norms("gallery_features", self._gallery)
        self._gallery_scale = self._gallery_norms.sqrt().clamp_min(_SMALLEST_NORM).reciprocal()
        self.metric = metric
        self.shape = (len(query), len(gallery))

    def block(self, queries: np.ndarray) -> Tensor:
        rows = _index_rows(queries, self._query.device)
        query = self._query[rows]
        if self.metric == "euclidean":
            return torch.addmm(self._gallery_norms, query, self._gallery.T, alpha=-2)
        scale = self._query_norms[rows].sqrt().clamp_min(_SMALLEST_NORM)
        return ((query / -scale[:, None]) @ self._gallery.T).mul_(self._gallery_scale)

    def to_distance(self, values: Tensor, queries: np.ndarray) -> Tensor:
        if self.metric == "cosine":
            return values + 1
        norms = self._query_norms[torch.as_tensor(queries, device=self._query.device)]
        return (values + norms[:, None]).clamp_min(0).sqrt()

    def pairs(self, queries: np.ndarray, gallery: np.ndarray) -> Tensor:
        rows, columns = (torch.as_tensor(i, dtype=torch.long, device=self._query.device) for i in (queries, gallery))
        chunks = zip(rows.split(_PAIRS), columns.split(_PAIRS), strict=True)
        return torch.cat([self._compute_pairs(self._query[r], self._gallery[c]) for r, c in chunks])

    def _compute_pairs(self, query: Tensor, gallery: Tensor) -> Tensor:
        if self.metric == "cosine":
            return 1 - functional.cosine_similarity(query, gallery, eps=_SMALLEST_NORM)
        return (query - gallery).square_().sum(dim=1).sqrt_()


class MatrixDistances(DistanceBlocks):
    """A precomputed distance matrix (Q, G)."""

    metric = "given"

    def __init__(self, distances: Array) -> None:
        self._matrix = as_matrix("distances", distances)
        self.shape = (self._matrix.shape[0], self._matrix.shape[1])

    def block(self, queries: np.ndarray) -> Tensor:
        return require_finite(self._matrix[torch.as_tensor(queries, device=self._matrix.device)])


class BlockMatrices(PairDistances):
    """Distances among all N = Q + G images, queries first, from the matrices (Q, G), (Q, Q) and (G, G).

    Raises:
        InputError: shapes that don't fit; on use, NaN, infinite or negative distances.
    """

    def __init__(self, query_gallery: Array, query_query: Array, gallery_gallery: Array, *, metric: str) -> None:
        across = as_matrix("query_gallery", query_gallery)
        queries = as_matrix("query_query", query_query, across.device)
        gallery = as_matrix("gallery_gallery", gallery_gallery, across.device)
        (Q, G), dtype = across.shape, across.dtype
        for name, matrix, side in (("query_query", queries, Q), ("gallery_gallery", gallery, G)):
            if matrix.shape != (side, side):
                raise InputError(
                    f"{name} has shape {tuple(matrix.shape)}; expected ({side}, {side}), as query_gallery is ({Q}, {G})"
                )
        self._quadrants = ((queries.to(dtype), across), (across.T, gallery.to(dtype)))
        self._num_queries = Q
        self._device = across.device
        self.metric = metric
        self.shape = (Q + G, Q + G)

    def block(self, queries: np.ndarray) -> Tensor:
        images = torch.as_tensor(queries, device=self._device)
        block = self._quadrants[0][1].new_empty(len(images), self.shape[1])
        for side in (0, 1):
            mask = (images >= self._num_queries) == bool(side)
            rows = images[mask] - side * self._num_queries
            block[mask] = torch.cat([quadrant[rows] for quadrant in self._quadrants[side]], dim=1)
        return _require_nonnegative(require_finite(block))

    def pairs(self, queries: np.ndarray, gallery: np.ndarray) -> Tensor:
        rows, columns = (torch.as_tensor(i, dtype=torch.long, device=self._device) for i in (queries, gallery))
        distances = self._quadrants[0][1].new_empty(len(rows))
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            mask = ((rows >= self._num_queries) == bool(i)) & ((columns >= self._num_queries) == bool(j))
            r, c = rows[mask] - i * self._num_queries, columns[mask] - j * self._num_queries
            distances[mask] = self._quadrants[i][j][r, c]
        return _require_nonnegative(distances)


class SparseColumns(DistanceBlocks):
    """Distances to the gallery images ``columns`` (n,) of ``gallery_size``; all other images are infinitely far."""

    def __init__(self, inner: DistanceBlocks, columns: np.ndarray, gallery_size: int) -> None:
        self._inner, self._columns = inner, torch.as_tensor(columns)
        self.metric, self.rerank = inner.metric, inner.rerank
        self.shape = (inner.shape[0], gallery_size)

    def block(self, queries: np.ndarray) -> Tensor:
        inner = self._inner.to_distance(self._inner.block(queries), queries)
        block = inner.new_full((len(inner), self.shape[1]), torch.inf)
        block[:, self._columns.to(inner.device)] = inner
        return block


def _index_rows(queries: np.ndarray, device: torch.device) -> Tensor | slice:
    """Return an index of the rows ``queries``: a slice, which copies nothing, if they are consecutive."""
    if len(queries) and (np.diff(queries) == 1).all():
        return slice(int(queries[0]), int(queries[-1]) + 1)
    return torch.as_tensor(queries, device=device)


def require_finite(distances: Tensor) -> Tensor:
    """Return ``distances`` unchanged; raise ``InputError`` if they hold NaN or infinity."""
    if not bool(distances.sum().isfinite()) and not bool(distances.isfinite().all()):
        raise InputError("distances hold NaN or infinity; expected finite numbers")
    return distances


def _require_nonnegative(distances: Tensor) -> Tensor:
    if bool((distances < -_ROUNDING).any()):
        raise InputError("distances hold negative numbers; expected at least 0, since re-ranking squares them")
    return distances.clamp_min_(0)
