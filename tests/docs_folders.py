"""Files that pages of the documentation expect in the current folder, where readers have their own."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from dcs_nas.models.backbones import BACKBONES

PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def _images(people: Path) -> Iterator[tuple[str, str, str, Path]]:
    """Yield part, identity, camera and file of a data set in Market-1501 layout, without junk and distractors."""
    for part, name in PARTS.items():
        for image in sorted((people / name).glob("*.jpg")):
            identity, camera = image.name[:4], image.name[5:7]
            if identity.isdigit() and int(identity):
                yield part, identity, camera, image


def sorted_images(folder: Path, people: Path) -> None:
    """Write the folders of docs/own_data.md: images by part, identity and camera, and a list of them."""
    rows = [["path", "identity", "camera", "split"]]
    for number, (part, identity, camera, image) in enumerate(_images(people)):
        copies = [
            f"sorted/{part}/{identity}/{camera}/{number}.jpg",
            f"dashed/{part}/{identity}-{camera}-{number}.jpg",
            f"undivided/{identity}/{number}.jpg",
            f"listed/{part}{number}.jpg",
        ]
        if camera == "c1":
            copies.append(f"one_camera/{part}/{identity}/{camera}/{number}.jpg")
        for name in copies:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder / name)
        rows.append([f"{part}{number}.jpg", identity, camera, part])
    with open(folder / "listed" / "images.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


def weights_and_classes(folder: Path, people: Path) -> None:
    """Write the files of docs/weights.md: weights of another project, and images in folders of classes."""
    network = BACKBONES["osnet_x0_25"](height=64, width=32)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, folder / "osnet.pth")
    for number, (part, identity, _, image) in enumerate(_images(people)):
        if part == "train":
            target = folder / "classes" / ("train" if number % 4 else "val") / identity
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)
