"""Patterned cloth, hats and bags.

Cloth is a canvas-sized image, which is cut out in a garment's shape. A backpack is visible from behind, its straps from
the front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dcs_nas.data.synthetic.canvas import Fill, darker, ellipse
from dcs_nas.data.synthetic.identity import Colour, Garment
from dcs_nas.data.synthetic.pose import Figure, Part, Point


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
    """Return the garment's colour if it is plain, otherwise its pattern.

    Args:
        garment: its kind, colours and pattern.
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
    """Return positions from below 0 to ``end``, a whole number of periods from ``fixed``."""
    first = fixed % period - period
    return [first + period * i for i in range(int((end - first) / period) + 1)]


def _horizontal(cloth: _Cloth) -> None:
    for y in cloth.rows():
        cloth.draw.rectangle((0, y, cloth.size[0], y + cloth.y_period * 0.45), fill=cloth.colour)


def _vertical(cloth: _Cloth) -> None:
    for x in cloth.columns():
        cloth.draw.rectangle((x, 0, x + cloth.x_period * 0.4, cloth.size[1]), fill=cloth.colour)


def _checks(cloth: _Cloth) -> None:
    """Paint every second square, counted from the fixed point, so that the pattern moves with the figure."""
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
    if cloth.y <= cloth.size[1]:  # otherwise the garment's middle lies below the picture
        cloth.draw.rectangle((0, cloth.y, *cloth.size), fill=cloth.colour)


_PAINTERS: dict[str, Callable[[_Cloth], None]] = {
    "horizontal stripes": _horizontal,
    "vertical stripes": _vertical,
    "checks": _checks,
    "dots": _dots,
    "colour block": _block,
}


_ON_HEAD, _ON_TORSO, _OVER_ARMS = 0.16, 0.006, 0.08


def make_hat(figure: Figure) -> Iterator[Part]:
    """Yield a dome on the crown, with a peak at the front (cap) or a brim all around (brim hat)."""
    worn, half = figure.looks.hat, figure.looks.build.head / 2
    if worn.kind == "none":
        return
    band = figure.skeleton.chin - 1.2 * half
    width = figure.view.half_width(0.84 * half, 0.88 * half)
    height = (1.2 if worn.kind == "beanie" else 0.95) * half
    dome = ellipse(figure.view.project((0.0, band, -0.006)), width, height, math.pi, 2 * math.pi)
    yield Part(_ON_HEAD, dome, worn.colour)
    if worn.kind == "cap":
        peak = (0.0, band + 0.002, 1.5 * half)
        yield figure.limb((0.0, band, 0.5 * half), 0.012, peak, 0.010, darker(worn.colour, 0.8), _ON_HEAD + 0.01)
    elif worn.kind == "brim hat":
        brim = ellipse(figure.view.project((0.0, band, 0.0)), 1.5 * half, 0.22 * half)
        yield Part(_ON_HEAD + 0.01, brim, darker(worn.colour, 0.85))
    else:
        yield figure.block(
            (0.0, band, 0.0), 0.88 * half, 0.9 * half, 0.2 * half, darker(worn.colour, 0.8), _ON_HEAD + 0.01
        )


def make_bag(figure: Figure) -> Iterator[Part]:
    """Yield the identity's bag, if any."""
    carried = {"backpack": _backpack, "shoulder bag": _shoulder_bag, "hand bag": _hand_bag}
    draw = carried.get(figure.looks.bag.kind)
    if draw is not None:
        yield from draw(figure)


def _backpack(figure: Figure) -> Iterator[Part]:
    worn, view, build, top = figure.looks.bag, figure.view, figure.looks.build, figure.skeleton.shoulder
    behind = -(0.9 * build.girth + 0.03)
    depth = _OVER_ARMS if view.front < 0 else -_OVER_ARMS
    height = 0.105 * worn.size
    centre = (0.0, top + 0.02 + height, behind)
    yield figure.block(centre, 0.085 * worn.size, 0.05 * worn.size, height, worn.colour, depth)
    pocket = (0.0, top + 0.02 + 1.45 * height, behind - 0.03)
    yield figure.block(
        pocket, 0.06 * worn.size, 0.03 * worn.size, 0.4 * height, darker(worn.colour, 0.75), depth + 0.001
    )
    if view.front > -0.3:
        for side in (-1, 1):
            yield from _backpack_strap(figure, side)


def _backpack_strap(figure: Figure, side: int) -> Iterator[Part]:
    build, top = figure.looks.build, figure.skeleton.shoulder
    x, chest = side * 0.55 * build.shoulders, 0.75 * build.girth
    path: list[Point] = [(x, top - 0.012, 0.0), (x, top + 0.04, chest), (1.15 * x, top + 0.16, 0.6 * chest)]
    if figure.view.depth(path[1]) > -0.01:
        yield figure.strap(path, 0.012, darker(figure.looks.bag.colour, 0.85), _ON_TORSO)


def _shoulder_bag(figure: Figure) -> Iterator[Part]:
    """Yield a bag at one hip and its strap over the other shoulder, across the chest or the back."""
    worn, view, build = figure.looks.bag, figure.view, figure.looks.build
    top, hip, side = figure.skeleton.shoulder, figure.skeleton.hip, figure.looks.bag.side
    surface = math.copysign(0.7 * build.girth, view.front)
    path: list[Point] = [
        (-side * 0.6 * build.shoulders, top - 0.01, 0.2 * surface),
        (0.0, (top + hip) / 2 - 0.02, surface),
        (side * 0.95 * build.hips, hip, 0.3 * surface),
    ]
    yield figure.strap(path, 0.011, darker(worn.colour, 0.85), _ON_TORSO)
    centre = (side * 1.3 * build.hips, hip + 0.04, 0.0)
    depth = _OVER_ARMS - 0.02 + 2 * view.depth(centre)
    yield figure.block(centre, 0.045 * worn.size, 0.075 * worn.size, 0.06 * worn.size, worn.colour, depth)
    flap = (centre[0], centre[1] - 0.03 * worn.size, 0.0)
    yield figure.block(
        flap, 0.047 * worn.size, 0.077 * worn.size, 0.03 * worn.size, darker(worn.colour, 0.8), depth + 0.001
    )


def _hand_bag(figure: Figure) -> Iterator[Part]:
    worn = figure.looks.bag
    x, y, z = figure.skeleton.arms[worn.side].end
    depth = _OVER_ARMS + figure.view.depth((x, y, z))
    centre = (x, y + 0.045 + 0.06 * worn.size, z)
    handle = ellipse(figure.view.project((x, y + 0.03, z)), 0.022, 0.05)
    yield Part(depth, handle, darker(worn.colour, 0.7))
    yield figure.block(centre, 0.04 * worn.size, 0.08 * worn.size, 0.055 * worn.size, worn.colour, depth + 0.001)
