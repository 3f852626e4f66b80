"""Patterned cloth: a canvas-sized image to be cut out in a garment's shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dcs_nas.data.synthetic.canvas import Fill
from dcs_nas.data.synthetic.identity import Colour, Garment


@dataclass(frozen=True)
class _Cloth:
    """Pattern in canvas pixels: ``x``, ``y`` is a fixed point of it, the periods are its size."""

    draw: ImageDraw.ImageDraw
    size: tuple[int, int]
    colour: Colour
    x: float
    y: float
    x_period: float
    y_period: float

    def columns(self) -> list[float]:
        return _steps(self.x, self.x_period, self.size[0])

    def rows(self) -> list[float]:
        return _steps(self.y, self.y_period, self.size[1])


def make_cloth(
    garment: Garment, size: tuple[int, int], fixed: tuple[float, float], scale: float, squeeze: float
) -> Fill:
    """The garment's colour if it is plain, otherwise its pattern.

    Args:
        garment: what is worn.
        size: of the canvas, in pixels.
        fixed: the middle of the garment, in canvas pixels; colour blocks change there.
        scale: canvas pixels per body height.
        squeeze: how narrow the pattern looks, 1 from the front, less from the side.
    """
    paint = _PAINTERS.get(garment.pattern)
    if paint is None:
        return garment.colour
    image = Image.new("RGB", size, garment.colour)
    period = max(2.0, garment.period * scale)
    paint(_Cloth(ImageDraw.Draw(image), size, garment.pattern_colour, *fixed, max(2.0, period * squeeze), period))
    return image


def _steps(fixed: float, period: float, end: float) -> list[float]:
    """Positions from below 0 to ``end``, a whole number of periods from ``fixed``."""
    first = fixed % period - period
    return [first + period * i for i in range(int((end - first) / period) + 1)]


def _horizontal(cloth: _Cloth) -> None:
    for y in cloth.rows():
        cloth.draw.rectangle((0, y, cloth.size[0], y + cloth.y_period * 0.45), fill=cloth.colour)


def _vertical(cloth: _Cloth) -> None:
    for x in cloth.columns():
        cloth.draw.rectangle((x, 0, x + cloth.x_period * 0.4, cloth.size[1]), fill=cloth.colour)


def _checks(cloth: _Cloth) -> None:
    """Every second square; the parity counts from the fixed point, so that it moves with the figure."""
    for y in cloth.rows():
        for x in cloth.columns():
            if (round((y - cloth.y) / cloth.y_period) + round((x - cloth.x) / cloth.x_period)) % 2:
                cloth.draw.rectangle((x, y, x + cloth.x_period, y + cloth.y_period), fill=cloth.colour)


def _dots(cloth: _Cloth) -> None:
    rx, ry = 0.32 * cloth.x_period, 0.32 * cloth.y_period
    for y in cloth.rows():
        for x in cloth.columns():
            cloth.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=cloth.colour)


def _block(cloth: _Cloth) -> None:
    cloth.draw.rectangle((0, cloth.y, *cloth.size), fill=cloth.colour)


_PAINTERS: dict[str, Callable[[_Cloth], None]] = {
    "horizontal stripes": _horizontal,
    "vertical stripes": _vertical,
    "checks": _checks,
    "dots": _dots,
    "colour block": _block,
}
