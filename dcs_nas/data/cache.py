"""Decoded images, once: a memory-mapped uint8 array (N, H, W, 3), keyed by the listing.

N images, H height, W width in pixels. The channels come last, so that a batch is a channels_last tensor as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dcs_nas.data.datasets.files import reason_of
from dcs_nas.data.images import read_image
from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path

__all__ = ["Progress", "image_cache", "read_image"]

log = logging.getLogger(__name__)
LAYOUT = 2
Progress = Callable[[int, int], None]


def image_cache(
    root: Path,
    paths: Sequence[str],
    *,
    height: int,
    width: int,
    folder: Path,
    progress: Progress | None = None,
) -> np.ndarray:
    """The images ``root / path`` resized to ``height`` x ``width``, as a read-only memory map (N, H, W, 3).

    The first call decodes them into a file of ``folder``, whose name holds a hash of the listing (paths, sizes, times
    of change) and of the size; later calls open it. An interrupted call leaves nothing that counts.

    Raises ``InputError`` naming the file for an image that is missing or does not decode.
    """
    shape = (len(paths), height, width, 3)
    file = folder / f"{_key(root, paths, shape)}.uint8"
    if not _is_whole(file, shape):
        folder.mkdir(parents=True, exist_ok=True)
        _require_space(folder, int(np.prod(shape)))
        _decode_all(root, paths, shape, file, progress)
    return np.memmap(file, dtype=np.uint8, mode="r", shape=shape)


def _key(root: Path, paths: Sequence[str], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(json.dumps([LAYOUT, shape]).encode())
    for path in paths:
        try:
            status = (root / path).stat()
        except FileNotFoundError:
            raise InputError(f"{root / path} is listed, but there is no such file; list the folder again") from None
        except OSError as error:  # links in a circle, no permission
            raise InputError(f"{root / path} cannot be read ({reason_of(error)}); replace or remove it") from None
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def _decode_all(
    root: Path, paths: Sequence[str], shape: tuple[int, int, int, int], file: Path, progress: Progress | None
) -> None:
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with atomic_path(file) as temporary, temporary.open("wb") as target:
            decoded = pool.map(lambda path: read_image(root / path, height=shape[1], width=shape[2]), paths)
            for i, image in enumerate(decoded):
                target.write(image.tobytes())
                if progress:
                    progress(i + 1, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)


def _is_whole(file: Path, shape: tuple[int, ...]) -> bool:
    if not file.is_file():
        return False
    if file.stat().st_size == int(np.prod(shape)):
        return True
    log.warning("%s is cut off: decoding its images again", file)
    return False


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the decoded images need {needed / 2**20:,.0f} MiB in {folder}, {free / 2**20:,.0f} are free; "
            "set data.cache to a folder with room, or lower data.height and data.width"
        )
