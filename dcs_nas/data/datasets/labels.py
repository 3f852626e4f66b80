"""From people's and cameras' own names to numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcs_nas.data.datasets.problems import report
from dcs_nas.data.records import JUNK, SPLITS, Record, ReidDataset
from dcs_nas.errors import InputError


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image with the names that its owner gave to person and camera."""

    path: str
    person: str
    camera: str
    split: str


def from_labels(images: Sequence[LabelledImage], *, name: str, root: Path, version: str, protocol: str) -> ReidDataset:
    """A data set of images labelled by name: people numbered from 1, cameras from 0, both in the names' sorted order.

    0 stays free, since it means a distractor. Images of the person ``-1`` are junk and left out.
    """
    kept = [image for image in images if image.person != str(JUNK)]
    if not kept:
        raise InputError(f"{root} holds no images of people; expected some in {', '.join(SPLITS)}")
    people = _numbered((image.person for image in kept), start=1)
    cameras = _numbered((image.camera for image in kept), start=0)
    train, query, gallery = (
        tuple(Record(i.path, people[i.person], cameras[i.camera]) for i in kept if i.split == split) for split in SPLITS
    )
    if bool(query) != bool(gallery):
        present, absent = ("query", "gallery") if query else ("gallery", "query")
        report("missing part", f"{root} has {present} images but no {absent} images; testing needs both")
    return ReidDataset(
        name, root, train, query, gallery, version, protocol=protocol, label_map=people, camera_map=cameras
    )


def _numbered(names: Iterable[str], *, start: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted(set(names)), start=start)}
