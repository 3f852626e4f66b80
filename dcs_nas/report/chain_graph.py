"""A chain drawn as a chain: a line of blocks for each stage, from top to bottom. Lengths are points, y down."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from dcs_nas.report.canvas import DPI, draw_box, settings, write
from dcs_nas.report.chain_picture import Line, chain_lines, facts_of
from dcs_nas.report.layered import ARROW, SIZE, box_size, text_width
from dcs_nas.report.palette import Paint, Theme, family
from dcs_nas.report.picture import Box, paint
from dcs_nas.space import ChainGenotype

if TYPE_CHECKING:
    import graphviz
    from matplotlib.axes import Axes

    from dcs_nas.report.layered import Point

_MARGIN = 10.0
_GAP = 22.0  # between boxes of a line
_PAD = 9.0  # between a stage's border and its boxes
_BETWEEN = 24.0  # between stages
_WITHIN = 12.0  # between lines of a stage
_LEGEND = ("k×k, eN: depthwise kernel k, expansion N", "under a stage: height×width of its maps")
_CHANGES = "filled: changed from the first to the second"


def chain_file(genotype: ChainGenotype, theme: Theme, form: str, other: ChainGenotype | None = None) -> bytes:
    """The chain as svg, png, pdf, dot or graphml; with ``other``, what changes from ``genotype`` to it."""
    if form == "graphml":
        return _graphml(other or genotype)
    if form == "dot":
        return _dot(other or genotype, theme).source.encode()
    return _painted(chain_lines(genotype, other), theme, form, difference=other is not None)


def _painted(found: list[Line], theme: Theme, form: str, *, difference: bool) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    label = max(text_width(word) for line in found for word in line.title) + _PAD
    column = max(box_width(box) for line in found for box in line.boxes)
    heights = [max(box_size(box)[1] for box in line.boxes) for line in found]
    tops = _tops(found, heights)
    left = _MARGIN + label + _PAD
    most = max(len(line.boxes) for line in found)
    words = (*_LEGEND, _CHANGES) if difference else _LEGEND
    legend = max(text_width(row, SIZE - 2) for row in words) + 2 * _MARGIN
    width = max(left + most * (column + _GAP) - _GAP + _PAD + _MARGIN, legend)
    height = tops[-1] + heights[-1] + SIZE * len(words) + _PAD + 2 * _MARGIN
    with matplotlib.rc_context(settings()):
        figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        _groups(axes, found, tops, heights, width, theme)
        _lines(axes, found, tops, heights, (left, column), theme)
        for row, word in enumerate(reversed(words)):
            y = height - _MARGIN - SIZE * (row + 0.5)
            write(axes, (_MARGIN, y), word, theme.text, align="left", size=SIZE - 2)
        stream = io.BytesIO()
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(stream, format=form, dpi=DPI, facecolor=theme.ground, metadata=metadata)
    return stream.getvalue()


def box_width(box: Box) -> float:
    """The width of a box, with room for its arrows, which are wider than letters."""
    return box_size(box)[0] + SIZE * max(0.5 * row.count("→") for row in box.text())


def _tops(found: list[Line], heights: list[float]) -> list[float]:
    """The y of every line's upper edge."""
    tops, y = [], _MARGIN
    for i, line in enumerate(found):
        if i:
            same = line.stage == found[i - 1].stage
            y += heights[i - 1] + (_WITHIN + _PAD if same else _BETWEEN + 2 * _PAD)
        tops.append(y)
    return tops


def _groups(axes: Axes, found: list[Line], tops: list[float], heights: list[float], width: float, theme: Theme) -> None:
    """A pale field behind each stage, with its name and the size of its maps."""
    from matplotlib.patches import Rectangle

    for stage in sorted({line.stage for line in found} - {0}):
        own = [i for i, line in enumerate(found) if line.stage == stage]
        top, bottom = tops[own[0]] - _PAD, tops[own[-1]] + heights[own[-1]] + _PAD
        field = Rectangle((_MARGIN, top), width - 2 * _MARGIN, bottom - top, zorder=0)
        field.set(facecolor=theme.state.fill, edgecolor="none")
        axes.add_patch(field)
        words = found[own[0]].title
        for row, word in enumerate(words):
            y = (top + bottom) / 2 + (row - (len(words) - 1) / 2) * (SIZE + 3)
            weight = "normal" if row else "bold"
            write(axes, (_MARGIN + _PAD, y), word, theme.text, weight=weight, align="left")


