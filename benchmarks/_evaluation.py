"""Labels and features that the ranking and re-ranking benchmarks share.

Shapes: Q queries, G gallery images, C channels.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Size:
    """A benchmark's test split: numbers of queries, gallery images, people, cameras, and distractors (person 0)."""

    queries: int
    gallery: int
    people: int
    cameras: int
    distractors: int = 0


SIZES = {
    "market1501": Size(3368, 15913, 750, 6, distractors=2798),
    "msmt17": Size(11659, 82161, 3060, 15),
    "small": Size(300, 2000, 60, 4, distractors=200),
}


def synthetic_labels(size: Size, seed: int = 0) -> list[np.ndarray]:
    """Query persons, gallery persons, query cameras, gallery cameras; people are seen unequally often."""
    random = np.random.default_rng(seed)
    share = random.gamma(2.0, size=size.people)
    people = np.arange(1, size.people + 1)
    seen = random.choice(people, p=share / share.sum(), size=size.gallery - size.distractors)
    gallery_pids = random.permutation(np.concatenate([seen, np.zeros(size.distractors, dtype=np.int64)]))
    query_pids = np.sort(random.choice(np.unique(seen), size=size.queries))
    cameras = [random.integers(0, size.cameras, n) for n in (size.queries, size.gallery)]
    return [query_pids, gallery_pids, *cameras]


def real_labels(path: Path) -> list[np.ndarray]:
    """The same from an .npz file with query_pids, query_cams, test_pids, test_cams; junk (person -1) is dropped."""
    with np.load(path, allow_pickle=False) as file:
        kept = file["test_pids"] != -1
        labels = [file["query_pids"], file["test_pids"][kept], file["query_cams"], file["test_cams"][kept]]
    return [array.astype(np.int64) for array in labels]


def encode_features(labels: list[np.ndarray], channels: int, *, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (Q, C), (G, C) scattered about one centre per person; every distractor has its own."""
    generator = torch.Generator().manual_seed(seed)
    query_pids, gallery_pids = (torch.from_numpy(pids) for pids in labels[:2])
    centres = torch.randn(int(gallery_pids.max()) + 1, channels, generator=generator)
    query = centres[query_pids] + noise * torch.randn(len(query_pids), channels, generator=generator)
    gallery = centres[gallery_pids] + noise * torch.randn(len(gallery_pids), channels, generator=generator)
    distractors = gallery_pids == 0
    gallery[distractors] = (1 + noise**2) ** 0.5 * torch.randn(int(distractors.sum()), channels, generator=generator)
    return query, gallery


def labels_of(size: str, path: Path | None) -> list[np.ndarray]:
    """The labels in ``path``, or drawn ones where it is None."""
    return synthetic_labels(SIZES[size]) if path is None else real_labels(path)


def known_labels(size: str) -> Path | None:
    """The real labels of a size, where they lie beside the project, in ``../shared/metadata``."""
    path = Path(__file__).parents[2] / "shared" / "metadata" / f"{size}_test_labels.npz"
    return path if path.is_file() else None


def labels_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--labels``, which is None for drawn labels after ``chosen_labels``."""
    parser.add_argument(
        "--labels",
        default="auto",
        help="an .npz file of real labels, 'drawn', or 'auto': the real ones if they are near",
    )


def chosen_labels(options: argparse.Namespace) -> Path | None:
    """The file that ``--labels`` asks for, None where labels are to be drawn."""
    if options.labels == "auto":
        return known_labels(options.size)
    return None if options.labels == "drawn" else Path(options.labels)
