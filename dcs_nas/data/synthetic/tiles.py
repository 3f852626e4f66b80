"""A second kind of subject: upright panels of coloured tiles, which differ in colours, motifs and arrangement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dcs_nas.data.synthetic.canvas import Canvas, Frame, Position, ellipse
from dcs_nas.data.synthetic.identity import Colour

_COLOURS: tuple[Colour, ...] = (
    (178, 52, 44), (52, 92, 160), (64, 128, 74), (206, 170, 60), (230, 226, 216), (44, 44, 50), (130, 76, 128),
    (196, 120, 60), (90, 160, 170), (126, 98, 76),
)  # fmt: skip
_MOTIFS = ("plain", "disc", "diamond", "bar", "corner")
_WIDTH, _TURN = 0.34, 0.9


@dataclass(frozen=True)
class Panel:
    """An identity: per row and column the tile's colour, its motif and the motif's colour."""

    tiles: tuple[tuple[tuple[Colour, str, Colour], ...], ...]


def sample_panel(rng: np.random.Generator) -> Panel:
    """Draw an identity: few colours, which other panels share, on a grid of 4 to 6 rows and 2 or 3 columns."""
    palette = [_COLOURS[i] for i in rng.permutation(len(_COLOURS))[: rng.integers(3, 5)]]
    rows, columns = int(rng.integers(4, 7)), int(rng.integers(2, 4))

    def tile() -> tuple[Colour, str, Colour]:
        ground, motif = rng.permutation(len(palette))[:2]
        return palette[ground], _MOTIFS[rng.integers(len(_MOTIFS))], palette[motif]

    return Panel(tuple(tuple(tile() for _ in range(columns)) for _ in range(rows)))


def draw_panel(canvas: Canvas, panel: Panel, yaw: float, frame: Frame) -> None:
    """Paint a panel, of height 1 in ``frame``, turned about its upright axis by up to 52 degrees, by its ``yaw``."""
    turn = _TURN * math.sin(yaw)

    def place(u: float, v: float) -> Position:
        """Return a point of the panel, u from -1 to 1 across and v from 0 to 1 down, in perspective."""
        nearness = 1 + 0.25 * u * math.sin(turn)
        return 0.5 * _WIDTH * 1.6 * u * math.cos(turn), 0.5 + (v - 0.5) * nearness

    rows, columns = len(panel.tiles), len(panel.tiles[0])
    for i, row in enumerate(panel.tiles):
        for j, (ground, motif, colour) in enumerate(row):
            for fill, outline in ((ground, _SQUARE), *((colour, part) for part in _motif(motif))):
                points = [place(2 * (j + u) / columns - 1, (i + v) / rows) for u, v in outline]
                canvas.polygon(frame.place(points), fill, edge=0.004 * frame.scale, subject=True)


_SQUARE: list[Position] = [(0, 0), (1, 0), (1, 1), (0, 1)]


def _motif(name: str) -> Iterator[list[Position]]:
    """Yield the outlines of a motif on a tile from (0, 0) to (1, 1)."""
    if name == "disc":
        yield ellipse((0.5, 0.5), 0.32, 0.32)
    elif name == "diamond":
        yield [(0.5, 0.1), (0.9, 0.5), (0.5, 0.9), (0.1, 0.5)]
    elif name == "bar":
        yield [(0.0, 0.35), (1.0, 0.35), (1.0, 0.65), (0.0, 0.65)]
    elif name == "corner":
        yield [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
