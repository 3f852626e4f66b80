"""Ranking by counting against ranking by sorting, and against the matrix product that both need.

    python benchmarks/ranking.py --size market1501 --json ranking.json
    python benchmarks/ranking.py --size msmt17 --baseline-queries 200

Prints, for one size of test set, the time to score a given distance matrix (the matrix product left out), the time to
score features beside that of the bare matrix product, and the peak memory beyond the features of both. Scores must
agree to 1e-6. Labels are the real ones of Market-1501 where ../shared/metadata holds them, otherwise drawn.

Shapes: Q queries, G gallery images, C channels.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _evaluation import SIZES, chosen_labels, encode_features, labels_of, labels_option
from measure import alternate, peak_memory, write_json

from dcs_nas.evaluation import RankingResult, rank, rank_distances

NOISE = 7.0  # spreads 2,048-d features so that mAP is neither 0 nor 1


def sort_every_query(
    distances: np.ndarray,
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_camids: np.ndarray,
    *,
    python_precision: bool,
) -> tuple[np.ndarray, float, float]:
    """CMC (50,), mAP and mINP by a full argsort per query and cumulative sums along the ranked list.

    ``python_precision`` divides them by their rank in a Python list, as the evaluation code in common use does, instead
    of by NumPy.
    """
    cmcs, aps, inps = [], [], []
    for q in range(len(query_pids)):
        order = np.argsort(distances[q], kind="stable")
        same_person = gallery_pids[order] == query_pids[q]
        kept = ~(same_person & (gallery_camids[order] == query_camids[q]))
        hits = same_person[kept]
        if not hits.any():
            continue
        found = hits.cumsum()
        if python_precision:
            precision = np.array([n / (i + 1.0) for i, n in enumerate(found)])
        else:
            precision = found / np.arange(1, len(found) + 1)
        cmcs.append(np.minimum(found[:50], 1))
        aps.append((precision * hits).sum() / hits.sum())
        inps.append(hits.sum() / (np.flatnonzero(hits)[-1] + 1))
    return np.mean(cmcs, axis=0), float(np.mean(aps)), float(np.mean(inps))


def compare_on_distances(labels: list[np.ndarray], channels: int, queries: int, repeats: int) -> dict:
    """Seconds of sorting and counting on one distance matrix of the first ``queries``, with equal scores."""
    query, gallery = encode_features(labels, channels, noise=NOISE)
    distances = torch.addmm(gallery.square().sum(1), query[:queries], gallery.T, alpha=-2)
    del query, gallery
    chosen = [labels[0][:queries], labels[1], labels[2][:queries], labels[3]]
    matrix = distances.numpy()
    seconds = alternate(
        {
            "argsort, precision in Python": lambda: sort_every_query(matrix, *chosen, python_precision=True),
            "argsort, precision in NumPy": lambda: sort_every_query(matrix, *chosen, python_precision=False),
            "dcs_nas": lambda: rank_distances(distances, *chosen),
        },
        repeats,
    )
    result = rank_distances(distances, *chosen)
    difference = largest_difference(result, sort_every_query(matrix, *chosen, python_precision=False))
    assert difference < 1e-6, f"scores differ by {difference}"
    ours = seconds["dcs_nas"]
    return {
        "queries": queries,
        "seconds": seconds,
        "times_faster": {name: value / ours for name, value in seconds.items() if name != "dcs_nas"},
        "largest_difference_of_scores": difference,
        "mAP": result.mAP,
    }


def largest_difference(result: RankingResult, expected: tuple[np.ndarray, float, float]) -> float:
    cmc, mean_ap, mean_inp = expected
    return float(max(np.abs(result.cmc - cmc).max(), abs(result.mAP - mean_ap), abs(result.mINP - mean_inp)))


def compare_with_product(labels: list[np.ndarray], channels: int, repeats: int) -> dict:
    """Seconds of ``rank`` from features and of the bare matrix product Q x C by C x G."""
    query, gallery = encode_features(labels, channels, noise=NOISE)
    seconds = alternate(
        {"matrix product": lambda: query @ gallery.T, "rank": lambda: rank(query, gallery, *labels)}, repeats
    )
    return {"seconds": seconds, "ratio": seconds["rank"] / seconds["matrix product"]}


def rank_features(query: torch.Tensor, gallery: torch.Tensor, labels: list[np.ndarray]) -> object:
    return rank(query, gallery, *labels)


def sort_features(query: torch.Tensor, gallery: torch.Tensor, labels: list[np.ndarray]) -> object:
    """The baseline from features: the whole distance matrix, then a sort per query."""
    distances = torch.addmm(gallery.square().sum(1), query, gallery.T, alpha=-2).numpy()
    return sort_every_query(distances, *labels, python_precision=False)


def prepared(job: Callable, size: str, path: Path | None, channels: int, queries: int) -> Callable[[], object]:
    labels = labels_of(size, path)
    query, gallery = encode_features(labels, channels, noise=NOISE)
    few = [labels[0][:8], labels[1], labels[2][:8], labels[3]]
    job(query[:8], gallery, few)
    chosen = [labels[0][:queries], labels[1], labels[2][:queries], labels[3]]
    return functools.partial(job, query[:queries], gallery, chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="market1501")
    labels_option(parser)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=1, help="timed runs of sorting and counting")
    parser.add_argument("--product-repeats", type=int, default=5, help="timed runs beside the matrix product")
    parser.add_argument("--baseline-queries", type=int, help="sort only so many queries; all by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    path = chosen_labels(options)
    labels = labels_of(options.size, path)
    sides = (len(labels[0]), len(labels[1]))
    print(f"{options.size}: {sides[0]} queries x {sides[1]} gallery images, {options.channels} channels, "
          f"{torch.get_num_threads()} threads, {'real' if path else 'drawn'} labels")  # fmt: skip
    queries = min(options.baseline_queries or sides[0], sides[0])
    given = compare_on_distances(labels, options.channels, queries, options.repeats)
    for name, value in given["seconds"].items():
        faster = f", dcs_nas is {value / given['seconds']['dcs_nas']:.0f} x faster" if name != "dcs_nas" else ""
        print(f"  {queries} queries, distances given: {name:30} {value:8.2f} s{faster}")
    product = compare_with_product(labels, options.channels, options.product_repeats)
    print(f"  all queries, from features: rank {product['seconds']['rank']:.2f} s, bare matrix product "
          f"{product['seconds']['matrix product']:.2f} s: ratio {product['ratio']:.2f}")  # fmt: skip
    arguments = (options.size, path, options.channels)
    memory = {
        "dcs_nas": peak_memory(prepared, rank_features, *arguments, sides[0], repeats=1),
        "argsort, precision in NumPy": peak_memory(prepared, sort_features, *arguments, queries, repeats=1),
    }
    asked = {"dcs_nas": sides[0], "argsort, precision in NumPy": queries}
    for name, value in memory.items():
        print(
            f"  {asked[name]} queries, from features: {name:30} {value / 1e9:8.3f} GB beyond the features at its peak"
        )
    write_json(
        options.json,
        {
            "size": options.size,
            "queries": sides[0],
            "gallery": sides[1],
            "channels": options.channels,
            "labels": path.name if path else "drawn",
            "threads": torch.get_num_threads(),
            "distances_given": given,
            "from_features": product,
            "peak_memory_bytes": memory,
            "peak_memory_queries": asked,
        },
    )


if __name__ == "__main__":
    main()
