"""MSMT17, versions 1 and 2."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from dcs_nas.data.datasets.listing import find_root, locate, read_lines, resolve_inner_path
from dcs_nas.data.datasets.loaders import DATASETS, Facts, add_deviations, report
from dcs_nas.data.records import Record, ReidDataset

FIRST_TEST_IDENTITY = 10_000
"""The training and the test lists both count identities from 0; this is added to the numbers of test identities."""

_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
_TRAIN_IMAGES = {"train": 30_248, "train+val": 32_621}
_NAME = re.compile(r"[0-9]+_[0-9]+_([0-9]{1,4})_")
_IDENTITY = re.compile(r"[0-9]{1,9}")
_EXAMPLE = "0000/0000_045_12_0303morning_0006_2.jpg 0"


@DATASETS.register("msmt17")
def msmt17(root: Path, *, version: Literal["V1", "V2"], train: Literal["train", "train+val"] = "train") -> ReidDataset:
    """MSMT17: 4,101 identities, 15 cameras, 126,441 images, over four days and in three parts of each day.

    Wei, Zhang, Gao, Tian: Person Transfer GAN to Bridge Domain Gap for Person Re-Identification, CVPR 2018.

    ROOT, or a folder msmt17* below it:
        train/, test/                     V1: 0000/0000_045_12_0303morning_0006_2.jpg ...
        mask_train_v2/, mask_test_v2/     V2: the same with masked faces
        list_train.txt                    PATH IDENTITY on each line: 1,041 identities, 30,248 images
        list_val.txt                      2,373 more images of the training identities
        list_query.txt                    3,060 identities, 11,659 images
        list_gallery.txt                  3,060 identities, 82,161 images
    The lists count test identities from 0 again; here they count from 10,000.

    Options:
        version (V1 or V2, no default): which release; results on the two are not comparable
        train (train or train+val, default train): the images to train on; published work uses either
    """
    title = f"MSMT17_{version}"
    train_folder, test_folder = _FOLDERS[version]
    root = find_root(root, parts=(train_folder, test_folder), title=title, aliases=("msmt17",))
    lists = ["list_train.txt", "list_val.txt"] if train == "train+val" else ["list_train.txt"]
    dataset = ReidDataset(
        "msmt17",
        root,
        train=tuple(r for name in lists for r in _records(root, train_folder, name, first_identity=0)),
        query=_records(root, test_folder, "list_query.txt", first_identity=FIRST_TEST_IDENTITY),
        gallery=_records(root, test_folder, "list_gallery.txt", first_identity=FIRST_TEST_IDENTITY),
        version=f"{title}, {train}",
    )
    return add_deviations(dataset, _facts(train))


def _facts(train: str) -> Facts:
    return Facts((1_041, _TRAIN_IMAGES[train]), (3_060, 11_659), (3_060, 82_161), distractors=0, cameras=15)


def _records(root: Path, folder: str, name: str, *, first_identity: int) -> tuple[Record, ...]:
    """Return the images of one list file, in sorted order."""
    lines = read_lines(root, name)
    images = root / folder
    if (root / name).is_file() and not lines:
        report("missing part", f"{root / name} is empty; expected lines such as {_EXAMPLE}")
    parsed = (_record(line, images, f"{name}, line {number}", first_identity) for number, line in lines)
    records = [r for r in parsed if r is not None]
    where = locate(images, (r.path for r in records), source=name)
    there = (replace(r, path=f"{folder}/{where[r.path]}") for r in records if r.path in where)
    return tuple(sorted(there, key=lambda r: r.path))


def _record(line: str, images: Path, source: str, first_identity: int) -> Record | None:
    path, _, identity = line.rpartition(" ")
    match = _NAME.match(path.replace("\\", "/").rpartition("/")[2])
    if match is None or int(match[1]) == 0 or not _IDENTITY.fullmatch(identity):
        report("unparsable name", f"{source}: {line!r} does not parse; expected PATH IDENTITY, such as {_EXAMPLE}")
        return None
    inside = resolve_inner_path(path, source=source, root=images)
    if inside is None:
        return None
    return Record(inside, first_identity + int(identity), int(match[1]) - 1)
