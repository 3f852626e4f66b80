"""A Re-ID data set: three lists of labelled images and a ranking protocol."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from dcs_nas.errors import InputError, choices

JUNK = -1
DISTRACTOR = 0
PROTOCOLS = ("cross_camera", "single_gallery_shot", "no_camera_filter")

V = TypeVar("V", int, str)
Split = Literal["train", "query", "gallery"]
SPLITS: tuple[Split, ...] = ("train", "query", "gallery")


@dataclass(frozen=True, slots=True)
class Record:
    """One image of one identity by one camera.

    ``path`` is relative to the data set's root, with forward slashes. ``identity`` is the number of the label; junk
    (-1) never appears, and 0 among the test images is a distractor: an identity without queries. ``camera`` counts from
    0.
    """

    path: str
    identity: int
    camera: int


@dataclass(frozen=True)
class ReidDataset:
    """A data set as its loader found it on disk; images are listed, not opened.

    A number means the same identity in all three splits. ``version`` names the data exactly and is written into every
    result; ``protocol`` names the ranking protocol (one of `PROTOCOLS`); ``notes`` are the deviations from the
    published facts. ``label_map`` and ``camera_map`` map the user's names of identities and cameras to numbers, where
    the data set has names. ``passed_over`` has a line for each kind of file that was left out. ``val`` are images of
    the classes of ``train``, to validate a classification on (ImageNet's).
    """

    name: str
    root: Path
    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
    version: str
    protocol: str = "cross_camera"
    notes: tuple[str, ...] = ()
    label_map: dict[str, int] | None = None
    camera_map: dict[str, int] | None = None
    passed_over: tuple[str, ...] = ()
    val: tuple[Record, ...] = ()

    def __post_init__(self) -> None:
        assert self.protocol in PROTOCOLS, self.protocol

    @property
    def cameras(self) -> int:
        """The number of cameras of all images."""
        return len({r.camera for r in self.records})

    @property
    def records(self) -> tuple[Record, ...]:
        """All images, those of ``val`` last."""
        return self.train + self.query + self.gallery + self.val

    def split(self, name: str) -> tuple[Record, ...]:
        """Return the records of ``train``, ``query`` or ``gallery``."""
        if name not in SPLITS:
            raise InputError(f"unknown split '{name}'; {choices(name, SPLITS)}")
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[name]

    def statistics(self) -> dict[str, Any]:
        """Return counts as plain data: identities, images, cameras and distractors of each split, and all cameras."""
        facts = {name: getattr(self, name) for name in ("name", "version", "protocol", "cameras")}
        facts |= {split: _count(self.split(split), split) for split in SPLITS}
        return facts | ({"val": _count(self.val, "train")} if self.val else {})


def combine(datasets: Sequence[ReidDataset], *, splits: Sequence[Split] = ("train",)) -> ReidDataset:
    """Return one training set of the training images of one or several data sets, and their ``val``.

    With ``splits=("train", "query", "gallery")`` (``data.combine_all``) test images are training images too.
    Identities and cameras of different data sets get different numbers. Distractors are left out, since they are of
    several identities. The result has no query and no gallery: test on another set. Its protocol filters cameras if the
    protocol of any set does; identities of a set without cameras then have no match.

    Raises:
        InputError: no data set, the same data set twice, or an unknown split.
    """
    if not datasets:
        raise InputError("no data set to combine; name at least one")
    places = [(d.name, os.path.abspath(d.root)) for d in datasets]
    for name, place in places:
        if places.count((name, place)) > 1:
            raise InputError(f"data set '{name}' in {place} is listed twice; list it once")
    root = Path(os.path.commonpath([place for _, place in places]))
    train: list[Record] = []
    val: list[Record] = []
    identities: dict[str, int] = {}
    cameras: dict[str, int] = {}
    for dataset in datasets:
        records = _select_records(dataset, splits)
        listed = (*records, *dataset.val)
        folder = Path(os.path.abspath(dataset.root)).relative_to(root)
        identity = assign_numbers(
            (r.identity for r in listed), first=max((r.identity for r in (*train, *val)), default=0) + 1
        )
        camera = assign_numbers(
            (r.camera for r in listed), first=max((r.camera for r in (*train, *val)), default=-1) + 1
        )
        identities |= _renumber_names(folder, dataset.label_map, identity)
        cameras |= _renumber_names(folder, dataset.camera_map, camera)
        train += (_move(r, folder, identity, camera) for r in records)
        val += (_move(r, folder, identity, camera) for r in dataset.val)
    unfiltered = all(d.protocol == "no_camera_filter" for d in datasets)
    return ReidDataset(
        name="+".join(d.name for d in datasets),
        root=root,
        train=tuple(train),
        query=(),
        gallery=(),
        version=" + ".join(d.version for d in datasets) + f" ({' + '.join(splits)})",
        protocol="no_camera_filter" if unfiltered else "cross_camera",
        notes=tuple(f"{d.name}: {note}" for d in datasets for note in d.notes),
        label_map=identities or None,
        camera_map=cameras or None,
        val=tuple(val),
    )


def _move(record: Record, folder: Path, identity: Mapping[int, int], camera: Mapping[int, int]) -> Record:
    """Return the record of an image that lies in ``folder``, with other numbers of its identity and camera."""
    return Record((folder / record.path).as_posix(), identity[record.identity], camera[record.camera])


def _select_records(dataset: ReidDataset, splits: Sequence[str]) -> list[Record]:
    """Return the records of some splits without distractors; an image in both query and gallery counts once."""
    kept = (r for split in splits for r in dataset.split(split) if split == "train" or r.identity != DISTRACTOR)
    return list({r.path: r for r in kept}.values())


def assign_numbers(values: Iterable[V], *, first: int) -> dict[V, int]:
    """Return a number for each different value, counted from ``first`` in sorted order."""
    return {value: number for number, value in enumerate(sorted(set(values)), start=first)}


def _renumber_names(folder: Path, names: dict[str, int] | None, numbers: dict[int, int]) -> dict[str, int]:
    """Return the names that are in use, as FOLDER/NAME, with their new numbers."""
    return {(folder / name).as_posix(): numbers[n] for name, n in (names or {}).items() if n in numbers}


def _count(records: Sequence[Record], split: str) -> dict[str, int]:
    identities = {r.identity for r in records}
    counts = {"people": len(identities), "images": len(records), "cameras": len({r.camera for r in records})}
    if split == "train":
        return counts
    counts["people"] -= DISTRACTOR in identities
    counts["distractors"] = sum(r.identity == DISTRACTOR for r in records)
    return counts
