"""Average query expansion: a feature is replaced by the mean of itself and its nearest gallery features.

Shapes: Q queries, G gallery images, C channels, n neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dcs_nas.errors import InputError
from dcs_nas.evaluation.inputs import Array, as_matrix, same_width, squared_norms


def average_query_expansion(
    query_features: Array,
    gallery_features: Array,
    *,
    neighbours: int = 5,
    alpha: float = 0.0,
    expand_gallery: bool = False,
    query_block: int = 256,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Expanded query features (Q, C) and gallery features (G, C), all L2-normalised.

    With unit vectors, q' = normalise(q + sum_j max(q.g_j, 0)^alpha g_j) over the ``neighbours`` gallery features g_j
    most similar to q: alpha 0 is the plain average (Chum et al., ICCV 2007), larger values trust closer ones more
    (Radenovic, Tolias, Chum, TPAMI 2019). Neither person nor camera is looked at.

    Args:
        neighbours: gallery features averaged with each, at most G (without itself, for the gallery's own).
        expand_gallery: expand gallery features by their neighbours in the gallery too.
        query_block: features whose similarities to the gallery are held at a time.

    Raises:
        InputError: features as ``rank`` refuses them, or settings out of range.
    """
    query = as_matrix("query_features", query_features, device)
    query, gallery = same_width(query, as_matrix("gallery_features", gallery_features, query.device))
    available = len(gallery) - expand_gallery
    if not 1 <= neighbours <= available or alpha < 0 or query_block < 1:
        raise InputError(
            f"neighbours must lie within 1 and {available}, alpha be at least 0, query_block at least 1; "
            f"found {neighbours}, {alpha} and {query_block}"
        )
    for name, features in (("query_features", query), ("gallery_features", gallery)):
        squared_norms(name, features)
    query, gallery = functional.normalize(query), functional.normalize(gallery)
    expanded = torch.cat([_expand(rows, gallery, neighbours, alpha) for rows in query.split(query_block)])
    if not expand_gallery:
        return expanded, gallery
    blocks = [_expand(rows, gallery, neighbours + 1, alpha, adds_itself=False) for rows in gallery.split(query_block)]
    return expanded, torch.cat(blocks)


def _expand(features: Tensor, gallery: Tensor, count: int, alpha: float, *, adds_itself: bool = True) -> Tensor:
    """Where ``features`` are of the gallery, each is its own nearest neighbour and is not added again."""
    similarity, index = (features @ gallery.T).topk(count, dim=1)
    weight = similarity.clamp_min(0).pow(alpha)
    total = torch.einsum("qn,qnc->qc", weight, gallery[index])
    return functional.normalize(features + total if adds_itself else total)
