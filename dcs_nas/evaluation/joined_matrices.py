"""Distance matrices among queries and gallery, seen as one matrix over all images.

Shapes: Q queries, G gallery images, N = Q + G images, queries first, b images of a block, H pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcs_nas.errors import InputError
from dcs_nas.evaluation.distances import PairDistances, finite
from dcs_nas.evaluation.inputs import Array, as_matrix

_ROUNDING = 1e-4  # a cosine distance of 0 may come out so far below it


class JoinedMatrices(PairDistances):
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
                    f"{name} has shape {tuple(matrix.shape)}; ({side}, {side}) fits query_gallery's ({Q}, {G})"
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
        return _not_negative(finite(block))

    def pairs(self, queries: np.ndarray, gallery: np.ndarray) -> Tensor:
        rows, columns = (torch.as_tensor(i, dtype=torch.long, device=self._device) for i in (queries, gallery))
        distances = self._quadrants[0][1].new_empty(len(rows))
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            mask = ((rows >= self._num_queries) == bool(i)) & ((columns >= self._num_queries) == bool(j))
            r, c = rows[mask] - i * self._num_queries, columns[mask] - j * self._num_queries
            distances[mask] = self._quadrants[i][j][r, c]
        return _not_negative(distances)


def _not_negative(distances: Tensor) -> Tensor:
    if bool((distances < -_ROUNDING).any()):
        raise InputError("distances hold negative numbers; re-ranking squares them, so they must be at least 0")
    return distances.clamp_min_(0)
