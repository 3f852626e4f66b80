"""The surroundings of a pedestrian: a background for every camera, and occluders.

Every camera has its own scene, a wide picture of which each image shows a part.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dcs_nas.data.synthetic.body import draw_pedestrian
from dcs_nas.data.synthetic.canvas import SUPERSAMPLING, Canvas, Frame, Position, box, ellipse
from dcs_nas.data.synthetic.identity import Colour, sample_looks
from dcs_nas.data.synthetic.pose import sample_pose

_GROUNDS: tuple[Colour, ...] = ((134, 131, 127), (127, 126, 126), (139, 135, 130), (130, 127, 122), (122, 123, 124))
_WALLS: tuple[Colour, ...] = ((160, 154, 144), (138, 108, 96), (124, 126, 132), (168, 162, 154), (108, 104, 102))
_LEAVES: tuple[Colour, ...] = ((82, 98, 68), (94, 108, 74), (70, 86, 64), (106, 112, 78))
WIDTHS, HEIGHTS = 5.0, 1.25


class _Sketch:
    """A scene under construction; lengths are in image heights, from the left and from the top."""

    def __init__(self, size: tuple[int, int], horizon: float, rng: np.random.Generator) -> None:
        self.unit = size[1] / HEIGHTS
        self.width, self.height, self.horizon = size[0] / self.unit, HEIGHTS, horizon
        self.image, self.rng = Image.new("RGB", size), rng
        self.draw = ImageDraw.Draw(self.image)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Paint a rectangle; nothing where its right or bottom edge lies before the left or top one."""
        if right >= left and bottom >= top:
            self.draw.rectangle([self.unit * v for v in (left, top, right, bottom)], fill=colour)

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        scaled = [(self.unit * x, self.unit * y) for x, y in points]
        self.draw.line(scaled, fill=colour, width=max(1, round(width * self.unit)))

    def blob(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.draw.polygon([(self.unit * u, self.unit * v) for u, v in ellipse((x, y), radius, radius)], fill=colour)

    def pick(self, colours: tuple[Colour, ...]) -> Colour:
        red, green, blue = (int(c + self.rng.integers(-9, 10)) for c in colours[self.rng.integers(len(colours))])
        return red, green, blue


def make_scene(kind: int, horizon: float, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Return a panorama for pictures of ``width`` x ``height``, enlarged by ``SUPERSAMPLING``.

    Args:
        kind: the kind of place, any number; kinds repeat.
        horizon: the start of the ground, in picture heights from the top of the panorama.
        width: of the pictures taken of it, in pixels.
        height: of the pictures taken of it, in pixels.
        rng: draws all details.
    """
    size = (round(WIDTHS * width * SUPERSAMPLING), round(HEIGHTS * height * SUPERSAMPLING))
    sketch = _Sketch(size, horizon, rng)
    sketch.rectangle(0, 0, sketch.width, horizon, sketch.pick(_WALLS))
    sketch.rectangle(0, horizon, sketch.width, HEIGHTS, sketch.pick(_GROUNDS))
    _BACKDROPS[kind % len(_BACKDROPS)](sketch)
    _FLOORS[kind % len(_FLOORS)](sketch)
    return _weather(sketch.image, rng).filter(ImageFilter.GaussianBlur(0.6 * SUPERSAMPLING))


def _weather(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image with uneven light and fine grain."""
    pixels = np.asarray(image, dtype=np.float32)
    light = 1 + 0.7 * (_clouds(rng, image.size, 12) - 0.5) + 0.2 * (_clouds(rng, image.size, 200) - 0.5)
    return Image.fromarray(np.clip(pixels * light[:, :, None], 0, 255).astype(np.uint8))


def _clouds(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    coarse = rng.integers(0, 256, (max(2, cells // 3), cells), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _shop_windows(sketch: _Sketch) -> None:
    rng, x, frame = sketch.rng, 0.05, sketch.pick(_WALLS)
    top, bottom = 0.06 * sketch.horizon, 0.88 * sketch.horizon
    while x < sketch.width:
        wide = rng.uniform(0.18, 0.4)
        sketch.rectangle(x - 0.015, top - 0.015, x + wide + 0.015, bottom + 0.015, frame)
        sketch.rectangle(x, top, x + wide, bottom, sketch.pick(((52, 60, 72), (96, 104, 112), (180, 170, 130))))
        for _ in range(rng.integers(1, 5)):
            at, high = x + rng.uniform(0, 0.7) * wide, rng.uniform(0.05, 0.4) * sketch.horizon
            sketch.rectangle(at, bottom - high, at + 0.2 * wide, bottom, sketch.pick(_WALLS + _LEAVES))
        x += wide + rng.uniform(0.05, 0.15)


def _foliage(sketch: _Sketch) -> None:
    rng = sketch.rng
    sketch.rectangle(0, 0, sketch.width, 0.25 * sketch.horizon, (176, 186, 194))
    for _ in range(180):
        x, y = rng.uniform(0, sketch.width), rng.uniform(0.05, 0.85) * sketch.horizon
        sketch.blob(x, y, rng.uniform(0.02, 0.09), sketch.pick(_LEAVES))
    for _ in range(5):
        x = rng.uniform(0, sketch.width)
        sketch.rectangle(x, 0.2 * sketch.horizon, x + 0.035, 1.05 * sketch.horizon, (74, 60, 48))


def _bricks(sketch: _Sketch) -> None:
    high, mortar = sketch.rng.uniform(0.035, 0.06), sketch.pick(_WALLS)
    for row in range(int(sketch.horizon / high) + 1):
        y = row * high
        sketch.line([(0, y), (sketch.width, y)], 0.004, mortar)
        for column in range(int(sketch.width / (2.4 * high)) + 1):
            x = (column + 0.5 * (row % 2)) * 2.4 * high
            sketch.line([(x, y), (x, min(y + high, sketch.horizon))], 0.004, mortar)


def _facade(sketch: _Sketch) -> None:
    """Paint a building of glass: panes between mullions, some lit."""
    wide, high = sketch.rng.uniform(0.1, 0.16), sketch.rng.uniform(0.14, 0.24)
    for x in np.arange(0, sketch.width, wide):
        for y in np.arange(0, sketch.horizon, high):
            pane = sketch.pick(((84, 100, 116), (70, 84, 100), (122, 136, 146)))
            sketch.rectangle(x + 0.008, y + 0.008, x + wide - 0.008, min(y + high, sketch.horizon) - 0.008, pane)


def _fence(sketch: _Sketch) -> None:
    """Paint a hedge behind a railing, with parked cars."""
    rng = sketch.rng
    for _ in range(120):
        x, y = rng.uniform(0, sketch.width), rng.uniform(0.3, 0.9) * sketch.horizon
        sketch.blob(x, y, rng.uniform(0.02, 0.06), sketch.pick(_LEAVES))
    for x in np.arange(0.1, sketch.width, 0.9):
        at, paint = x + rng.uniform(0, 0.3), sketch.pick(((40, 42, 50), (190, 190, 190), (120, 40, 40), (60, 80, 110)))
        sketch.rectangle(at, 0.62 * sketch.horizon, at + 0.5, 0.95 * sketch.horizon, paint)
        sketch.rectangle(at + 0.1, 0.45 * sketch.horizon, at + 0.4, 0.64 * sketch.horizon, (70, 78, 88))
    for x in np.arange(0, sketch.width, 0.07):
        sketch.line([(x, 0.5 * sketch.horizon), (x, sketch.horizon)], 0.008, (88, 88, 92))
    sketch.line([(0, 0.5 * sketch.horizon), (sketch.width, 0.5 * sketch.horizon)], 0.014, (88, 88, 92))


def _tiles(sketch: _Sketch) -> None:
    """Paint joints that run to a vanishing point above the horizon."""
    middle, joint = sketch.width / 2, sketch.pick(((110, 106, 100), (150, 146, 140)))
    for x in np.arange(-sketch.width, 2 * sketch.width, 0.22):
        near = middle + 2.2 * (x - middle)
        sketch.line([(x, sketch.horizon), (near, sketch.height)], 0.005, joint)
    gap, y = 0.03, sketch.horizon
    while y < sketch.height:
        sketch.line([(0, y), (sketch.width, y)], 0.005, joint)
        y, gap = y + gap, 1.35 * gap


def _kerb(sketch: _Sketch) -> None:
    """Paint grass, a kerb and the road."""
    top = sketch.horizon + 0.2 * (sketch.height - sketch.horizon)
    sketch.rectangle(0, sketch.horizon, sketch.width, top, sketch.pick(_LEAVES))
    sketch.rectangle(0, top, sketch.width, top + 0.025, (186, 182, 174))


def _markings(sketch: _Sketch) -> None:
    """Paint the white bands of a crossing."""
    for x in np.arange(sketch.rng.uniform(0, 0.3), sketch.width, 0.42):
        low, high = sketch.horizon + 0.1, sketch.height
        corners = [(x, low), (x + 0.1, low), (x + 0.02, high), (x - 0.14, high)]
        sketch.draw.polygon([(sketch.unit * u, sketch.unit * v) for u, v in corners], fill=(196, 194, 188))


def _plain(sketch: _Sketch) -> None:
    """Paint asphalt with stains."""
    for _ in range(40):
        x, y = sketch.rng.uniform(0, sketch.width), sketch.rng.uniform(sketch.horizon, sketch.height)
        shade = int(sketch.rng.integers(80, 130))
        sketch.line([(x, y), (x + sketch.rng.uniform(0.02, 0.2), y)], 0.008, (shade, shade, shade))


_BACKDROPS: tuple[Callable[[_Sketch], None], ...] = (_shop_windows, _foliage, _bricks, _facade, _fence)
_FLOORS: tuple[Callable[[_Sketch], None], ...] = (_tiles, _kerb, _plain, _markings)


_PAINTS: tuple[Colour, ...] = ((58, 60, 62), (120, 122, 124), (40, 76, 58), (150, 60, 44), (172, 168, 160))


def draw_occluder(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a pole, a bin, a bicycle or part of another pedestrian over the picture."""
    _OCCLUDERS[rng.integers(len(_OCCLUDERS))](canvas, rng)


def _pole(canvas: Canvas, rng: np.random.Generator) -> None:
    width, height = canvas.image.size
    half, x = rng.uniform(0.03, 0.07) * width, rng.uniform(0.1, 0.9) * width
    canvas.polygon([(x - half, 0), (x + half, 0), (x + half, height), (x - half, height)], _paint(rng), edge=2.0)


def _bin(canvas: Canvas, rng: np.random.Generator) -> None:
    width, height = canvas.image.size
    half, high = rng.uniform(0.15, 0.28) * width, rng.uniform(0.12, 0.2) * height
    x = rng.uniform(0.0, 1.0) * width
    paint = _paint(rng)
    canvas.polygon(box((x, height - 0.6 * high), half, high), paint, edge=3.0)
    canvas.polygon(box((x, height - 1.6 * high), 1.1 * half, 0.12 * high), paint, edge=3.0)


def _bicycle(canvas: Canvas, rng: np.random.Generator) -> None:
    width, height = canvas.image.size
    scale, paint = rng.uniform(0.17, 0.24) * height, _paint(rng)
    at = Frame(rng.uniform(0.0, 1.0) * width, height * rng.uniform(0.84, 0.92), scale)
    rear, front, saddle, bar, crank = (-0.8, 0.0), (0.8, 0.0), (-0.35, -0.85), (0.55, -0.95), (-0.1, 0.05)
    for hub in (rear, front):
        _stroke(canvas, at.place(ellipse(hub, 0.5, 0.5)), 0.07 * scale, (30, 30, 32))
    for a, b in ((rear, saddle), (rear, crank), (saddle, crank), (crank, bar), (bar, front), (saddle, bar)):
        _stroke(canvas, at.place([a, b]), 0.08 * scale, paint)


def _stroke(canvas: Canvas, points: list[Position], width: float, colour: Colour) -> None:
    """Paint a broad line as a chain of quadrilaterals."""
    for (x0, y0), (x1, y1) in pairwise(points):
        length = max(1e-6, float(np.hypot(x1 - x0, y1 - y0)))
        dx, dy = 0.5 * width * (y1 - y0) / length, 0.5 * width * (x0 - x1) / length
        canvas.polygon([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)], colour)


def _passer_by(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint another pedestrian, mostly beyond the edge of the picture."""
    width, height = canvas.image.size
    frame = Frame(width * float(rng.choice((0.02, 0.98))), 0.1 * height, rng.uniform(0.85, 1.1) * height)
    draw_pedestrian(canvas, sample_looks(rng), sample_pose(rng, rng.uniform(-3.1, 3.1)), 0.1, frame, subject=False)


def _paint(rng: np.random.Generator) -> Colour:
    return _PAINTS[rng.integers(len(_PAINTS))]


_OCCLUDERS: tuple[Callable[[Canvas, np.random.Generator], None], ...] = (_pole, _bin, _bicycle, _passer_by)
