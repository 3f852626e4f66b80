"""Pictures drawn by matplotlib: for machines without Graphviz, and for several pictures in one figure."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dcs_nas.report.layered import ARROW, LEADING, SIZE, Layout, Point, layout, text_width
from dcs_nas.report.palette import Paint, Theme
from dcs_nas.report.picture import Box, Picture, Wire, caption, paint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONTS = ("Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
_MARGIN = 9.0  # points, around everything
_BETWEEN = 26.0  # points, between panels
_TITLE = 24.0  # points, above a panel that has one
_LEGEND = 26.0  # points, per row of the legend
DPI = 192
_LARGEST = 40e6  # pixels
_SUBSCRIPT = re.compile(r"(.+)_\{(.+)\}")


def render(
    panels: Sequence[tuple[str, Picture]], theme: Theme, form: str, *, columns: int = 1, remark: str = ""
) -> bytes:
    """One figure with all ``panels`` (title, picture), row by row, and one legend; ``form`` is svg, png or pdf."""
    import matplotlib

    with matplotlib.rc_context(settings()):
        figure = _figure(panels, theme, columns, remark)
        stream = io.BytesIO()
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(stream, format=form, dpi=_dpi(figure), facecolor=theme.ground, metadata=metadata)
    return stream.getvalue()


def _dpi(figure: Figure) -> float:
    """``DPI``, or less where the image would have too many pixels."""
    width, height = figure.get_size_inches()
    return min(DPI, (_LARGEST / (width * height)) ** 0.5)


def settings() -> Any:
    """matplotlib's settings: text stays text, files are the same each time, the first font of ours that is there."""
    from matplotlib import font_manager

    present = {font.name for font in font_manager.fontManager.ttflist}
    font = next((name for name in _FONTS if name in present), "DejaVu Sans")
    return {
        "font.family": [font, "DejaVu Sans"] if font != "DejaVu Sans" else [font],
        "mathtext.fontset": "custom",
        **{f"mathtext.{part}": font for part in ("rm", "bf", "cal", "sf", "tt")},
        "mathtext.it": f"{font}:italic",
        "svg.fonttype": "none",
        "svg.hashsalt": "dcs_nas",
        "pdf.fonttype": 42,
    }


def _figure(panels: Sequence[tuple[str, Picture]], theme: Theme, columns: int, remark: str) -> Figure:
    from matplotlib.figure import Figure

    places = [layout(picture) for _, picture in panels]
    title = _TITLE if any(name for name, _ in panels) else 0.0
    wide, high = max(p.width for p in places), max(p.height for p in places) + title
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    legend = _legend_rows(panels, theme, remark, columns * (wide + _BETWEEN) - _BETWEEN)
    width = columns * (wide + _BETWEEN) - _BETWEEN + 2 * _MARGIN
    height = rows * (high + _BETWEEN) - _BETWEEN + 2 * _MARGIN + _LEGEND * len(legend)
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for i, ((name, picture), place) in enumerate(zip(panels, places)):
        x = _MARGIN + (i % columns) * (wide + _BETWEEN)
        y = _MARGIN + (i // columns) * (high + _BETWEEN)
        if name:
            write(axes, (x, y + SIZE / 2), name, theme.text, weight="bold", align="left")
        _panel(axes, picture, place, (x, y + title), theme)
    for i, entries in enumerate(legend):
        _legend(axes, entries, (width / 2, height - _MARGIN - _LEGEND * (len(legend) - i) + _LEGEND * 0.7), theme)
    return figure


def _panel(axes: Axes, picture: Picture, places: Layout, corner: Point, theme: Theme) -> None:
    """One picture with its upper left corner at ``corner``."""
    for wire, way in zip(picture.wires, places.ways):
        moved = [(x + corner[0], y + corner[1]) for x, y in way]
        _draw_wire(axes, wire, moved, picture.boxes[wire.head].role != "op", theme)
    for key, box in picture.boxes.items():
        (x, y), size = places.centres[key], places.sizes[key]
        draw_box(axes, box, (x + corner[0], y + corner[1]), size, theme)


def _draw_wire(axes: Axes, wire: Wire, way: list[Point], arrow: bool, theme: Theme) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    colour = paint(wire, theme).line if wire.family or wire.change else theme.wire
    (x, y), points, codes = way[-1], [way[0]], [Path.MOVETO]
    way = [*way[:-1], (x - ARROW, y)] if arrow else way
    for i, (a, b) in enumerate(pairwise(way)):
        half = (a[0] + b[0]) / 2
        points += [(half, a[1]), (half, b[1]), b] if i % 2 else [b]
        codes += [Path.CURVE4] * 3 if i % 2 else [Path.LINETO]
    dashed = wire.change == "removed" or wire.family == "none"
    style = {"linewidth": 2.4 if wire.change in ("added", "new") else 1.2, "linestyle": (0, (4, 3)) if dashed else "-"}
    axes.add_patch(PathPatch(Path(points, codes), fill=False, edgecolor=colour, zorder=1, **style))
    if arrow:
        head = [(x, y), (x - ARROW, y - ARROW * 0.4), (x - ARROW, y + ARROW * 0.4)]
        axes.add_patch(Polygon(head, closed=True, facecolor=colour, edgecolor="none", zorder=1))


def draw_box(axes: Axes, box: Box, centre: Point, size: Point, theme: Theme, *, colours: Paint | None = None) -> None:
    """A box of ``size`` around ``centre`` with its text; ``colours`` replaces those that its family or change has."""
    from matplotlib.patches import Circle, FancyBboxPatch, Patch

    colours = colours or paint(box, theme)
    style: dict[str, Any] = {
        "facecolor": colours.fill,
        "edgecolor": colours.line,
        "linewidth": 2.4 if box.heavy else 1.2,
        "zorder": 2,
    }
    style["linestyle"] = (0, (4, 3)) if box.change == "removed" or box.family == "none" else "-"
    (x, y), (width, height) = centre, size
    shape: Patch = Circle(centre, width / 2, **style)
    if box.role != "node":
        corner = "square,pad=0" if box.role in ("input", "output") else "round,pad=0,rounding_size=9"
        shape = FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=corner, **style)
    axes.add_patch(shape)
    rows = box.text()
    for i, row in enumerate(rows):
        place = (x, y + (i - (len(rows) - 1) / 2) * LEADING)
        write(axes, place, row, colours.text, weight="bold" if box.heavy else "normal")


