"""Other people's image files: judged by content, not by name; refused from the header; upright 8-bit RGB pixels.

H height, W width in pixels.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dcs_nas.data.datasets.files import reason_of
from dcs_nas.errors import InputError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG2000", "AVIF")
"""What is decoded, whatever the name ends in; none of them runs another program, as PostScript does.

A Pillow that was built without a format's decoder says so."""

_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)
_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}

# Images of more than Pillow's limit are refused here; its warning besides would be a second line.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image of which only the header is read so far.

    Raises ``InputError`` naming the file: one that is missing, no plain file (a pipe is never waited for), no image, of
    more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, or one that fails to decode within the block.
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
    except Exception as error:  # a damaged file leads Pillow's many decoders to exceptions of any kind
        reason = str(error).replace(str(path), "the file") or type(error).__name__
        raise InputError(f"{path} does not decode as an image ({reason}); replace or remove it") from None


def read_image(path: Path, *, height: int, width: int) -> np.ndarray:
    """One image as (H, W, 3) uint8, upright, RGB, resized bilinearly; ``InputError`` where it does not decode.

    Grey, palette and CMYK images are converted, 16 bits rounded to 8, alpha laid over white, the EXIF orientation
    applied; of several frames the first is taken.
    """
    with opened(path) as image:
        turned = image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
        image.draft("RGB", (2 * height, 2 * width) if turned else (2 * width, 2 * height))
        upright = _rgb(ImageOps.exif_transpose(image), image.format)
        return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))


def image_fault(path: Path) -> str | None:
    """Why ``read_image`` would refuse a file, or None; JPEG files are decoded at a lower scale, to their end."""
    try:
        read_image(path, height=32, width=32)
    except InputError as error:
        return str(error).removeprefix(f"{path} ")
    return None


def _require_content(path: Path) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path} is listed, but there is no such file; list the folder again") from None
    except OSError as error:  # links in a circle, no permission
        raise InputError(f"{path} cannot be read ({reason_of(error)}); replace or remove it") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise InputError(f"{path} is {what}, expected an image file; remove it")
    if not found.st_size:
        raise InputError(f"{path} does not decode as an image (it has 0 bytes); replace or remove it")


def _rgb(image: Image.Image, format: str | None) -> Image.Image:
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel, in a range that the file does not tell; save it with 8 or 16")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
