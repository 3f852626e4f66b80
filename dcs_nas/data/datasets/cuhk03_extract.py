"""Reading cuhk-03.mat, the HDF5 file in which CUHK03 is distributed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path, sync_below

if TYPE_CHECKING:
    import h5py
    import numpy as np

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""

LARGEST_ARRAY = 2**26  # bytes; the images are smaller by far
IMAGES_PER_PERSON = 10  # cells of a row: five of the pair's first camera, five of its second
_COUNT_FILE = ".extracted"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


def extract_images(mat: Path, labels: str, folder: Path, *, progress: Progress | None = None) -> int:
    """Write the ``detected`` or ``labeled`` images of cuhk-03.mat as PNG files into ``folder``; return their number.

    Names are those of the protocol files: PAIR_PERSON_VIEW_IMAGE.png. A file that is whole is left as it is, so that an
    interrupted extraction goes on where it stopped; files appear under their name only when they are complete.

    Raises:
        InputError: the file is truncated or is not cuhk-03.mat, or the folder cannot be written.
    """
    with _opened(mat) as file:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        cells = list(_cells(file, labels, mat))
        count = 0
        for done, (name, reference) in enumerate(cells, start=1):
            count += _extract_one(file[reference], folder / name, mat)
            if progress is not None:
                progress(done, len(cells))
    with _writing(folder):
        sync_below(folder)
    _write_whole(folder / _COUNT_FILE, lambda path: path.write_text(f"{count}\n"), sync=True)
    return count


def is_extracted(folder: Path) -> bool:
    """Whether an extraction into ``folder`` ran to its end and its images are still there."""
    marker = folder / _COUNT_FILE
    if not marker.is_file():
        return False
    return marker.read_text().strip() == str(sum(name.endswith(".png") for name in os.listdir(folder)))


def read_test_sets(mat: Path) -> list[frozenset[tuple[int, int]]]:
    """The classic protocol's 20 sets of 100 test people, each as (camera pair, person in the pair), both from 1."""
    with _opened(mat) as file:
        sets = [_values(file[reference], mat) for reference in _references(file, "testsets", mat)]
        return [frozenset((int(pair), int(person)) for pair, person in people.T) for people in sets]


@contextmanager
def _opened(mat: Path) -> Iterator[h5py.File]:
    import h5py

    try:
        with h5py.File(mat, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
        raise InputError(
            f"{mat} cannot be read ({error}); it may be cut off: unpack cuhk03_release.zip again"
        ) from None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write images into {folder}: {error.strerror}; make room or allow writing") from None


def _references(file: h5py.File, name: str, mat: Path) -> np.ndarray:
    """The object references of a MATLAB cell array, as a vector."""
    import h5py

    if name not in file:
        found = ", ".join(file) or "nothing"
        raise InputError(f"{mat} holds {found}, expected '{name}'; is it the cuhk-03.mat of CUHK03?")
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{mat}: '{name}' is a link to another place or file, which is refused; fetch the file again")
    if not isinstance(file[name], h5py.Dataset) or h5py.check_ref_dtype(file[name].dtype) is None:
        raise InputError(f"{mat}: '{name}' is no cell array; is it the cuhk-03.mat of CUHK03?")
    return _values(file[name], mat).ravel()


def _values(dataset: Any, mat: Path) -> np.ndarray:
    """The array of a dataset that keeps its values in this very file, and not too many of them."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{mat} holds a {type(dataset).__name__} where an array is expected; fetch the file again")
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{mat} takes values from other files, which is refused; fetch the file again")
    if dataset.nbytes > LARGEST_ARRAY:
        raise InputError(f"{mat} holds an array {dataset.shape} of {dataset.nbytes:,} bytes; fetch the file again")
    return dataset[()]


def _cells(file: h5py.File, labels: str, mat: Path) -> Iterator[tuple[str, h5py.Reference]]:
    """File name and reference of every image cell; MATLAB's axes come out of HDF5 in reverse order."""
    for pair, pair_reference in enumerate(_references(file, labels, mat), start=1):
        people = _values(file[pair_reference], mat).T
        if people.ndim != 2 or people.shape[1] != IMAGES_PER_PERSON:
            expected = f"expected people x {IMAGES_PER_PERSON}"
            raise InputError(f"{mat}: camera pair {pair} of '{labels}' has the shape {people.shape}, {expected}")
        for person, row in enumerate(people, start=1):
            for image, reference in enumerate(row, start=1):
                view = 1 if image <= IMAGES_PER_PERSON // 2 else 2
                yield f"{pair:01d}_{person:03d}_{view:01d}_{image:02d}.png", reference


def _extract_one(cell: h5py.Dataset, path: Path, mat: Path) -> bool:
    """Write one image unless its cell is empty; returns whether there is one."""
    if cell.ndim != 3:
        return False
    if not _is_whole_png(path):
        pixels = _values(cell, mat).T
        if pixels.dtype.name != "uint8" or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise InputError(f"{mat}: the cell of {path.name} holds {pixels.dtype} {pixels.shape}, expected an image")
        _write_whole(path, lambda part: _save_png(pixels, part), sync=False)
    return True


def _save_png(pixels: np.ndarray, path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(pixels)).save(path, format="PNG")


def _is_whole_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(len(_PNG_START))
            file.seek(-len(_PNG_END), os.SEEK_END)
            return start == _PNG_START and file.read() == _PNG_END
    except OSError:  # absent, or too short for the seek
        return False


def _write_whole(path: Path, write: Callable[[Path], Any], *, sync: bool) -> None:
    with _writing(path.parent), atomic_path(path, sync=sync) as part:
        write(part)
