"""CUHK03, detected or hand-labelled boxes, by its new and its classic protocol.

Its images come in one HDF5 file, cuhk-03.mat, and are extracted from it once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from dcs_nas.data.datasets.listing import describe_content, find_absent_images, find_root, list_images, report_absent
from dcs_nas.data.datasets.loaders import DATASETS, Facts, add_deviations, report
from dcs_nas.data.records import Record, ReidDataset
from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path, sync_below

if TYPE_CHECKING:
    import h5py
    import numpy as np

    from dcs_nas.data.images import Progress

_MAT = "cuhk-03.mat"
_RELEASE = "cuhk03_release"
_IMAGES_PER_IDENTITY = 10  # cells of a row: five of the pair's first camera, five of its second
_COUNT_FILE = ".extracted"
_NAME = re.compile(r"(?P<pair>\d)_(?P<identity>\d{3})_(?P<view>[12])_(\d{2})\.png")
_NEW_FACTS = {
    "detected": Facts((767, 7_365), (700, 1_400), (700, 5_332), distractors=0, cameras=2),
    "labeled": Facts((767, 7_368), (700, 1_400), (700, 5_328), distractors=0, cameras=2),
}
_CLASSIC_FACTS = Facts((1_367, None), (100, None), (100, None), distractors=0, cameras=2)
_UNPACK = "unpack cuhk03_release.zip again"
_PROTOCOL = ("filelist", "labels", "camId", "train_idx", "query_idx", "gallery_idx")


@DATASETS.register("cuhk03")
def cuhk03(
    root: Path,
    *,
    labels: Literal["detected", "labeled"] = "detected",
    protocol: Literal["new", "classic"] = "new",
    split: Annotated[int, Field(ge=0, le=19)] | None = None,
) -> ReidDataset:
    """CUHK03: 1,467 identities by five pairs of cameras, each identity by one pair.

    Li, Zhao, Xiao, Wang: DeepReID: Deep Filter Pairing Neural Network for Person Re-identification, CVPR 2014. The new
    protocol: Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017.

    ROOT, or a folder cuhk03* below it:
        cuhk03_release/cuhk-03.mat                      the images (HDF5), here or directly in ROOT
        cuhk03_new_protocol_config_detected.mat         the split of the new protocol
        cuhk03_new_protocol_config_labeled.mat
        images_detected/, images_labeled/               1_001_1_01.png ...: extracted here once from cuhk-03.mat; where
                                                        they are present, the new protocol needs no cuhk-03.mat
    Cameras are the two views of a pair, as in the protocol's files.

    Options:
        labels (detected or labeled, default detected): boxes of a detector or drawn by hand
        protocol (new or classic, default new)
            new        767 identities to train on, 700 to test on, ranked across cameras
            classic    1,367 and 100 identities, ranked with one gallery image of each identity (single-gallery-shot)
        split (0 to 19, default 0): which of the classic protocol's 20 splits; results are averages over them
    """
    if protocol == "new" and split is not None:
        raise InputError(f"cuhk03: the option split={split} is for protocol=classic, found new; leave split out")
    folder = f"images_{labels}"
    root = find_root(root, parts=(folder, _MAT, _RELEASE, _name_config(labels)), title="CUHK03", aliases=("cuhk03",))
    if protocol == "new":
        return _new_protocol(root, folder, labels)
    return _classic_protocol(root, folder, labels, split or 0)


def _new_protocol(root: Path, folder: str, labels: str) -> ReidDataset:
    config = _find_file(root, _name_config(labels))
    if config is None:
        raise InputError(
            f"the new protocol of CUHK03 needs {_name_config(labels)} in {root}; found {describe_content(root)}; "
            "give the folder that holds it"
        )
    splits = read_protocol(config, folder)
    names = [r.path for records in splits for r in records]
    mat = _find_file(root, _MAT)
    if mat is None and not (root / folder).is_dir():
        raise InputError(
            f"no images of CUHK03 in {root}: expected {folder}/, or {_MAT} here or in {_RELEASE}/ to extract them "
            f"from; found {describe_content(root)}; give the folder that holds them"
        )
    if mat is not None and find_absent_images(root, names):
        _extract(mat, labels, root / folder)
    absent = report_absent(root, names, source=config.name)
    train, query, gallery = (tuple(r for r in records if r.path not in absent) for records in splits)
    version = f"CUHK03 {labels}, new protocol (767/700)"
    return add_deviations(ReidDataset("cuhk03", root, train, query, gallery, version), _NEW_FACTS[labels])


def _classic_protocol(root: Path, folder: str, labels: str, split: int) -> ReidDataset:
    mat = _find_file(root, _MAT)
    if mat is None:
        raise InputError(
            f"the classic protocol of CUHK03 needs {_MAT} (its 20 splits are in it) in {root} or {root / _RELEASE}; "
            f"found {describe_content(root)}; give the folder that holds it"
        )
    test_sets = read_test_sets(mat)
    if split >= len(test_sets):
        raise InputError(
            f"{mat} holds {len(test_sets)} test sets, expected at least {split + 1} for split={split}; {_UNPACK}"
        )
    if not is_extracted(root / folder):
        _extract(mat, labels, root / folder)
    train, test = _split_by_test_set(list_images(root, folder), test_sets[split])
    version = f"CUHK03 {labels}, classic protocol, split {split} of 20"
    dataset = ReidDataset("cuhk03", root, train, test, test, version, protocol="single_gallery_shot")
    return add_deviations(dataset, _CLASSIC_FACTS)


def read_protocol(config: Path, folder: str) -> tuple[tuple[Record, ...], tuple[Record, ...], tuple[Record, ...]]:
    """Return training, query and gallery records of a cuhk03_new_protocol_config file, sorted; images in ``folder``.

    Raises:
        InputError: the file cannot be read, lacks a variable, or its indices, names and cameras do not fit together.
    """
    content = _load_mat(config)
    try:
        names = [str(cell.item()) for cell in content["filelist"]]
        identities, cameras, *indices = (content[key].astype("int64") for key in _PROTOCOL[1:])
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{config} holds values that are neither names nor numbers ({error}); download it again"
        ) from None
    if not len(names) == len(identities) == len(cameras):
        sizes = f"{len(names)} names, {len(identities)} labels and {len(cameras)} cameras"
        raise InputError(f"{config} holds {sizes}, expected the same number of each; download it again")
    records = []
    for name, identity, camera in zip(names, identities, cameras):
        match = _NAME.fullmatch(name)
        if match is None or int(match["view"]) != camera:
            expected = f"expected PAIR_IDENTITY_VIEW_IMAGE.png of view {camera}, such as 1_001_1_01.png"
            raise InputError(f"{config} lists {name!r}, {expected}; download the file again")
        records.append(Record(f"{folder}/{name}", int(identity), int(camera) - 1))
    train, query, gallery = (
        _select_records(records, i, f"{key} of {config}") for key, i in zip(_PROTOCOL[3:], indices)
    )
    return train, query, gallery


def _load_mat(config: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content = loadmat(config)
    except Exception as error:  # a damaged file can make the parser raise anything
        raise InputError(f"{config} is not a readable MATLAB file ({error}); download it again") from None
    for key in _PROTOCOL:
        if key not in content:
            names = ", ".join(name for name in content if not name.startswith("__"))
            raise InputError(f"{config} holds {names or 'nothing'}, expected {', '.join(_PROTOCOL)}; download it again")
    return {key: content[key].ravel() for key in _PROTOCOL}


def _select_records(records: Sequence[Record], indices: Sequence[int], source: str) -> tuple[Record, ...]:
    if any(not 1 <= index <= len(records) for index in indices):
        raise InputError(f"{source} holds an index outside 1 to {len(records)}; download the file again")
    return tuple(sorted((records[int(index) - 1] for index in indices), key=lambda r: r.path))


def _split_by_test_set(
    paths: Sequence[str], test_set: frozenset[tuple[int, int]]
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return training and test records; identity 2017 is identity 17 of camera pair 2."""
    train: list[Record] = []
    test: list[Record] = []
    for path in paths:
        match = _NAME.fullmatch(path.rpartition("/")[2])
        if match is None:
            expected = "expected PAIR_IDENTITY_VIEW_IMAGE.png, such as 1_001_1_01.png"
            report("unparsable name", f"the image name {path} does not parse; {expected}: rename or remove it")
            continue
        identity = int(match["pair"]), int(match["identity"])
        record = Record(path, 1_000 * identity[0] + identity[1], int(match["view"]) - 1)
        (test if identity in test_set else train).append(record)
    return tuple(train), tuple(test)


