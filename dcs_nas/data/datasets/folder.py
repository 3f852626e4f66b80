"""People's own images, sorted into folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dcs_nas.data.datasets.files import existing_folder, list_folders, list_images, listing_of
from dcs_nas.data.datasets.labels import LabelledImage, from_labels
from dcs_nas.data.datasets.problems import report
from dcs_nas.data.datasets.registry import DATASETS
from dcs_nas.data.records import SPLITS, ReidDataset
from dcs_nas.errors import InputError


@DATASETS.register("folder")
def folder(root: Path, *, camera: str = "folder") -> ReidDataset:
    r"""Your own images, one folder for each person.

    ROOT:
        train/PERSON/CAMERA/*.jpg      people to train on
        query/PERSON/CAMERA/*.jpg      people to look for
        gallery/PERSON/CAMERA/*.jpg    where to look for them
    PERSON and CAMERA are any names; the same name means the same person or camera everywhere. They are numbered in
    sorted order, and the numbers are kept with the run. A person named -1 is junk and left out. train/ may be absent
    where nothing is trained, query/ and gallery/ where nothing is tested.

    Options:
        camera (default folder): where the camera's name is found
            folder               the folder between person and image, as above
            none                 nowhere: images lie in SPLIT/PERSON/, and ranking has no camera filter
            a regular expression with one group: images lie in SPLIT/PERSON/, and the group matches the camera's name
                                 in the file's name, such as '_c(\d+)_' for 17_c2_0001.jpg
    """
    root = existing_folder(root)
    _check_splits(root)
    pattern = None if camera in ("folder", "none") else _camera_pattern(camera)
    images = [image for split in SPLITS if (root / split).is_dir() for image in _images(root, split, camera, pattern)]
    protocol = "no_camera_filter" if camera == "none" else "cross_camera"
    return from_labels(images, name="folder", root=root, version=f"folder {root.name}", protocol=protocol)


def _check_splits(root: Path) -> None:
    found = [name for name in list_folders(root) if name in SPLITS]
    strange = [name for name in list_folders(root) if name not in SPLITS]
    if not found or strange:
        raise InputError(
            f"{root} holds {listing_of(root)}, expected the folders train, query and gallery and no others"
        )


def _camera_pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"camera: {text!r} is no regular expression: {error}") from None
    if pattern.groups != 1:
        raise InputError(
            f"camera: {text!r} has {pattern.groups} groups, expected 'folder', 'none' or a regular expression with one "
            r"group, such as '_c(\d+)_'"
        )
    return pattern


def _images(root: Path, split: str, camera: str, pattern: re.Pattern[str] | None) -> Iterator[LabelledImage]:
    people = list_folders(root / split)
    if not people:
        report("missing part", f"{root / split} holds no folders; expected one for each person")
    for person in people:
        inside = f"{split}/{person}"
        if camera == "folder":
            yield from _images_by_camera(root, split, person)
        else:
            for path in list_images(root, inside):
                yield LabelledImage(path, person, _camera_of(path, pattern), split)


def _images_by_camera(root: Path, split: str, person: str) -> Iterator[LabelledImage]:
    cameras = list_folders(root / split / person)
    if not cameras:
        report(
            "missing part",
            f"{root / split / person} holds {listing_of(root / split / person, 3)}, expected a folder for each camera; "
            "give the option camera=none, or one that reads it from the file's name",
        )
    for camera in cameras:
        for path in list_images(root, f"{split}/{person}/{camera}"):
            yield LabelledImage(path, person, camera, split)


def _camera_of(path: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return "all"
    match = pattern.search(path.rpartition("/")[2])
    if match is None or not match[1]:
        report("unparsable name", f"no camera in the image name {path}; expected a match of {pattern.pattern}")
        return "?"
    return match[1]
