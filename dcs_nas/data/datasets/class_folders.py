"""Images sorted into folders of classes, as ImageNet has them, to pretrain on."""

from __future__ import annotations

from pathlib import Path

from dcs_nas.data.datasets.listing import (
    describe_content,
    list_folders,
    list_images,
    list_images_below,
    pass_over_files,
    require_folder,
)
from dcs_nas.data.datasets.loaders import DATASETS, pass_over, report
from dcs_nas.data.records import Record, ReidDataset, assign_numbers
from dcs_nas.errors import InputError

_PARTS = ("train", "val")


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
    folders = list_folders(root)
    if "train" not in folders:
        inner = next((name for name in folders if "train" in list_folders(root / name)), None)
        advice = f"give {root / inner}" if inner else "sort the images into train/CLASS/ and val/CLASS/"
        raise InputError(f"{root} holds {describe_content(root)}, expected the folders train and val; {advice}")
    beside = [(name, len(list_images_below(root / name)[0])) for name in folders if name not in _PARTS]
    pass_over("folders beside train and val", (f"{name}/ ({count:,} images)" for name, count in beside))
    classes = assign_numbers(_classes(root, "train"), first=1)
    if len(classes) < 2:
        raise InputError(
            f"{root / 'train'} holds {len(classes)} folders of classes, expected at least two; add another class"
        )
    return ReidDataset(
        name="class_folders",
        root=root,
        train=_records(root, "train", classes),
        query=(),
        gallery=(),
        version=f"class folders {root.name}",
        protocol="no_camera_filter",
        label_map=classes,
        val=_records(root, "val", classes) if "val" in folders else (),
    )


def _classes(root: Path, part: str) -> list[str]:
    names = list_folders(root / part)
    if not names:
        content = describe_content(root / part, 3)
        report(
            "missing part",
            f"{root / part} holds {content}, expected a folder for each class: sort the images into them",
        )
    pass_over_files(root, part, "files beside the folders of classes")
    return names


def _records(root: Path, part: str, classes: dict[str, int]) -> tuple[Record, ...]:
    names = _classes(root, part)
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
