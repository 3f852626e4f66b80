"""Sparse k-reciprocal re-ranking against the dense algorithm as it was published.

    python benchmarks/rerank.py --size market1501 --json rerank.json
    python benchmarks/rerank.py --size msmt17 --no-baseline

Both start from features and end with every re-ranked distance; ours makes them block by block. Prints time and the peak
memory beyond the features of each, by how much the distances differ (at most 1e-4), and the scores of both. Labels are
the real ones of Market-1501 where ../shared/metadata holds them, otherwise drawn.

Shapes: Q queries, G gallery images, N = Q + G, C channels.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from _evaluation import SIZES, chosen_labels, encode_features, labels_of, labels_option
from measure import alternate, peak_memory, write_json
from torch import Tensor

from dcs_nas.evaluation import rank, rank_distances, rerank

NOISE = 1.5  # neighbours of 256-d features are then mostly, not always, the same person
BLOCK = 512


def sparse_rerank(query: Tensor, gallery: Tensor) -> Iterator[Tensor]:
    """Blocks (b, G) of re-ranked distances."""
    reranked = rerank(query, gallery)
    for start in range(0, len(query), BLOCK):
        yield reranked.block(np.arange(start, min(start + BLOCK, len(query))))


def exhaust_sparse(query: Tensor, gallery: Tensor) -> None:
    for _ in sparse_rerank(query, gallery):
        pass


def dense_rerank(query: Tensor, gallery: Tensor, k1: int = 20, k2: int = 6, weight: float = 0.3) -> np.ndarray:
    """Re-ranked distances (Q, G) with dense N x N matrices and a loop over images (Zhong et al., CVPR 2017)."""
    images = torch.cat([query, gallery])
    Q = len(query)
    distance = torch.cdist(images, images).square_().numpy()
    distance /= distance.max(axis=1, keepdims=True)
    order = np.argsort(distance, axis=1).astype(np.int32)
    half = int(np.around(k1 / 2))
    V = np.zeros_like(distance)
    for i in range(len(images)):
        near = mutual(order, i, k1)
        expanded = near
        for candidate in near:
            other = mutual(order, candidate, half)
            if len(np.intersect1d(other, near)) > 2 / 3 * len(other):
                expanded = np.append(expanded, other)
        expanded = np.unique(expanded)
        closeness = np.exp(-distance[i, expanded])
        V[i, expanded] = closeness / closeness.sum()
    original = distance[:Q, Q:].copy()
    del distance
    V = np.stack([V[order[i, :k2]].mean(axis=0) for i in range(len(V))])
    holders = [np.flatnonzero(V[:, j]) for j in range(len(V))]
    jaccard = np.empty((Q, len(gallery)), dtype=np.float32)
    for q in range(Q):
        shared = np.zeros(len(V), dtype=np.float32)
        for j in np.flatnonzero(V[q]):
            shared[holders[j]] += np.minimum(V[q, j], V[holders[j], j])
        jaccard[q] = 1 - shared[Q:] / (2 - shared[Q:])
    return (1 - weight) * jaccard + weight * original


def mutual(order: np.ndarray, i: int, k: int) -> np.ndarray:
    """Those of the k + 1 nearest images of i that have i among their own."""
    near = order[i, : k + 1]
    return near[(order[near, : k + 1] == i).any(axis=1)]


def largest_difference(query: Tensor, gallery: Tensor, expected: np.ndarray) -> float:
    blocks = enumerate(sparse_rerank(query, gallery))
    return max(float(np.abs(block.numpy() - expected[n * BLOCK : (n + 1) * BLOCK]).max()) for n, block in blocks)


def prepared(job: Callable, size: str, path: Path | None, channels: int) -> Callable[[], object]:
    query, gallery = encode_features(labels_of(size, path), channels, noise=NOISE)
    job(query[:50], gallery[:200])
    return functools.partial(job, query, gallery)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="market1501")
    labels_option(parser)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--no-baseline", action="store_true", help="leave the dense algorithm out (N x N matrices)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    path = chosen_labels(options)
    labels = labels_of(options.size, path)
    query, gallery = encode_features(labels, options.channels, noise=NOISE)
    print(f"{options.size}: {len(query)} queries x {len(gallery)} gallery images, {options.channels} channels, "
          f"{torch.get_num_threads()} threads, {'real' if path else 'drawn'} labels")  # fmt: skip
    jobs: dict[str, Callable] = {"dcs_nas": exhaust_sparse}
    if not options.no_baseline:
        jobs["dense"] = dense_rerank
    results: dict[str, object] = {}
    seconds = alternate({name: functools.partial(job, query, gallery) for name, job in jobs.items()}, options.repeats)
    memory = {
        name: peak_memory(prepared, job, options.size, path, options.channels, repeats=1) for name, job in jobs.items()
    }
    for name in jobs:
        print(f"  {name:8} {seconds[name]:8.2f} s, {memory[name] / 1e9:6.3f} GB beyond the features")
    scores = {
        "not re-ranked": rank(query, gallery, *labels),
        "dcs_nas": rank_distances(rerank(query, gallery), *labels),
    }
    if "dense" in jobs:
        dense = dense_rerank(query, gallery)
        difference = largest_difference(query, gallery, dense)
        print(f"  largest difference of a distance: {difference:.1e}")
        assert difference < 1e-4, f"re-ranked distances differ by {difference}"
        scores["dense"] = rank_distances(dense, *labels)
        results["largest_difference"] = difference
        results["times_faster"] = seconds["dense"] / seconds["dcs_nas"]
        results["times_less_memory"] = memory["dense"] / memory["dcs_nas"]
        print(f"  {results['times_faster']:.1f} x faster, {results['times_less_memory']:.1f} x less memory")
    for name, result in scores.items():
        print(f"  {name:14} mAP {100 * result.mAP:.2f} %, rank-1 {100 * result.cmc[0]:.2f} %")
    results |= {
        "size": options.size,
        "queries": len(query),
        "gallery": len(gallery),
        "channels": options.channels,
        "labels": path.name if path else "drawn",
        "scores": {name: {"mAP": r.mAP, "mINP": r.mINP, "rank-1": float(r.cmc[0])} for name, r in scores.items()},
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "peak_memory_bytes": memory,
    }
    write_json(options.json, results)


if __name__ == "__main__":
    main()
