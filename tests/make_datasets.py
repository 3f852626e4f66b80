"""Writes tiny data sets in the real file formats, for tests of the loaders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
NEW_PROTOCOL_NAME = "cuhk03_new_protocol_config_{}.mat"


def write_image(path: Path, value: int = 0) -> None:
    """An image of 4 x 8 pixels of one colour; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 4, 3), value % 256, np.uint8)).save(path)


def write_images(root: Path, paths: Iterable[str]) -> Path:
    for value, path in enumerate(paths):
        write_image(root / path, value)
    return root


def write_market(root: Path) -> Path:
    """Two training people by two cameras, two query people, and a gallery with junk and distractors."""
    train = ["0002_c1s1_000451_03.jpg", "0002_c2s1_000551_01.jpg", "0007_c1s2_000001_00.jpg", "0007_c6s1_000002_00.jpg"]
    query = ["0001_c1s1_001051_00.jpg", "0003_c2s1_000151_00.jpg"]
    gallery = [
        "-1_c1s1_000401_03.jpg",
        "0000_c3s1_000001_02.jpg",
        "0000_c4s1_000001_02.jpg",
        "0001_c1s1_001052_00.jpg",
        "0001_c2s1_001053_00.jpg",
        "0003_c6s1_000152_00.jpg",
    ]
    for folder, names in zip(MARKET_FOLDERS, (train, query, gallery)):
        write_images(root / folder, names)
    return root


def write_duke(root: Path) -> Path:
    names = [["0001_c2_f0046182.jpg", "0001_c5_f0000001.jpg"], ["0005_c2_f0046985.jpg"], ["0005_c8_f0044158.jpg"]]
    for folder, inside in zip(MARKET_FOLDERS, names):
        write_images(root / folder, inside)
    return root


def write_veri(root: Path, *, lists: bool = True) -> Path:
    names = {
        "train": ["0001_c001_00016450_0.jpg", "0001_c019_00016460_0.jpg"],
        "query": ["0002_c002_00030600_0.jpg"],
        "test": ["0002_c001_00084250_0.jpg", "0002_c020_00084260_0.jpg"],
    }
    for part, inside in names.items():
        write_images(root / f"image_{part}", inside)
        if lists:
            (root / f"name_{part}.txt").write_text("\n".join(inside) + "\n")
    return root


def write_occluded_reid(root: Path) -> Path:
    for kind in ("occluded_body_images", "whole_body_images"):
        write_images(root / kind, [f"{p:03d}/{p:03d}_{i:02d}.tif" for p in (1, 2) for i in range(1, 3)])
    return root


def write_msmt17(root: Path, *, folders: tuple[str, str] = ("train", "test")) -> Path:
    """Training and test lists that both count people from 0, as the real ones do."""
    lists = {
        "list_train.txt": ["0001/0001_000_02_0303morning_0015_1.jpg 1", "0000/0000_045_12_0303morning_0006_2.jpg 0"],
        "list_val.txt": ["0000/0000_046_15_0303noon_0006_2_ex.jpg 0"],
        "list_query.txt": ["0000/0000_002_01_0303morning_0016_1.jpg 0"],
        "list_gallery.txt": ["0000/0000_005_14_0303morning_0018_0.jpg 0", "0001/0001_000_01_0113noon_0018_0.jpg 1"],
    }
    for name, lines in lists.items():
        folder = folders[0] if name in ("list_train.txt", "list_val.txt") else folders[1]
        write_images(root / folder, [line.split()[0] for line in lines])
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def cuhk03_pixels(pair: int, person: int, image: int) -> np.ndarray:
    """The image (6, 4, 3) that `write_cuhk03_mat` stores: every entry tells where it belongs."""
    rows, columns, channels = np.meshgrid(range(6), range(4), range(3), indexing="ij")
    return (50 * pair + 20 * person + 2 * image + 7 * rows + 3 * columns + channels).astype(np.uint8)


