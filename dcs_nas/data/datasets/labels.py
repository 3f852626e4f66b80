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
from dcs_nas.data.records import JUNK, SPLITS, Record, ReidDataset, numbered
from dcs_nas.errors import InputError

Share = Annotated[float, Field(gt=0, lt=1)] | None
Seed = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image with the names that its owner gave to person and camera."""

    path: str
    person: str
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
    """Return a data set of images labelled by name: people numbered from 1, cameras from 0, in the names' sorted order.

    0 stays free, since it means a distractor. Images of the person ``-1`` are junk and left out. With a ``share`` the
    images have no parts yet: they are divided by identity, see ``divided``.
    """
    if share is not None:
        images, version = divided(images, share=share, seed=seed), f"{version}, split {share:g}, seed {seed}"
    kept = [image for image in images if image.person != str(JUNK)]
    if not kept:
        raise InputError(f"{root} holds no images of people; expected some in {', '.join(SPLITS)}")
    people = numbered((image.person for image in kept), first=1)
    cameras = numbered((image.camera for image in kept), first=0)
    train, query, gallery = (
        tuple(Record(i.path, people[i.person], cameras[i.camera]) for i in kept if i.split == split) for split in SPLITS
    )
    if bool(query) != bool(gallery):
        present, absent = ("query", "gallery") if query else ("gallery", "query")
        report("missing part", f"{root} has {present} images but no {absent} images; testing needs both")
    return ReidDataset(
        name, root, train, query, gallery, version, protocol=protocol, label_map=people, camera_map=cameras
    )


def divided(images: Sequence[LabelledImage], *, share: float, seed: int) -> list[LabelledImage]:
    """Return the images with their parts: about ``share`` of the identities to train on, the others to test on.

    Which ones depends on ``seed`` and their names alone (the order of SHA-256 hashes). Of a test identity the first
    image by each camera, in the order of paths, is a query and the others are the gallery. The only image by a camera
    stays in the gallery; where there are only such, the first of several is the query.

    Raises:
        InputError: fewer than two identities, or none to test on that has two images.
    """
    images = [image for image in images if image.person != str(JUNK)]
    people = Counter(image.person for image in images)
    if len(people) < 2:
        raise InputError(
            f"the images show {len(people)} identities, expected two at least to divide by split={share:g}"
        )
    order = sorted(
        people, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
    )
    train = set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
    queries = set(_queries([image for image in images if image.person not in train]))
    if not queries:
        several = any(count > 1 for count in people.values())
        advice = "lower split, or set another seed" if several else "add images, since nobody has two"
        raise InputError(
            f"none of the {len(order) - len(train)} identities to test on by split={share:g} has two images, as a "
            f"query and its match; {advice}"
        )

    def part(image: LabelledImage) -> str:
        return "train" if image.person in train else "query" if image.path in queries else "gallery"

    return [replace(image, split=part(image)) for image in images]


def _queries(images: Sequence[LabelledImage]) -> Iterator[str]:
    """Yield the paths of the queries among images of test identities."""
    views: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image in sorted(images, key=lambda image: image.path):
        views[image.person][image.camera].append(image.path)
    for by_camera in views.values():
        first = [paths[0] for paths in by_camera.values() if len(paths) > 1]
        if not first and len(by_camera) > 1:
            first = [min(paths[0] for paths in by_camera.values())]
        yield from first
