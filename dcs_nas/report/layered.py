"""Where everything in a picture goes: a layered layout in which nothing overlaps.

Boxes stand in the columns of ``Picture.columns``. A wire over several columns has a place of its own in each of them
and bends only in the gaps between columns, so it cannot run across a box. Lengths are points, x to the right, y down.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from dcs_nas.report.ordering import Links, reduce_crossings
from dcs_nas.report.picture import Box, Picture, Wire

SIZE = 13  # of the text
LEADING = 14.5  # from line to line
ARROW = 6.0  # length of a wire's head
Point = tuple[float, float]
_GAP = 28.0  # between columns
_CLEAR = 11.0  # between neighbours in a column
_PORTS = 8.0  # between wires that end on the same side of a box
_SWEEPS = 120


@dataclass(frozen=True)
class Layout:
    """Centres and sizes of the boxes by key; per wire the corners of its way, flat inside columns, bent between."""

    centres: dict[str, Point]
    sizes: dict[str, Point]
    ways: list[list[Point]]
    width: float
    height: float


def text_width(text: str, size: float = SIZE) -> float:
    """About the width of ``text`` in a sans serif such as Helvetica, Arial or DejaVu Sans."""
    return size * sum(
        0.3 if c in "ijlftI.,'|- ()" else 0.86 if c in "mwMW@" else 0.7 if c.isupper() else 0.56 for c in text
    )


def box_size(box: Box) -> Point:
    """Width and height of a box with its text."""
    if box.role == "node":
        return 25.0, 25.0
    rows = [row.replace("_{", "").replace("}", "") for row in box.text()]
    return max(max(map(text_width, rows)) + 16, 30.0), LEADING * len(rows) + 10


def _sizes(picture: Picture) -> dict[str, Point]:
    """The boxes' sizes, with room for all wires that end on one side of them."""
    tails, heads = Counter(wire.tail for wire in picture.wires), Counter(wire.head for wire in picture.wires)
    sizes = {}
    for key, box in picture.boxes.items():
        width, height = box_size(box)
        most = max(tails[key], heads[key])
        sizes[key] = (width, height if box.role == "node" else max(height, 5.5 * (most - 1) + 12))
    return sizes


def layout(picture: Picture) -> Layout:
    """The layout of an acyclic picture; inputs and nodes of one column stand in their order.

    The same picture in another theme or figure has the same layout: it is computed once and not to be changed.
    """
    return _layout(tuple(picture.boxes.items()), tuple(picture.wires))


@lru_cache(maxsize=256)
def _layout(boxes: tuple[tuple[str, Box], ...], wires: tuple[Wire, ...]) -> Layout:
    picture = Picture("", dict(boxes), list(wires))
    sizes = _sizes(picture)
    grid = _grid(picture, sizes)
    y = _least_squares(grid)
    for _ in range(4):
        _straighten(grid, y)
    top = min(y[name] - grid.height(name) / 2 for name in y)
    y = {name: value - top for name, value in y.items()}
    edges = _column_edges(grid)
    centres = {key: (sum(edges[grid.column[key]]) / 2, y[key]) for key in sizes}
    height = max(y[name] + grid.height(name) / 2 for name in y)
    return Layout(centres, sizes, _ways(picture, grid, centres, y), edges[-1][1], height)


@dataclass(frozen=True)
class _Grid:
    """The places in their columns, in order: boxes by key, and what each wire takes on its way, ``<wire>@<column>``."""

    column: dict[str, int]
    layers: list[list[str]]
    chains: list[list[str]]  # per wire: tail, a place in every column between, head
    sizes: dict[str, Point]

    def height(self, name: str) -> float:
        return self.sizes[name][1] if name in self.sizes else 0.0

    def distance(self, upper: str, lower: str) -> float:
        """From centre to centre at least, between neighbours in a column."""
        return (self.height(upper) + self.height(lower)) / 2 + _CLEAR


def _grid(picture: Picture, sizes: dict[str, Point]) -> _Grid:
    column, layers, chains = picture.columns(), picture.layers(), []
    for i, wire in enumerate(picture.wires):
        between = range(column[wire.tail] + 1, column[wire.head])
        for k in between:
            layers[k].append(f"{i}@{k}")
            column[f"{i}@{k}"] = k
        chains.append([wire.tail, *(f"{i}@{k}" for k in between), wire.head])
    left: Links = {}
    right: Links = {}
    for a, b in (pair for chain in chains for pair in pairwise(chain)):
        right.setdefault(a, []).append(b)
        left.setdefault(b, []).append(a)
    fixed = {key: i for i, (key, box) in enumerate(picture.boxes.items()) if box.role in ("input", "node")}
    return _Grid(column, reduce_crossings(layers, left, right, fixed), chains, sizes)


