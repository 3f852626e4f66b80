"""People's own images, sorted into folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dcs_nas.data.datasets.labels import LabelledImage, Seed, Share, from_labels
from dcs_nas.data.datasets.listing import (
    existing_folder,
    images_below,
    list_folders,
    list_images,
    listing_of,
    pass_over_files,
)
from dcs_nas.data.datasets.loaders import DATASETS, pass_over, report
from dcs_nas.data.records import SPLITS, ReidDataset
from dcs_nas.errors import InputError


@DATASETS.register("folder")
def folder(root: Path, *, camera: str = "folder", split: Share = None, seed: Seed = 0) -> ReidDataset:
    r"""Your own images, one folder for each person.

    ROOT:
        train/PERSON/CAMERA/*.jpg      people to train on
        query/PERSON/CAMERA/*.jpg      people to look for
        gallery/PERSON/CAMERA/*.jpg    where to look for them
    or, with the option split, undivided:
        PERSON/CAMERA/*.jpg            people to be divided; without any CAMERA folder, cameras are unknown
    PERSON and CAMERA are any names; the same name means the same person or camera everywhere. They are numbered in
    sorted order, and the numbers are kept with the run. A person named -1 is junk and left out. train/ may be absent
    where nothing is trained, query/ and gallery/ where nothing is tested. Images in folders inside these are read too.
    Files beside the folders, and other folders beside train/, query/ and gallery/, are passed over and counted.

    Options:
        camera (default folder): where the camera's name is found
            folder               the folder between person and image, as above
            none                 nowhere: images lie in SPLIT/PERSON/, and ranking has no camera filter
            a regular expression with one group: images lie in SPLIT/PERSON/, and the group matches the camera's name
                                 in the file's name, such as '_c(\d+)_' for 17_c2_0001.jpg
        split (0 to 1, no default): the share of the people of an undivided folder to train on; of each of the others
                                 the first image by every camera is a query, the rest the gallery
        seed (default 0): another one divides otherwise
    """
    root = existing_folder(root)
    parts = _parts(root, divide=split is not None)
    if split is not None and camera == "folder" and not any(list_folders(root / person) for person in parts[""]):
        camera = "none"
    pattern = None if camera in ("folder", "none") else _camera_pattern(camera)
    images = [i for part, people in parts.items() for i in _images(root, part, people, camera, pattern)]
    protocol = "no_camera_filter" if camera == "none" else "cross_camera"
    version = f"folder {root.name}"
    return from_labels(images, name="folder", root=root, version=version, protocol=protocol, share=split, seed=seed)


def _parts(root: Path, *, divide: bool) -> dict[str, list[str]]:
    """List the folders of people in each part of a data set, of an undivided one in the part ""."""
    folders = list_folders(root)
    splits = [name for name in SPLITS if name in folders]
    if divide:
        if splits:
            raise InputError(f"{root} holds {', '.join(splits)}, which divide it already; leave the option split out")
        pass_over_files(root, "", "files beside the folders of people")
        filled = [name for name in folders if images_below(root / name)[0]]
        pass_over("folders without images", (f"{name}/" for name in folders if name not in filled))
        return {"": filled}
    if not splits:
        inner = next((name for name in folders if set(SPLITS) & set(list_folders(root / name))), None)
        advice = f"give {root / inner}" if inner else "for a folder of each person instead, give the option split=0.5"
        raise InputError(f"{root} holds {listing_of(root)}, expected the folders train, query and gallery; {advice}")
    others = [(name, len(images_below(root / name)[0])) for name in folders if name not in SPLITS]
    pass_over("folders beside train, query and gallery", (f"{name}/ ({count:,} images)" for name, count in others))
    for name in splits:
        pass_over_files(root, name, "files beside the folders of people")
    return {name: list_folders(root / name) for name in splits}


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


def _images(
    root: Path, split: str, people: list[str], camera: str, pattern: re.Pattern[str] | None
) -> Iterator[LabelledImage]:
    if not people:
        report("missing part", f"{root / split} holds no folders; expected one for each person")
    for person in people:
        inside = f"{split}/{person}" if split else person
        if camera == "folder":
            yield from _images_by_camera(root, inside, person, split)
        else:
            for path in list_images(root, inside, deeper=True):
                yield LabelledImage(path, person, _camera_of(path, pattern), split)


def _images_by_camera(root: Path, inside: str, person: str, split: str) -> Iterator[LabelledImage]:
    cameras = list_folders(root / inside)
    if not cameras:
        report(
            "missing part",
            f"{root / inside} holds {listing_of(root / inside, 3)}, expected a folder for each camera; "
            "give the option camera=none, or one that reads it from the file's name",
        )
        return
    pass_over_files(root, inside, "files beside the folders of cameras")
    for camera in cameras:
        for path in list_images(root, f"{inside}/{camera}", deeper=True):
            yield LabelledImage(path, person, camera, split)


def _camera_of(path: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return "all"
    match = pattern.search(path.rpartition("/")[2])
    if match is None or not match[1]:
        report("unparsable name", f"no camera in the image name {path}; expected a match of {pattern.pattern}")
        return "?"
    return match[1]