def write_cuhk03_mat(
    path: Path, *, people: Sequence[int] = (3, 2), missing: Iterable[tuple[int, int, int]] = ((1, 2, 10), (2, 1, 3))
) -> Path:
    """A cuhk-03.mat (HDF5, cells as object references, MATLAB's axis order) of some people in each camera pair.

    ``missing`` are (pair, person, image) cells that are empty. There are 20 test sets; set i holds person 1 + i % 2 of
    pair 1.
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        cells = file.create_group("#refs#")
        for labels in ("detected", "labeled"):
            pairs = [
                _people_cell(cells, f"{labels}{pair}", pair, count, frozenset(missing))
                for pair, count in enumerate(people, start=1)
            ]
            _write_references(file, labels, np.array([pairs], dtype=object))
        sets = [cells.create_dataset(f"set{i}", data=np.array([[1.0], [1.0 + i % 2]])).ref for i in range(20)]
        _write_references(file, "testsets", np.array([sets], dtype=object))
    return path


def _people_cell(cells: Any, name: str, pair: int, people: int, missing: frozenset) -> Any:
    references = np.empty((10, people), dtype=object)  # people x 10 in MATLAB
    for person in range(1, people + 1):
        for image in range(1, 11):
            empty = (pair, person, image) in missing
            data = np.zeros(2, np.uint64) if empty else cuhk03_pixels(pair, person, image).T
            cell = cells.create_dataset(f"{name}_{person}_{image}", data=data)
            references[image - 1, person - 1] = cell.ref
    return _write_references(cells, name, references).ref


def _write_references(group: Any, name: str, references: np.ndarray) -> Any:
    import h5py

    return group.create_dataset(name, data=references, dtype=h5py.ref_dtype)


def cuhk03_names(
    people: Sequence[int] = (3, 2), missing: Iterable[tuple[int, int, int]] = ((1, 2, 10), (2, 1, 3))
) -> list[str]:
    """The names of all images of `write_cuhk03_mat`, sorted."""
    gone = set(missing)
    return [
        f"{pair}_{person:03d}_{1 if image <= 5 else 2}_{image:02d}.png"
        for pair, count in enumerate(people, start=1)
        for person in range(1, count + 1)
        for image in range(1, 11)
        if (pair, person, image) not in gone
    ]


def write_cuhk03_protocol(
    root: Path, names: Sequence[str], *, labels: str = "detected", changes: Mapping[str, object] | None = None
) -> Path:
    """A new-protocol file: people of pair 1 to train on, pair 2 to test on (first image of each view is a query)."""
    from scipy.io import savemat

    order: dict[str, int] = {}
    people = [order.setdefault(name[:5], len(order) + 1) for name in names]
    train = [i for i, name in enumerate(names, start=1) if name.startswith("1_")]
    query = [i for i, name in enumerate(names, start=1) if name.startswith("2_") and name[8:10] in ("01", "06")]
    gallery = [i for i in range(1, len(names) + 1) if i not in train and i not in query]
    content: dict[str, object] = {
        "filelist": _column([np.array([name]) for name in names], object),
        "labels": _column(people, np.uint16),
        "camId": _column([int(name[6]) for name in names], np.uint8),
        "train_idx": _column(train, np.uint16),
        "query_idx": _column(query, np.uint16),
        "gallery_idx": _column(gallery, np.uint16),
    }
    content.update(changes or {})
    root.mkdir(parents=True, exist_ok=True)
    path = root / NEW_PROTOCOL_NAME.format(labels)
    savemat(path, {key: value for key, value in content.items() if value is not None})
    return path


def _column(values: Sequence, dtype: type) -> np.ndarray:
    column: np.ndarray = np.empty((len(values), 1), dtype=dtype)
    column[:, 0] = values
    return column


def write_folder(root: Path, tree: Mapping[str, Sequence[str]]) -> Path:
    """A `folder` data set: names of images by the folder they lie in."""
    return write_images(root, [f"{folder}/{name}" for folder, names in tree.items() for name in names])


def write_csv(
    root: Path, rows: Sequence[str], *, name: str = "images.csv", header: str = "path,person,camera,split"
) -> Path:
    """A `csv` data set, and an image for every path in its first column that stays inside the folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join([header, *rows]) + "\n")
    paths = [row.split(header[4])[0] for row in rows]
    return write_images(root, [p for p in paths if p.endswith(".jpg") and ".." not in p and not p.startswith("/")])