def write(
    axes: Axes,
    place: Point,
    text: str,
    colour: str,
    *,
    weight: str = "normal",
    align: str = "center",
    size: float = SIZE,
) -> None:
    """A line of text; ``c_{k-2}`` gets a real subscript, and nothing else is taken for a formula."""
    found = _SUBSCRIPT.fullmatch(text)
    index = found[2].replace("-", "{-}") if found else ""
    shown = rf"$\mathit{{{found[1]}}}_{{\mathrm{{{index}}}}}$" if found else text
    axes.text(
        *place,
        shown,
        color=colour,
        fontsize=size,
        fontweight=weight,
        ha=align,
        va="center_baseline",
        parse_math=bool(found),
        zorder=3,
    )


def _legend_rows(
    panels: Sequence[tuple[str, Picture]], theme: Theme, remark: str, width: float
) -> list[list[tuple[Box | None, str, float]]]:
    """The legend's entries (box to show, words, width) in rows no wider than ``width``."""
    union = Picture("", {f"{i} {key}": box for i, (_, p) in enumerate(panels) for key, box in p.boxes.items()})
    entries: list[tuple[Box | None, str]] = [
        (Box("op", "", (), **{kind: name}), caption(kind, name)) for kind, name in union.legend()
    ]
    if remark:
        entries.append((None, remark))
    rows: list[list[tuple[Box | None, str, float]]] = []
    for box, words in entries:
        needed = text_width(words, SIZE - 2) + (40 if box else 16)
        if not rows or sum(w for _, _, w in rows[-1]) + needed > width:
            rows.append([])
        rows[-1].append((box, words, needed))
    return rows


def _legend(axes: Axes, entries: list[tuple[Box | None, str, float]], middle: Point, theme: Theme) -> None:
    from matplotlib.patches import Rectangle

    x, y = middle[0] - sum(width for _, _, width in entries) / 2, middle[1]
    for box, words, width in entries:
        if box:
            colours = paint(box, theme)
            dashed = (0, (3, 2)) if "removed" in box.change or box.family == "none" else "-"
            axes.add_patch(
                Rectangle((x, y - 5.5), 18, 11, facecolor=colours.fill, edgecolor=colours.line, linestyle=dashed)
            )
        write(axes, (x + 24 if box else x, y), words, theme.text, align="left", size=SIZE - 2)
        x += width
