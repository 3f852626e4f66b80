"""Images labelled by name: identities and cameras are numbered, and divided into train, query and gallery."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dcs_nas.data.datasets.loaders import report
from dcs_nas.data.records import JUNK, SPLITS, Record, ReidDataset, assign_numbers
from dcs_nas.errors import InputError

Share = Annotated[float, Field(gt=0, lt=1)] | None
Seed = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image with the user's names of its identity and camera."""

    path: str
    identity: str
    camera: str
    split: str


def from_labels(
    images: Sequence[LabelledImage],
    *,
    name: str,
    root: Path,
    version: str,
    protocol: str,
    share: float | None = None,
    seed: int = 0,
) -> ReidDataset:
    """Return a data set of images labelled by name: identities numbered from 1, cameras from 0, in order of the names.

    0 stays free, since it means a distractor. Images of the identity ``-1`` are junk and left out. With a ``share`` the
    images are divided by identity into training and test images, see ``divide``.
    """
    if share is not None:
        images, version = divide(images, share=share, seed=seed), f"{version}, split {share:g}, seed {seed}"
    kept = [image for image in images if image.identity != str(JUNK)]
    if not kept:
        raise InputError(f"{root} holds no images with an identity; expected some in {', '.join(SPLITS)}")
    identities = assign_numbers((image.identity for image in kept), first=1)
    cameras = assign_numbers((image.camera for image in kept), first=0)
    train, query, gallery = (
        tuple(Record(i.path, identities[i.identity], cameras[i.camera]) for i in kept if i.split == split)
        for split in SPLITS
    )
    if bool(query) != bool(gallery):
        present, absent = ("query", "gallery") if query else ("gallery", "query")
        report(
            "missing part",
            f"{root} has {present} images but no {absent} images, expected both to test on; add the others",
        )
    return ReidDataset(
        name, root, train, query, gallery, version, protocol=protocol, label_map=identities, camera_map=cameras
    )


def divide(images: Sequence[LabelledImage], *, share: float, seed: int) -> list[LabelledImage]:
    """Return the images with their splits: about ``share`` of the identities to train on, the others to test on.

    The choice depends only on ``seed`` and the identities' names (the order of SHA-256 hashes). Of a test identity the
    first image by each camera, in the order of paths, is a query and the others are the gallery. The only image by a
    camera stays in the gallery; where every camera has a single image, the first image is the query.

    Raises:
        InputError: fewer than two identities, or none to test on that has two images.
    """
    images = [image for image in images if image.identity != str(JUNK)]
    identities = Counter(image.identity for image in images)
    if len(identities) < 2:
        raise InputError(
            f"the images show {len(identities)} identities, expected at least two to divide by split={share:g}; "
            "add images of another"
        )
    order = sorted(
        identities, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
    )
    train = set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
    queries = set(_find_queries([image for image in images if image.identity not in train]))
    if not queries:
        several = any(count > 1 for count in identities.values())
        advice = "lower split, or set another seed" if several else "add images, since no identity has two"
        raise InputError(
            f"none of the {len(order) - len(train)} identities to test on by split={share:g} has two images, a "
            f"query and its match; {advice}"
        )

    def part(image: LabelledImage) -> str:
        return "train" if image.identity in train else "query" if image.path in queries else "gallery"

    return [replace(image, split=part(image)) for image in images]


def _find_queries(images: Sequence[LabelledImage]) -> Iterator[str]:
    """Yield the paths of the queries among images of test identities."""
    views: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image in sorted(images, key=lambda image: image.path):
        views[image.identity][image.camera].append(image.path)
    for by_camera in views.values():
        first = [paths[0] for paths in by_camera.values() if len(paths) > 1]
        if not first and len(by_camera) > 1:
            first = [min(paths[0] for paths in by_camera.values())]
        yield from first
