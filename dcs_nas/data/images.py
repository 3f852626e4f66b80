"""Image files of any source, checked by content and decoded once.

Bad files are refused by their header; images are read as upright 8-bit RGB pixels. The decoded images of a split are a
memory-mapped uint8 array (N, H, W, 3), keyed by the listing: N images, H height, W width in pixels. The channels come
last, so that a batch is a channels_last tensor without a copy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import stat
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from dcs_nas.data.datasets.listing import get_status
from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path
from dcs_nas.processes import count_cores

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG2000", "AVIF")
"""Formats that are decoded, whatever the file's suffix; none of them runs another program, as PostScript does.

A Pillow built without the decoder of a format raises an error."""

Progress = Callable[[int, int], None]
"""Called with the number done and the number in all."""
Bars = Callable[[str], Progress]
"""Called with a label, returns a ``Progress``."""

log = logging.getLogger(__name__)
_LAYOUT = 2  # of the cached files
_AHEAD = 256  # images that are decoded before the one that is written
_SAMPLED = 16  # files whose content is part of a cache's name
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what makes the image upright; the quarter turns come last."""
_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}

# Images above Pillow's limit are refused here; its warning would be a second line.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Of damaged EXIF data, which change no pixel.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image and read its header.

    Raises ``InputError`` with the file's name if it is missing, no regular file (such as a pipe) or no image, has more
    pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, or fails to decode within the block.
    """
    _require_content(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS or np.inf
            if image.width * image.height > limit:
                raise ValueError(f"its {image.width:,} x {image.height:,} pixels are over the limit of {limit:,}")
            yield image
    except InputError:
        raise
    except Exception as error:  # a damaged file can make Pillow's decoders raise anything
        reason = str(error).replace(str(path), "the file") or type(error).__name__
        raise InputError(f"{path} does not decode as an image ({reason}); replace or remove it") from None


def read_image(path: Path, *, height: int, width: int) -> np.ndarray:
    """Return one image as (H, W, 3) uint8, upright, RGB, resized bilinearly; ``InputError`` where it does not decode.

    Grey, palette and CMYK images are converted, 16 bits are rounded to 8, alpha is laid over white, and the EXIF
    orientation is applied, if it can be read; of several frames the first is read.
    """
    with open_image(path) as image:
        turned = _read_orientation(image) >= 5
        image.draft("RGB", (2 * height, 2 * width) if turned else (2 * width, 2 * height))
        image.load()  # which makes a TIFF upright
        turn = _TURNS.get(_read_orientation(image))
        upright = _convert_to_rgb(image if turn is None else image.transpose(turn), image.format)
        return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))


def find_image_fault(path: Path) -> str | None:
    """Return the reason why ``read_image`` refuses a file, or None; JPEG files are decoded fully, at a lower scale."""
    try:
        read_image(path, height=32, width=32)
    except InputError as error:
        return str(error).removeprefix(f"{path} ")
    return None


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where it cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
        return orientation if orientation in _TURNS else 1
    except Exception:  # damaged EXIF data can make Pillow's parser raise anything
        return 1


def _require_content(path: Path) -> None:
    status = get_status(path)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise InputError(f"{path} is {what}, expected an image file; remove it")
    if not status.st_size:
        raise InputError(f"{path} does not decode as an image (it has 0 bytes); replace or remove it")


def _convert_to_rgb(image: Image.Image, format: str | None) -> Image.Image:
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel, in an unknown range; save it with 8 or 16")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def open_image_cache(
    root: Path,
    paths: Sequence[str],
    *,
    height: int,
    width: int,
    folder: Path,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the images ``root / path`` resized to ``height`` x ``width``, as a read-only memory map (N, H, W, 3).

    The first call decodes them into a file of ``folder``, whose name holds a hash of the listing (paths, sizes, times
    of change), of the content of a few files, and of the size; later calls open that file. An interrupted call leaves
    no valid file.

    Raises ``InputError`` with the name of an image that is missing or does not decode.
    """
    shape = (len(paths), height, width, 3)
    file = folder / f"{_make_key(root, paths, shape)}.uint8"
    size = int(np.prod(shape))
    if not file.is_file() or file.stat().st_size != size:
        if file.is_file():
            log.warning("%s is truncated; decoding its images again", file)
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise InputError(
                f"the decoded images need {size / 2**20:,.0f} MiB in {folder}, only {free / 2**20:,.0f} MiB are free; "
                "set data.cache to a folder on a disk with room, or lower data.height and data.width"
            )
        _decode_all(root, paths, shape, file, progress)
    return np.memmap(file, dtype=np.uint8, mode="r", shape=shape)


def _make_key(root: Path, paths: Sequence[str], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(json.dumps([_LAYOUT, shape]).encode())
    for path in paths:
        status = get_status(root / path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    for path in paths[:: max(1, len(paths) // _SAMPLED)]:
        digest.update(_read_start(root / path))
    return digest.hexdigest()[:24]


def _read_start(path: Path) -> bytes:
    """Return the first MiB of a file; nothing of one that cannot be read, which decoding names."""
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(2**20)
    except OSError:
        return b""


def _decode_all(
    root: Path, paths: Sequence[str], shape: tuple[int, int, int, int], file: Path, progress: Progress | None
) -> None:
    pool = ThreadPoolExecutor(count_cores())
    try:
        with atomic_path(file) as temporary, temporary.open("wb") as target:
            waiting: deque[Future[np.ndarray]] = deque()
            for i in range(len(paths) + _AHEAD):  # at most as many wait for the disk
                if i < len(paths):
                    waiting.append(pool.submit(read_image, root / paths[i], height=shape[1], width=shape[2]))
                if i >= _AHEAD and waiting:
                    target.write(waiting.popleft().result().tobytes())
                    if progress:
                        progress(i - _AHEAD + 1, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
