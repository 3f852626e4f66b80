"""User-supplied images, sorted into folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dcs_nas.data.datasets.labels import LabelledImage, Seed, Share, from_labels
from dcs_nas.data.datasets.listing import (
    describe_content,
    list_folders,
    list_images,
    list_images_below,
    pass_over_files,
    require_folder,
)
from dcs_nas.data.datasets.loaders import DATASETS, pass_over, report
from dcs_nas.data.records import SPLITS, ReidDataset
from dcs_nas.errors import InputError


@DATASETS.register("folder")
def folder(root: Path, *, camera: str = "folder", split: Share = None, seed: Seed = 0) -> ReidDataset:
    r"""Your own images, one folder for each identity.

    ROOT:
        train/IDENTITY/CAMERA/*.jpg      images to train on
        query/IDENTITY/CAMERA/*.jpg      queries
        gallery/IDENTITY/CAMERA/*.jpg    gallery
    or, with the option split, undivided:
        IDENTITY/CAMERA/*.jpg            images to be divided; without any CAMERA folder, cameras are unknown
    IDENTITY and CAMERA are any names; the same name means the same identity or camera everywhere. They are numbered in
    sorted order, and the numbers are kept with the run. An identity named -1 is junk and left out. train/ may be absent
    where nothing is trained, query/ and gallery/ where nothing is tested. Images in folders inside these are read too.
    Files beside the folders, and other folders beside train/, query/ and gallery/, are passed over and counted.

    Options:
        camera (default folder): the place of the camera's name
            folder               the folder between identity and image, as above
            none                 no cameras: images lie in SPLIT/IDENTITY/, and ranking has no camera filter
            a regular expression with one group: images lie in SPLIT/IDENTITY/, and the group matches the camera's name
                                 in the file's name, such as '_c(\d+)_' for 17_c2_0001.jpg
        split (0 to 1, no default): the share of the identities of an undivided folder to train on; of each other
                                 identity the first image by every camera is a query, the rest the gallery
        seed (default 0): another one divides otherwise
    """
    root = require_folder(root)
    parts = _parts(root, divide=split is not None)
    if split is not None and camera == "folder" and not any(list_folders(root / identity) for identity in parts[""]):
        camera = "none"
    pattern = None if camera in ("folder", "none") else _camera_pattern(camera)
    images = [i for part, identities in parts.items() for i in _images(root, part, identities, camera, pattern)]
    protocol = "no_camera_filter" if camera == "none" else "cross_camera"
    version = f"folder {root.name}"
    return from_labels(images, name="folder", root=root, version=version, protocol=protocol, share=split, seed=seed)


def _parts(root: Path, *, divide: bool) -> dict[str, list[str]]:
    """List the folders of identities in each part of a data set, of an undivided one in the part ""."""
    folders = list_folders(root)
    splits = [name for name in SPLITS if name in folders]
    if divide:
        if splits:
            raise InputError(f"{root} holds {', '.join(splits)}, which divide it already; leave the option split out")
        pass_over_files(root, "", "files beside the folders of identities")
        filled = [name for name in folders if list_images_below(root / name)[0]]
        pass_over("folders without images", (f"{name}/" for name in folders if name not in filled))
        return {"": filled}
    if not splits:
        inner = next((name for name in folders if set(SPLITS) & set(list_folders(root / name))), None)
        advice = f"give {root / inner}" if inner else "for one folder for each identity, give the option split=0.5"
        raise InputError(
            f"{root} holds {describe_content(root)}, expected the folders train, query and gallery; {advice}"
        )
    beside = [(name, len(list_images_below(root / name)[0])) for name in folders if name not in SPLITS]
    pass_over("folders beside train, query and gallery", (f"{name}/ ({count:,} images)" for name, count in beside))
    for name in splits:
        pass_over_files(root, name, "files beside the folders of identities")
    return {name: list_folders(root / name) for name in splits}


def _camera_pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(
            f"camera: {text!r} is not a regular expression ({error}); expected 'folder', 'none' or one such as "
            r"'_c(\d+)_'"
        ) from None
    if pattern.groups != 1:
        raise InputError(
            f"camera: {text!r} has {pattern.groups} groups, expected 'folder', 'none' or a regular expression with one "
            r"group, such as '_c(\d+)_'"
        )
    return pattern


def _images(
    root: Path, split: str, identities: list[str], camera: str, pattern: re.Pattern[str] | None
) -> Iterator[LabelledImage]:
    if not identities:
        report("missing part", f"{root / split} holds no folders; expected one for each identity")
    for identity in identities:
        inside = f"{split}/{identity}" if split else identity
        if camera == "folder":
            yield from _images_by_camera(root, inside, identity, split)
        else:
            for path in list_images(root, inside, deeper=True):
                yield LabelledImage(path, identity, _camera_of(path, pattern), split)


def _images_by_camera(root: Path, inside: str, identity: str, split: str) -> Iterator[LabelledImage]:
    cameras = list_folders(root / inside)
    if not cameras:
        report(
            "missing part",
            f"{root / inside} holds {describe_content(root / inside, 3)}, expected a folder for each camera; "
            "give the option camera=none, or a pattern that matches the camera in the file's name",
        )
        return
    pass_over_files(root, inside, "files beside the folders of cameras")
    for camera in cameras:
        for path in list_images(root, f"{inside}/{camera}", deeper=True):
            yield LabelledImage(path, identity, camera, split)


def _camera_of(path: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return "all"
    match = pattern.search(path.rpartition("/")[2])
    if match is None or not match[1]:
        report(
            "unparsable name",
            f"no camera in the image name {path}; expected a match of {pattern.pattern}: rename it, or change the "
            "option camera",
        )
        return "?"
    return match[1]
