"""Average query expansion, and re-ranking with k-reciprocal encoding without a dense matrix.

Shapes: Q queries, G gallery images, N = Q + G images, queries first, K neighbours, b queries of a block, nnz entries of
the sparse encoding, C channels.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from dcs_nas.errors import InputError
from dcs_nas.evaluation.distances import BlockMatrices, DistanceBlocks, FeatureDistances, PairDistances, SparseColumns
from dcs_nas.evaluation.features import Array, Integers, as_feature_pair, as_labels
from dcs_nas.evaluation.matching import JUNK, concatenate_ranges

_BLOCK = 512  # images whose distances to all others are held at a time
_SMALLEST_SCALE = 1e-30  # where all images are the same point


class RerankedDistances(DistanceBlocks):
    """Re-ranked distances (1 - weight) d_J + weight d^2 / max d^2, by blocks of queries from a sparse encoding.

    Image i is encoded by weights V_ij over its expanded k1-reciprocal neighbours j, averaged over its k2 nearest (the
    paper's equations 4, 7 and 11), and d_J(q, g) = 1 - sum_j min(V_qj, V_gj) / sum_j max(V_qj, V_gj) (equation 10);
    the second sum is 2 minus the first, the weights of an image adding up to 1. As in the published code, d^2 is
    divided by its largest value in the query's row, other queries included.
    """

    def __init__(self, source: PairDistances, num_queries: int, *, k1: int, k2: int, weight: float) -> None:
        if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
            raise InputError(f"k1 is {k1}, k2 {k2}, weight {weight}; expected k1, k2 >= 1 and weight from 0 to 1")
        self._source, self._num_queries, self._weight = source, num_queries, weight
        neighbours, self._scale = find_neighbours(source, max(k1 + 1, k2))
        encoding = encode(source, neighbours, self._scale, k1=k1, k2=k2)
        self._queries = encoding[:num_queries]
        self._holders = encoding[num_queries:].T.tocsr()
        self.shape = (num_queries, source.shape[0] - num_queries)
        self.metric = source.metric
        self.rerank = {"method": "k-reciprocal", "k1": k1, "k2": k2, "weight": weight}

    def block(self, queries: np.ndarray) -> Tensor:
        original = self._source.to_distance(self._source.block(queries)[:, self._num_queries :], queries).square()
        scale = torch.as_tensor(self._scale[queries], dtype=original.dtype, device=original.device)
        jaccard = torch.from_numpy(self._compute_jaccard(queries)).to(original)
        return jaccard.mul_(1 - self._weight).add_(original.mul_(self._weight / scale[:, None]))

    def _compute_jaccard(self, queries: np.ndarray) -> np.ndarray:
        """Return d_J (b, G); a query's shared weight is gathered from the gallery images that hold its neighbours."""
        shared = np.empty((len(queries), self.shape[1]), dtype=np.float32)
        holders = self._holders
        for row, query in zip(shared, queries, strict=True):
            span = slice(self._queries.indptr[query], self._queries.indptr[query + 1])
            neighbours = self._queries.indices[span]
            first = holders.indptr[neighbours]
            counts = holders.indptr[neighbours + 1] - first
            entries = concatenate_ranges(first, counts)
            common = np.minimum(np.repeat(self._queries.data[span], counts), holders.data[entries])
            row[:] = np.bincount(holders.indices[entries], weights=common, minlength=len(row))
        return 1 - shared / (2 - shared)


def rerank(
    query_features: Array,
    gallery_features: Array,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    metric: str = "euclidean",
    gallery_pids: Integers | None = None,
    device: torch.device | str | None = None,
) -> DistanceBlocks:
    """Return the re-ranked distances of features, for ``rank_distances``, ``top_k`` or, whole, ``.matrix()``.

    Args:
        query_features: (Q, C).
        gallery_features: (G, C).
        k1: number of neighbours considered for each image.
        k2: neighbours, the image itself included, over which encodings are averaged; 1 averages nothing.
        weight: of the original distance (lambda in the paper); 1 keeps the original order.
        metric: "euclidean" or "cosine".
        gallery_pids: (G,), if the gallery holds junk (identity -1), which is no image's neighbour and infinitely far.
        device: the device to compute on; by default the device of the query features.

    Raises:
        InputError: features as ``rank`` refuses them, or settings out of range.
    """
    query, gallery = as_feature_pair(query_features, gallery_features, device)
    valid = _drop_junk(gallery_pids, len(gallery))
    images = torch.cat([query, gallery if valid is None else gallery[torch.as_tensor(valid, device=gallery.device)]])
    source = FeatureDistances(images, images, metric=metric)
    reranked = RerankedDistances(source, len(query), k1=k1, k2=k2, weight=weight)
    return reranked if valid is None else SparseColumns(reranked, valid, len(gallery))


def rerank_distances(
    query_gallery: Array,
    query_query: Array,
    gallery_gallery: Array,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    metric: str = "given",
) -> RerankedDistances:
    """Return the re-ranked distances of matrices (Q, G), (Q, Q) and (G, G), not squared, of a gallery without junk.

    Results carry the name ``metric``.

    Raises:
        InputError: matrices that don't fit, NaN, infinite or negative distances, or settings out of range.
    """
    source = BlockMatrices(query_gallery, query_query, gallery_gallery, metric=metric)
    return RerankedDistances(source, len(query_gallery), k1=k1, k2=k2, weight=weight)


def _drop_junk(gallery_pids: Integers | None, gallery_size: int) -> np.ndarray | None:
    """Return the indices of the gallery images that are not junk, or None if there is no junk."""
    if gallery_pids is None:
        return None
    pids = as_labels("gallery_pids", gallery_pids, gallery_size)
    valid = np.flatnonzero(pids != JUNK)
    if not len(valid):
        raise InputError(
            f"all {len(pids)} gallery images are junk (identity {JUNK}); give a gallery with other identities"
        )
    return valid if len(valid) < len(pids) else None


def find_neighbours(source: DistanceBlocks, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``count`` nearest images (N, K) of each image, itself first, and its largest squared distance (N,)."""
    total = source.shape[0]
    neighbours = np.empty((total, min(count, total)), dtype=np.int32)
    scale = np.empty(total)
    for start in range(0, total, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, total))
        block = source.block(rows)
        farthest = source.to_distance(block.amax(dim=1, keepdim=True), rows)
        scale[rows] = farthest.square().flatten().cpu().numpy()
        block[torch.arange(len(rows)), torch.as_tensor(rows)] = -torch.inf
        neighbours[rows] = block.topk(neighbours.shape[1], dim=1, largest=False).indices.cpu().numpy()
    return neighbours, scale.clip(_SMALLEST_SCALE)


def encode(source: PairDistances, neighbours: np.ndarray, scale: np.ndarray, *, k1: int, k2: int) -> sparse.csr_array:
    """Return the encoding V (N, N), nnz about 100 per row: exp(-d^2 / scale) of expanded neighbours; rows sum to 1."""
    members = expand_neighbours(neighbours, k1)
    image, other = members.nonzero()
    squared = source.pairs(image, other).square().cpu().numpy()
    closeness = np.exp(-squared / scale[image]).astype(np.float32)
    closeness /= np.bincount(image, weights=closeness, minlength=len(scale))[image].astype(np.float32)
    encoding = sparse.csr_array((closeness, (image, other)), shape=members.shape)
    if k2 == 1:
        return encoding
    nearest = neighbours[:, :k2]
    average = _build_membership(nearest, np.ones(nearest.shape, dtype=bool)).astype(np.float32) / nearest.shape[1]
    return (average @ encoding).tocsr()


def expand_neighbours(neighbours: np.ndarray, k1: int) -> sparse.csr_array:
    """Return R*(i, k1) of the paper's equation 4 as the non-zeros of row i, (N, N).

    R*(i, k1) is R(i, k1), the k1-reciprocal neighbours, and R(c, k1 / 2) of each c of them of which more than two
    thirds (as in the published code; the paper has at least two thirds) lie in R(i, k1).
    """
    near, nearer = neighbours[:, : k1 + 1], neighbours[:, : int(np.around(k1 / 2)) + 1]
    reciprocal = _build_membership(near, _find_reciprocal(near))
    candidates = _build_membership(nearer, _find_reciprocal(nearer))
    size = np.diff(candidates.indptr)
    overlap = (reciprocal @ candidates.T).multiply(reciprocal).tocoo()
    image, candidate = overlap.coords
    accepted = 3 * overlap.data > 2 * size[candidate]
    expansion = sparse.csr_array(
        (overlap.data[accepted], (image[accepted], candidate[accepted])), shape=reciprocal.shape
    )
    return (reciprocal + expansion @ candidates).tocsr()


def _find_reciprocal(neighbours: np.ndarray) -> np.ndarray:
    """Return whether image i is among the neighbours of its neighbour, (N, K)."""
    mask = np.empty(neighbours.shape, dtype=bool)
    for start in range(0, len(neighbours), 4 * _BLOCK):
        rows = np.arange(start, min(start + 4 * _BLOCK, len(neighbours)))
        mask[rows] = (neighbours[neighbours[rows]] == rows[:, None, None]).any(axis=2)
    return mask


def _build_membership(neighbours: np.ndarray, mask: np.ndarray) -> sparse.csr_array:
    """Return an (N, N) matrix with 1 where ``mask`` selects a neighbour of ``neighbours`` (N, K)."""
    total = len(neighbours)
    ends = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    return sparse.csr_array((np.ones(ends[-1], dtype=np.int32), neighbours[mask], ends), shape=(total, total))


def average_query_expansion(
    query_features: Array,
    gallery_features: Array,
    *,
    neighbours: int = 5,
    alpha: float = 0.0,
    query_block: int = 256,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the expanded query features (Q, C) and gallery features (G, C), all L2-normalised.

    With unit vectors, q' = normalise(q + sum_j max(q.g_j, 0)^alpha g_j) over the ``neighbours`` gallery features g_j
    most similar to q: alpha 0 is the plain average (Chum et al., ICCV 2007), larger values give closer ones more weight
    (Radenovic, Tolias, Chum, TPAMI 2019). Identities and cameras are not used.

    Args:
        neighbours: gallery features averaged with each, at most G.
        query_block: features whose similarities to the gallery are held at a time.

    Raises:
        InputError: features as ``rank`` refuses them, or settings out of range.
    """
    query, gallery = as_feature_pair(query_features, gallery_features, device)
    if not 1 <= neighbours <= len(gallery) or alpha < 0 or query_block < 1:
        raise InputError(
            f"neighbours is {neighbours}, alpha {alpha}, query_block {query_block}; expected neighbours from 1 to "
            f"{len(gallery)}, alpha >= 0, query_block >= 1"
        )
    query, gallery = functional.normalize(query), functional.normalize(gallery)
    return torch.cat([_expand(rows, gallery, neighbours, alpha) for rows in query.split(query_block)]), gallery


def _expand(features: Tensor, gallery: Tensor, count: int, alpha: float) -> Tensor:
    """Average each feature with its neighbours."""
    similarity, index = (features @ gallery.T).topk(count, dim=1)
    weight = similarity.clamp_min(0).pow(alpha)
    total = torch.einsum("qn,qnc->qc", weight, gallery[index])
    return functional.normalize(features + total)
