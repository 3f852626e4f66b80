"""Pictures as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dcs_nas.data.images import open_image

_LARGEST_SIDE = 16_000  # pixels, just under WebP's own limit


@dataclass(frozen=True)
class Picture:
    """A picture for a light page and, where there is one, another for a dark page; ``alt`` describes it."""

    light: str
    alt: str
    dark: str = ""
    caption: str = ""


def encode_svg(content: bytes) -> str:
    """Return an SVG; as an image it neither runs scripts nor loads anything."""
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii")


def encode_picture(picture: Image.Image) -> str:
    """Return pixels as WebP, the smallest that every browser reads."""
    stream = io.BytesIO()
    if max(picture.size) > _LARGEST_SIDE:
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    picture.convert("RGB").save(stream, format="WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def paint_both_themes(paint: Callable[[str], bytes], alt: str, caption: str = "") -> Picture:
    """Return the SVG that ``paint`` makes for the theme ``light`` and for ``dark``."""
    return Picture(encode_svg(paint("light")), alt, encode_svg(paint("dark")), caption)


def read_picture(path: Path) -> str:
    """Return a picture file as it is in the page: PNG as WebP, SVG unchanged."""
    if path.suffix == ".svg" and path.is_file():
        return encode_svg(path.read_bytes())
    with open_image(path) as picture:
        return encode_picture(picture)
