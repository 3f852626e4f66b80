"""Things that stand between the camera and the person."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from dcs_nas.data.synthetic.canvas import Canvas, Frame, Position, box, ellipse
from dcs_nas.data.synthetic.figure import draw_person
from dcs_nas.data.synthetic.identity import Colour, sample_looks
from dcs_nas.data.synthetic.pose import sample_pose

_PAINTS: tuple[Colour, ...] = ((58, 60, 62), (120, 122, 124), (40, 76, 58), (150, 60, 44), (172, 168, 160))


def draw_occluder(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints a pole, a bin, a bicycle or part of another person over the picture."""
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
    """A broad line as a chain of quadrilaterals."""
    for (x0, y0), (x1, y1) in pairwise(points):
        length = max(1e-6, float(np.hypot(x1 - x0, y1 - y0)))
        dx, dy = 0.5 * width * (y1 - y0) / length, 0.5 * width * (x0 - x1) / length
        canvas.polygon([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)], colour)


def _passer_by(canvas: Canvas, rng: np.random.Generator) -> None:
    """Another person, mostly beyond the edge of the picture."""
    width, height = canvas.image.size
    frame = Frame(width * float(rng.choice((0.02, 0.98))), 0.1 * height, rng.uniform(0.85, 1.1) * height)
    draw_person(canvas, sample_looks(rng), sample_pose(rng, rng.uniform(-3.1, 3.1)), 0.1, frame, person=False)


def _paint(rng: np.random.Generator) -> Colour:
    return _PAINTS[rng.integers(len(_PAINTS))]


_OCCLUDERS: tuple[Callable[[Canvas, np.random.Generator], None], ...] = (_pole, _bin, _bicycle, _passer_by)
