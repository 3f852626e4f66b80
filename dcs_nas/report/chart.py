"""Line charts as geometry, which a template draws as SVG. Lengths are units of the view box, y down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 10, 34
STYLES = 8  # colour and dashes of a line, named s0, s1, ... in the style sheet

Number = float | None


@dataclass(frozen=True)
class Series:
    """A line by name: a value or None for each x of its own."""

    name: str
    xs: Sequence[float]
    ys: Sequence[Number]


@dataclass(frozen=True)
class Tick:
    """A label and where it stands along its axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Line:
    """What is drawn of a series: the ``d`` of a path, a dot for each value, and its style."""

    name: str
    path: str
    dots: list[tuple[float, float]]
    style: int


@dataclass(frozen=True)
class Chart:
    """A chart that a template can draw; ``facts`` is what the page's script needs to show values."""

    title: str
    label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    frame: tuple[float, float, float, float]
    facts: dict[str, Any]
    note: str = ""


def line_chart(title: str, series: Sequence[Series], *, label: str = "epoch", note: str = "") -> Chart | None:
    """A chart of all series that have a number, in the style of their place among all; None where none has one."""
    styled = [(s, i % STYLES) for i, s in enumerate(series) if any(y is not None for y in s.ys)]
    shown = [s for s, _ in styled]
    if not shown:
        return None
    xs = sorted({x for s in shown for x in s.xs})
    values = [y for s in shown for y in s.ys if y is not None]
    y_marks = ticks(min(values), max(values), whole=all(float(v).is_integer() for v in values))
    low, high = min(y_marks[0], *values), max(y_marks[-1], *values)
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM
    span = max(xs[-1] - xs[0], 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / span if len(xs) > 1 else 0.5
        return round(left + across * (right - left), 2), round(bottom - (y - low) / (high - low) * (bottom - top), 2)

    lines = [_line(s, style, at) for s, style in styled]
    x_marks = [x for x in ticks(xs[0], xs[-1], count=6, whole=True) if xs[0] <= x <= xs[-1]] or [xs[0]]
    return Chart(
        title=title,
        label=label,
        lines=lines,
        x_ticks=[Tick(at(x, low)[0], f"{x:g}") for x in x_marks],
        y_ticks=[Tick(at(xs[0], y)[1], shown_number(y)) for y in y_marks],
        frame=(left, top, right, bottom),
        facts={
            "xs": xs,
            "places": [at(x, low)[0] for x in xs],
            "label": label,
            "lines": [{"name": s.name, "values": _on(s, xs)} for s in shown],
        },
        note=note,
    )


def _line(series: Series, style: int, at: Any) -> Line:
    """The path has a gap where a value is missing between two others that a row was written for."""
    parts, dots, pen = [], [], "M"
    for x, y in zip(series.xs, series.ys):
        if y is None:
            pen = "M"
            continue
        place = at(x, y)
        parts.append(f"{pen}{place[0]:g} {place[1]:g}")
        dots.append(place)
        pen = "L"
    return Line(series.name, "".join(parts), dots if len(dots) <= 60 else [], style)


def _on(series: Series, xs: Sequence[float]) -> list[Number]:
    own = dict(zip(series.xs, series.ys))
    return [own.get(x) for x in xs]


def ticks(low: float, high: float, *, count: int = 5, whole: bool = False) -> list[float]:
    """About ``count`` round numbers that enclose ``low`` to ``high``, at least two of them.

    >>> ticks(0.13, 0.94)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 12, count=6, whole=True)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    """
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(1, count - 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def shown_number(value: float) -> str:
    """A number in at most about six characters.

    >>> [shown_number(v) for v in (0.25, 12000.0, 0.00035, 3)]
    ['0.25', '12k', '3.5e-4', '3']
    """
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value / 1000:g}k" if size >= 10_000 else f"{value:.4g}"
