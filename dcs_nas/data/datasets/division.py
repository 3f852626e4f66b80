"""Dividing a data set without parts into train, query and gallery, by identity."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from dcs_nas.data.datasets.labels import LabelledImage
from dcs_nas.data.records import JUNK
from dcs_nas.errors import InputError

Share = Annotated[float, Field(gt=0, lt=1)] | None
Seed = Annotated[int, Field(ge=0)]


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