def _extract(mat: Path, labels: str, folder: Path) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"extracting {folder.name} from {mat.name}", total=None)
        extract_images(mat, labels, folder, progress=lambda done, all_: bar.update(task, completed=done, total=all_))


def _find_file(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / _RELEASE / name) if path.is_file()), None)


def _name_config(labels: str) -> str:
    return f"cuhk03_new_protocol_config_{labels}.mat"


def extract_images(mat: Path, labels: str, folder: Path, *, progress: Progress | None = None) -> int:
    """Write the ``detected`` or ``labeled`` images of cuhk-03.mat as PNG files into ``folder``; return their number.

    Names are as in the protocol files: PAIR_IDENTITY_VIEW_IMAGE.png. Existing files are kept, so that an interrupted
    extraction resumes; a file appears under its name only when it is complete.

    Raises:
        InputError: the file is truncated or is not cuhk-03.mat, or the folder cannot be written.
    """
    with _open_mat(mat) as file:
        cells = list(_list_cells(file, labels, mat))
        count = 0
        for done, (name, reference) in enumerate(cells, start=1):
            count += _extract_one(file[reference], folder / name, mat)
            if progress is not None:
                progress(done, len(cells))
    with suppress(InputError), _write_atomically(folder / _COUNT_FILE, sync=True) as marker:
        sync_below(folder)  # without permission to write the marker, each load compares the images with the file
        marker.write_text(f"{count}\n")
    return count


