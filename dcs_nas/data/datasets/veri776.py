"""VeRi-776: vehicles instead of people."""

from __future__ import annotations

from pathlib import Path

from dcs_nas.data.datasets.facts import Facts
from dcs_nas.data.datasets.files import find_root, inner_path, list_images, locate, read_lines
from dcs_nas.data.datasets.named_boxes import named_records, with_deviations
from dcs_nas.data.datasets.problems import pass_over
from dcs_nas.data.datasets.registry import DATASETS
from dcs_nas.data.records import ReidDataset

_TITLE = "VeRi-776"
_FOLDERS = ("image_train", "image_query", "image_test")
_EXAMPLE = "0002_c002_00030600_0.jpg"
_FACTS = Facts(
    train=((575, 576), (37_746, 37_778)),
    query=(200, 1_678),
    gallery=(200, 11_579),
    distractors=0,
    cameras=20,
)


@DATASETS.register("veri776")
def veri776(root: Path) -> ReidDataset:
    """VeRi-776: 776 vehicles, 20 cameras; people stands for vehicles in every count.

    Liu, Liu, Mei, Ma: A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban Surveillance,
    ECCV 2016.

    ROOT, or a folder veri* below it:
        image_train/   0001_c001_00016450_0.jpg ...   37,778 images of 576 vehicles as published; copies in use also
                                                      hold 37,746 of 575
        image_query/   0002_c002_00030600_0.jpg ...   200 vehicles, 1,678 images
        image_test/    0002_c001_00084250_0.jpg ...   200 vehicles, 11,579 images, the gallery
        name_train.txt, name_query.txt, name_test.txt   file names, one on each line
    Where a name_*.txt is present the images it lists are taken, otherwise the whole folder. The ranking protocol is the
    people's one (same vehicle, same camera left out), image to image.

    Options: none
    """
    root = find_root(root, parts=_FOLDERS, title=_TITLE, aliases=("veri",))
    train, query, gallery = (named_records(_paths(root, folder), example=_EXAMPLE) for folder in _FOLDERS)
    return with_deviations(ReidDataset("veri776", root, train, query, gallery, version=_TITLE), _FACTS)


def _paths(root: Path, folder: str) -> list[str]:
    names = folder.replace("image_", "name_") + ".txt"
    paths = list_images(root, folder)
    if not (root / names).exists():
        return paths
    images = root / folder
    lines = read_lines(root, names)
    listed = {inner_path(line, source=f"{names}, line {number}", root=images) for number, line in lines}
    where = locate(images, sorted(name for name in listed if name is not None), source=names)
    kept = {f"{folder}/{path}" for path in where.values()}
    pass_over(f"images that {names} does not list", (path for path in paths if path not in kept))
    return sorted(kept)