def _lines(
    axes: Axes, found: list[Line], tops: list[float], heights: list[float], columns: tuple[float, float], theme: Theme
) -> None:
    """The boxes and the way through them: to the right in a line, then to the left below it into the next."""
    left, column = columns
    last: tuple[float, float, float] | None = None  # x of the middle, y of the lower edge, y of the field's edge
    for i, line in enumerate(found):
        middle = tops[i] + heights[i] / 2
        for k, box in enumerate(line.boxes):
            x = left + column / 2 + k * (column + _GAP)
            if k:
                _arrow(axes, [(x - column / 2 - _GAP, middle), (x - column / 2, middle)], theme)
            elif last is not None:
                bend = last[2] + (tops[i] - last[2]) / 2 if line.stage == found[i - 1].stage else last[2] + _BETWEEN / 2
                _arrow(axes, [(last[0], last[1]), (last[0], bend), (x, bend), (x, tops[i])], theme)
            size = (column, heights[i])
            draw_box(axes, box, (x, middle), size, theme, colours=_colours(box, theme))
            last = x, tops[i] + heights[i], tops[i] + heights[i] + (_PAD if line.stage else 0)


def _colours(box: Box, theme: Theme) -> Paint:
    return theme.changes["added"] if box.change == "changed" else paint(box, theme)


def _arrow(axes: Axes, way: list[Point], theme: Theme) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    x, y = way[-1]
    down = way[-2][1] != y
    end = (x, y - ARROW) if down else (x - ARROW, y)
    side = ARROW * 0.4
    head = [(x, y), (x - side, y - ARROW), (x + side, y - ARROW)] if down else []
    head = head or [(x, y), (x - ARROW, y - side), (x - ARROW, y + side)]
    axes.add_patch(PathPatch(Path([*way[:-1], end]), fill=False, edgecolor=theme.wire, linewidth=1.2, zorder=1))
    axes.add_patch(Polygon(head, closed=True, facecolor=theme.wire, edgecolor="none", zorder=1))


def _graphml(genotype: ChainGenotype) -> bytes:
    import networkx

    graph = genotype.graph()
    for _, data in graph.nodes(data=True):
        data["family"] = family(data["label"]) if data["role"] == "attention" else ""
    stream = io.BytesIO()
    networkx.write_graphml(graph, stream)
    return stream.getvalue()


def _dot(genotype: ChainGenotype, theme: Theme) -> graphviz.Digraph:
    """The chain as Graphviz text, one cluster for each stage; ``dot`` lays it out."""
    import graphviz

    graph = genotype.graph()
    dot = graphviz.Digraph("chain")
    dot.attr("graph", bgcolor=theme.ground, fontcolor=theme.text, fontname="Helvetica,Arial,sans-serif")
    dot.attr("node", shape="box", style="filled", fontname="Helvetica,Arial,sans-serif")
    dot.attr("edge", color=theme.wire)
    roles = {"block": "separable", "skipped": "none", "attention": "attention"}
    for stage in range(len(genotype.stages) + 1):
        with dot.subgraph(name=f"cluster_{stage}" if stage else "outside") as part:
            if stage:
                part.attr(label=f"stage {stage}", color=theme.wire)
            for node, data in graph.nodes(data=True):
                if data.get("stage", 0) == stage:
                    colours = theme.families[roles[data["role"]]] if data["role"] in roles else theme.state
                    style = "filled,dashed" if data["role"] == "skipped" else "filled"
                    paints = {"fillcolor": colours.fill, "color": colours.line, "fontcolor": colours.text}
                    part.node(node, facts_of(data), style=style, **paints)
    for tail, head in graph.edges():
        dot.edge(tail, head)
    return dot