def is_extracted(folder: Path) -> bool:
    """Return whether an extraction into ``folder`` has finished and its images are still there."""
    marker = folder / _COUNT_FILE
    if not marker.is_file():
        return False
    return marker.read_bytes().strip() == b"%d" % sum(name.endswith(".png") for name in os.listdir(folder))


def read_test_sets(mat: Path) -> list[frozenset[tuple[int, int]]]:
    """Return the classic protocol's 20 sets of 100 test identities, as (camera pair, identity in it), both from 1."""
    with _open_mat(mat) as file:
        sets = [file[reference][()] for reference in _read_references(file, "testsets", mat)]
        return [frozenset((int(pair), int(identity)) for pair, identity in identities.T) for identities in sets]


@contextmanager
def _open_mat(mat: Path) -> Iterator[h5py.File]:
    import h5py

    try:
        with h5py.File(mat, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
        raise InputError(f"{mat} cannot be read ({error}); it may be truncated: {_UNPACK}") from None


@contextmanager
def _write_atomically(path: Path, *, sync: bool) -> Iterator[Path]:
    """Write as ``atomic_path``; a fault of writing is an ``InputError``, unlike one of reading the file of images."""
    try:
        with atomic_path(path, sync=sync) as part:
            yield part
    except OSError as error:
        fault = f"cannot write images into {path.parent}: {error.strerror}"
        raise InputError(f"{fault}; free some space or permit writing") from None


def _read_references(file: h5py.File, name: str, mat: Path) -> np.ndarray:
    """Return the object references of a MATLAB cell array, as a vector."""
    import h5py

    if name not in file:
        names = ", ".join(file) or "nothing"
        raise InputError(f"{mat} holds {names}, expected '{name}'; {_UNPACK}")
    if h5py.check_ref_dtype(file[name].dtype) is None:
        raise InputError(f"{mat}: '{name}' is {file[name].dtype}, expected a cell array; {_UNPACK}")
    return file[name][()].ravel()


def _list_cells(file: h5py.File, labels: str, mat: Path) -> Iterator[tuple[str, h5py.Reference]]:
    """Yield file name and reference of every image cell; MATLAB's axes come out of HDF5 in reverse order."""
    for pair, pair_reference in enumerate(_read_references(file, labels, mat), start=1):
        identities = file[pair_reference][()].T
        if identities.ndim != 2 or identities.shape[1] != _IMAGES_PER_IDENTITY:
            fault = f"camera pair {pair} of '{labels}' has the shape {identities.shape}"
            raise InputError(f"{mat}: {fault}, expected identities x {_IMAGES_PER_IDENTITY}; {_UNPACK}")
        for identity, row in enumerate(identities, start=1):
            for image, reference in enumerate(row, start=1):
                view = 1 if image <= _IMAGES_PER_IDENTITY // 2 else 2
                yield f"{pair:01d}_{identity:03d}_{view:01d}_{image:02d}.png", reference


def _extract_one(cell: h5py.Dataset, path: Path, mat: Path) -> bool:
    """Write one image unless its cell is empty; return whether there is one."""
    import numpy as np
    from PIL import Image

    if cell.ndim != 3:
        return False
    if path.is_file() and path.stat().st_size:
        return True
    pixels = cell[()].T
    if pixels.dtype.name != "uint8" or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(
            f"{mat}: the cell of {path.name} holds {pixels.dtype} {pixels.shape}, expected an image; {_UNPACK}"
        )
    with _write_atomically(path, sync=False) as part:
        Image.fromarray(np.ascontiguousarray(pixels)).save(part, format="PNG")
    return True
