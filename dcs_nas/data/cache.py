"""Decoded images, once: a memory-mapped uint8 array (N, H, W, 3), keyed by the listing.

N images, H height, W width in pixels. The channels come last, so that a batch is a channels_last tensor as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dcs_nas.errors import InputError

LAYOUT = 1
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
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _require_space(folder, int(np.prod(shape)))
        _decode_all(root, paths, shape, file, progress)
    return np.memmap(file, dtype=np.uint8, mode="r", shape=shape)


def read_image(path: Path, *, height: int, width: int) -> np.ndarray:
    """One image as (H, W, 3) uint8, upright, RGB, resized bilinearly; ``InputError`` where it does not decode."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft("RGB", (2 * width, 2 * height))
                upright = _rgb(ImageOps.exif_transpose(image))
                return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))
    except FileNotFoundError:
        raise InputError(f"{path} is listed, but there is no such file; list the folder again") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} does not decode as an image ({error}); replace or remove it") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a pixel or more: to 8, by the full range
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _key(root: Path, paths: Sequence[str], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(json.dumps([LAYOUT, shape]).encode())
    for path in paths:
        try:
            status = (root / path).stat()
        except FileNotFoundError:
            raise InputError(f"{root / path} is listed, but there is no such file; list the folder again") from None
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def _decode_all(
    root: Path, paths: Sequence[str], shape: tuple[int, int, int, int], file: Path, progress: Progress | None
) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        images = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=shape)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda path: read_image(root / path, height=shape[1], width=shape[2]), paths)
            for i, image in enumerate(decoded):
                images[i] = image
                if progress:
                    progress(i + 1, len(paths))
        images.flush()
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the decoded images need {needed / 2**20:,.0f} MiB in {folder}, {free / 2**20:,.0f} are free; "
            "set data.cache to a folder with room, or lower data.height and data.width"
        )
