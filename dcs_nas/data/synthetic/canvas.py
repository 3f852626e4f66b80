"""An enlarged canvas: shapes are drawn without anti-aliasing, and shrinking the canvas smooths them.

Positions are in units of the caller's choice (body heights for a figure), mapped by ``Frame`` to canvas pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dcs_nas.data.synthetic.identity import Colour

SUPERSAMPLING = 3
Position = tuple[float, float]
Fill = Colour | Image.Image
_SHADOW: Colour = (60, 58, 56)
_STEPS = 16
_HALF_CIRCLE = [(math.cos(a), math.sin(a)) for a in (math.pi * (i / 6 - 0.5) for i in range(7))]


@dataclass(frozen=True)
class Frame:
    """Maps (u, v) to canvas pixels: ``left + scale * u``, ``top + scale * v``."""

    left: float
    top: float
    scale: float

    def place(self, points: Sequence[Position]) -> list[Position]:
        """Return the points in canvas pixels."""
        return [(self.left + self.scale * u, self.top + self.scale * v) for u, v in points]


class Canvas:
    """A picture under construction and the mask of its subject, both ``SUPERSAMPLING`` times enlarged."""

    def __init__(self, background: Image.Image) -> None:
        self.image = background
        self.mask = Image.new("L", background.size)
        self._draw = ImageDraw.Draw(self.image)
        self._draw_mask = ImageDraw.Draw(self.mask)

    def polygon(self, points: Sequence[Position], fill: Fill, *, edge: float = 0.0, subject: bool = False) -> None:
        """Fill a polygon, given in canvas pixels.

        Args:
            points: the corners.
            fill: a colour, or a texture of the canvas's size, which is copied at the same place.
            edge: width of a shadow around the polygon, in canvas pixels.
            subject: whether it belongs to the subject of the picture, or hides it.
        """
        if edge > 0:
            shadow = _SHADOW if isinstance(fill, Image.Image) else darker(fill, 0.72)
            self._draw.line([*points, points[0]], fill=shadow, width=round(2 * edge))
        if isinstance(fill, Image.Image):
            self._paste(points, fill)
        else:
            self._draw.polygon(points, fill=fill)
        self._draw_mask.polygon(points, fill=255 if subject else 0)

    def _paste(self, points: Sequence[Position], texture: Image.Image) -> None:
        left, top = (max(0, math.floor(min(p[axis] for p in points))) for axis in (0, 1))
        right, bottom = (min(self.image.size[axis], math.ceil(max(p[axis] for p in points)) + 1) for axis in (0, 1))
        if left >= right or top >= bottom:
            return
        stencil = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(stencil).polygon([(x - left, y - top) for x, y in points], fill=255)
        self.image.paste(texture.crop((left, top, right, bottom)), (left, top), stencil)

    def shrink(self) -> tuple[Image.Image, Image.Image]:
        """Return the anti-aliased picture and mask."""
        return self.image.reduce(SUPERSAMPLING), self.mask.reduce(SUPERSAMPLING)


def ellipse(centre: Position, rx: float, ry: float, start: float = 0.0, end: float = 2 * math.pi) -> list[Position]:
    """Return points on an ellipse from angle ``start`` to ``end``; angles turn from the right downwards."""
    u, v = centre
    angles = [start + (end - start) * i / _STEPS for i in range(_STEPS + 1)]
    return [(u + rx * math.cos(a), v + ry * math.sin(a)) for a in angles]


def capsule(a: Position, radius_a: float, b: Position, radius_b: float) -> list[Position]:
    """Return the outline around two discs: a tapered limb."""
    along_u, along_v = b[0] - a[0], b[1] - a[1]
    length = math.hypot(along_u, along_v) or 1.0
    along_u, along_v = along_u / length, along_v / length
    return _cap(b, radius_b * along_u, radius_b * along_v) + _cap(a, -radius_a * along_u, -radius_a * along_v)


def open_capsule(a: Position, radius_a: float, b: Position, radius_b: float) -> list[Position]:
    """Return a limb that ends straight at ``b``: a sleeve or a trouser leg with its hem."""
    outline = capsule(a, radius_a, b, radius_b)
    middle = len(_HALF_CIRCLE)
    return [outline[0], outline[middle - 1], *outline[middle:]]


def _cap(centre: Position, du: float, dv: float) -> list[Position]:
    """Return the half circle around ``centre`` that bulges by (du, dv)."""
    u, v = centre
    return [(u + c * du - s * dv, v + s * du + c * dv) for c, s in _HALF_CIRCLE]


def box(centre: Position, half_width: float, half_height: float) -> list[Position]:
    """Return a rectangle with cut corners."""
    (u, v), cut = centre, 0.25 * min(half_width, half_height)
    w, h = half_width, half_height
    right = [(u + w - cut, v - h), (u + w, v - h + cut), (u + w, v + h - cut), (u + w - cut, v + h)]
    return right + [(2 * u - x, y) for x, y in reversed(right)]


def darker(colour: Colour, factor: float) -> Colour:
    """Return the colour times this factor."""
    red, green, blue = (min(255, int(c * factor)) for c in colour)
    return red, green, blue