def _least_squares(grid: _Grid) -> dict[str, float]:
    """The y of every place: least squares over the wires' rise, long wires straightest, neighbours apart."""
    links: dict[str, list[tuple[str, float]]] = {name: [] for name in grid.column}
    for a, b in (pair for chain in grid.chains for pair in pairwise(chain)):
        weight = (1.0, 2.0, 8.0)[("@" in a) + ("@" in b)]
        links[a].append((b, weight))
        links[b].append((a, weight))
    y: dict[str, float] = {}
    for layer in grid.layers:
        offsets = _offsets(layer, grid)
        y.update((name, offset - offsets[-1] / 2) for name, offset in zip(layer, offsets))
    for sweep in range(_SWEEPS):
        for layer in reversed(grid.layers) if sweep % 2 else grid.layers:
            offsets = _offsets(layer, grid)
            weights = [sum(w for _, w in links[name]) for name in layer]
            wanted = [sum(w * y[other] for other, w in links[name]) / t for name, t in zip(layer, weights)]
            free = nearest_rising([w - o for w, o in zip(wanted, offsets)], weights)
            y.update((name, value + offset) for name, value, offset in zip(layer, free, offsets))
    return y


def _offsets(layer: list[str], grid: _Grid) -> list[float]:
    """How far below the first place each of a column is at least."""
    offsets = [0.0]
    for upper, lower in pairwise(layer):
        offsets.append(offsets[-1] + grid.distance(upper, lower))
    return offsets


def nearest_rising(values: list[float], weights: list[float]) -> list[float]:
    """The non-decreasing sequence nearest in weighted least squares (pool adjacent violators).

    >>> nearest_rising([3.0, 1.0, 5.0], [1.0, 1.0, 1.0])
    [2.0, 2.0, 5.0]
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights):
        mean, mass, length = value, weight, 1
        while blocks and blocks[-1][0] > mean:
            above, heft, count = blocks.pop()
            mean, mass, length = (above * heft + mean * mass) / (heft + mass), heft + mass, count + length
        blocks.append((mean, mass, length))
    return [mean for mean, _, length in blocks for _ in range(length)]


def _straighten(grid: _Grid, y: dict[str, float]) -> None:
    """Give each wire one height over as many columns as the room between its neighbours allows."""
    for chain in sorted(grid.chains, key=len, reverse=True):
        start = 1
        while start < len(chain) - 1:
            low, high = _room(chain[start], grid, y)
            stop = start + 1
            while stop < len(chain) - 1:
                above, below = _room(chain[stop], grid, y)
                if max(low, above) > min(high, below):
                    break
                low, high, stop = max(low, above), min(high, below), stop + 1
            wanted = (y[chain[start - 1]] + y[chain[stop]]) / 2
            y.update(dict.fromkeys(chain[start:stop], max(low, min(wanted, high))))
            start = stop


def _room(name: str, grid: _Grid, y: dict[str, float]) -> Point:
    """The lowest and the highest y that a place may take between its neighbours as they stand."""
    layer = grid.layers[grid.column[name]]
    i = layer.index(name)
    low = y[layer[i - 1]] + grid.distance(layer[i - 1], name) if i else -math.inf
    high = y[layer[i + 1]] - grid.distance(name, layer[i + 1]) if i + 1 < len(layer) else math.inf
    return min(low, y[name]), max(high, y[name])  # rounding must not shut it out from where it stands


def _column_edges(grid: _Grid) -> list[Point]:
    """Left and right edge of every column."""
    edges, x = [], 0.0
    for layer in grid.layers:
        width = max(grid.sizes[name][0] for name in layer if name in grid.sizes)
        edges.append((x, x + width))
        x += width + _GAP
    return edges


def _ways(picture: Picture, grid: _Grid, centres: dict[str, Point], y: dict[str, float]) -> list[list[Point]]:
    """The corners of every wire, from the right side of its tail to the left side of its head."""
    edges, ways = _column_edges(grid), []
    leaving = _ports([(chain[0], y[chain[1]]) for chain in grid.chains], grid.sizes)
    arriving = _ports([(chain[-1], y[chain[-2]]) for chain in grid.chains], grid.sizes)
    for (tail, *between, head), start, end in zip(grid.chains, leaving, arriving):
        right = centres[tail][0] + _half_width(picture.boxes[tail], grid.sizes[tail], start)
        left = centres[head][0] - _half_width(picture.boxes[head], grid.sizes[head], end)
        way = [(right, y[tail] + start), (edges[grid.column[tail]][1], y[tail] + start)]
        way += [(x, y[name]) for name in between for x in edges[grid.column[name]]]
        ways.append([*way, (edges[grid.column[head]][0], y[head] + end), (left, y[head] + end)])
    return ways


def _half_width(box: Box, size: Point, off: float) -> float:
    """From a box's middle to its outline, ``off`` above or below: nodes are round."""
    half = size[0] / 2
    return math.sqrt(half**2 - off**2) if box.role == "node" else half


def _ports(ends: list[tuple[str, float]], sizes: dict[str, Point]) -> list[float]:
    """How far off its box's middle each wire ends, so that wires on one side keep apart and do not cross there."""
    offsets = [0.0] * len(ends)
    for key in dict.fromkeys(key for key, _ in ends):
        wires = sorted((i for i, end in enumerate(ends) if end[0] == key), key=lambda i: ends[i][1])
        step = min(_PORTS, (sizes[key][1] - 12) / max(len(wires) - 1, 1))
        for k, i in enumerate(wires):
            offsets[i] = (k - (len(wires) - 1) / 2) * step
    return offsets
