"""User-supplied images, sorted into folders of identities, or of classes to pretrain on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dcs_nas.data.datasets.labels import LabelledImage, Seed, Share, from_labels
from dcs_nas.data.datasets.listing import (
    describe_content,
    list_folders,
    list_images,
    list_images_below,
    pass_over_files,
    pass_over_folders,
    require_folder,
)
from dcs_nas.data.datasets.loaders import DATASETS, pass_over, report
from dcs_nas.data.records import SPLITS, Record, ReidDataset, assign_numbers
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
        seed (default 0): which identities are used for training
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
    if not divide:
        splits = _list_parts(root, SPLITS, SPLITS, "for one folder for each identity, give the option split=0.5")
        for name in splits:
            pass_over_files(root, name, "files beside the folders of identities")
        return {name: list_folders(root / name) for name in splits}
    folders = list_folders(root)
    if splits := [name for name in SPLITS if name in folders]:
        raise InputError(f"{root} holds {', '.join(splits)}, which divide it already; leave the option split out")
    pass_over_files(root, "", "files beside the folders of identities")
    filled = [name for name in folders if list_images_below(root / name)[0]]
    pass_over("folders without images", (f"{name}/" for name in folders if name not in filled))
    return {"": filled}


def _list_parts(root: Path, parts: Sequence[str], needed: Sequence[str], advice: str) -> list[str]:
    """Return the ``parts`` that ``root`` holds; raise ``InputError`` with none of the ``needed`` ones."""
    folders, words = list_folders(root), f"{', '.join(parts[:-1])} and {parts[-1]}"
    if not set(needed) & set(folders):
        inner = next((name for name in folders if set(needed) & set(list_folders(root / name))), None)
        advice = f"give {root / inner}" if inner else advice
        raise InputError(f"{root} holds {describe_content(root)}, expected the folders {words}; {advice}")
    pass_over_folders(root, (name for name in folders if name not in parts), f"folders beside {words}")
    return [name for name in parts if name in folders]


def _camera_pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
        fault = f"has {pattern.groups} groups" if pattern.groups != 1 else ""
    except re.error as error:
        fault = f"is not a regular expression ({error})"
    if fault:
        expected = r"'folder', 'none' or a regular expression with one group, such as '_c(\d+)_'"
        raise InputError(f"camera: {text!r} {fault}, expected {expected}; change the option camera")
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


@DATASETS.register("class_folders")
def class_folders(root: Path) -> ReidDataset:
    """Images of any classes, one folder for each class, as in ImageNet, to pretrain on by `dcs-nas pretrain`.

    ROOT:
        train/CLASS/*.jpg    images to learn the classes of
        val/CLASS/*.jpg      images of the same classes to validate on; may be absent
    CLASS is any name. Classes are numbered in sorted order, and the numbers are kept with the run. Images in folders
    inside these are read too. Files beside the folders of classes, and other folders beside train/ and val/, are passed
    over and counted. There is one camera, and nothing to test on.

    Options: none
    """
    root = require_folder(root)
    parts = _list_parts(root, ("train", "val"), ("train",), "sort the images into train/CLASS/ and val/CLASS/")
    classes = assign_numbers(_list_classes(root, "train"), first=1)
    if len(classes) < 2:
        raise InputError(
            f"{root / 'train'} holds {len(classes)} folders of classes, expected at least two; add another class"
        )
    return ReidDataset(
        name="class_folders",
        root=root,
        train=_list_records(root, "train", classes),
        query=(),
        gallery=(),
        version=f"class folders {root.name}",
        protocol="no_camera_filter",
        label_map=classes,
        val=_list_records(root, "val", classes) if "val" in parts else (),
    )


def _list_classes(root: Path, part: str) -> list[str]:
    names = list_folders(root / part)
    if not names:
        content = f"{root / part} holds {describe_content(root / part, 3)}"
        report("missing part", f"{content}, expected a folder for each class: sort the images into them")
    pass_over_files(root, part, "files beside the folders of classes")
    return names


def _list_records(root: Path, part: str, classes: dict[str, int]) -> tuple[Record, ...]:
    names = _list_classes(root, part)
    unknown = [name for name in names if name not in classes]
    if unknown:
        report(
            "unparsable name",
            f"{root / part} holds {len(unknown):,} classes that {root / 'train'} does not, first {unknown[0]}; "
            "expected the same names: rename or remove them",
        )
    return tuple(
        Record(path, classes[name], 0)
        for name in names
        if name in classes
        for path in list_images(root, f"{part}/{name}", deeper=True)
    )
