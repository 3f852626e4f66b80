"""A picture as Graphviz text, with the positions of ``layered.layout`` (Graphviz keeps them under ``neato -n2``)."""

from __future__ import annotations

import re
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from dcs_nas.report.layered import ARROW, SIZE, Layout, Point, layout
from dcs_nas.report.palette import Theme
from dcs_nas.report.picture import Box, Picture, Wire, caption, paint

if TYPE_CHECKING:
    import graphviz

_FONT = "Helvetica,Arial,DejaVu Sans,sans-serif"
_SUBSCRIPT = re.compile(r"(.+)_\{(.+)\}")


def to_dot(picture: Picture, theme: Theme) -> graphviz.Digraph:
    """The picture as a Graphviz graph; render it with ``.pipe(format=..., neato_no_op=2)``."""
    import graphviz

    name = _identifier(picture.name)
    dot = graphviz.Digraph(name, engine="neato", comment="positions are kept by: neato -n2")
    dot.attr("graph", id=name, bgcolor=theme.ground, pad="0.12", outputorder="edgesfirst")
    dot.attr("graph", fontname=_FONT, fontsize=str(SIZE - 2), fontcolor=theme.text, labelloc="b")
    dot.attr("node", fontname=_FONT, fontsize=str(SIZE), shape="box", fixedsize="true", margin="0")
    dot.attr("edge", arrowsize=str(ARROW / 10), penwidth="1.2")
    places = layout(picture)
    for key, box in picture.boxes.items():
        dot.node(
            key,
            _label(box),
            id=f"{name}_{key}",
            **_place(key, places),
            **_box_style(box, theme),
            tooltip=graphviz.escape(box.name),
        )
    for i, (wire, way) in enumerate(zip(picture.wires, places.ways)):
        arrow = picture.boxes[wire.head].role != "op"
        style = _wire_style(wire, theme, arrow)
        dot.edge(wire.tail, wire.head, id=f"{name}_wire_{i}", pos=_spline(way, places.height, arrow), **style)
    legend = _legend(picture, theme)
    if legend:
        dot.attr("graph", label=legend)
    return dot


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name)


def _place(key: str, places: Layout) -> dict[str, str]:
    (x, y), (width, height) = places.centres[key], places.sizes[key]
    return {"pos": f"{x:.1f},{places.height - y:.1f}", "width": f"{width / 72:.3f}", "height": f"{height / 72:.3f}"}


def _spline(way: list[Point], height: float, arrow: bool) -> str:
    """Graphviz' B-spline: straight inside columns, an S with flat ends in the gaps between them."""
    points = [way[0]]
    end = way[-1]
    way = [*way[:-1], (end[0] - ARROW, end[1])] if arrow else way
    for i, (a, b) in enumerate(pairwise(way)):
        half = (a[0] + b[0]) / 2
        points += [(half, a[1]), (half, b[1]), b] if i % 2 else [a, b, b]
    text = " ".join(f"{x:.1f},{height - y:.1f}" for x, y in points)
    return f"e,{end[0]:.1f},{height - end[1]:.1f} {text}" if arrow else text


def _box_style(box: Box, theme: Theme) -> dict[str, str]:
    colours = paint(box, theme)
    style = {"fillcolor": colours.fill, "color": colours.line, "fontcolor": colours.text}
    if box.role == "node":
        return {**style, "shape": "circle", "style": "filled", "penwidth": "1.2"}
    shape = "filled" if box.role in ("input", "output") else "filled,rounded"
    dashed = box.change == "removed" or box.family == "none"
    return {**style, "style": shape + ",dashed" * dashed, "penwidth": "2.4" if box.heavy else "1.2"}


def _wire_style(wire: Wire, theme: Theme, arrow: bool) -> dict[str, str]:
    style = {"color": paint(wire, theme).line if wire.family or wire.change else theme.wire}
    if wire.change == "removed" or wire.family == "none":
        style["style"] = "dashed"
    if wire.change in ("added", "new"):
        style["penwidth"] = "2.4"
    return style if arrow else {**style, "arrowhead": "none"}


def _label(box: Box) -> str:
    text = "<BR/>".join(_text(row) for row in box.text())
    return f"<<B>{text}</B>>" if box.heavy else f"<{text}>"


def _text(row: str) -> str:
    """Text for an HTML-like label; ``c_{k-2}`` with a real subscript."""
    found = _SUBSCRIPT.fullmatch(row)
    if found:
        base, index = (escape(part) for part in found.groups())
        return f"<I>{base}</I><SUB>{index.replace('-', '−')}</SUB>"
    return escape(row)


def _legend(picture: Picture, theme: Theme) -> str:
    cells = []
    for kind, name in picture.legend():
        colours = paint(Box("op", "", (), **{kind: name}), theme)
        line = "dashed" if name in ("removed", "none") else "solid"
        swatch = f'STYLE="{line}" BGCOLOR="{colours.fill}" COLOR="{colours.line}" BORDER="1"'
        cells.append(f'<TD {swatch} WIDTH="18" HEIGHT="11" FIXEDSIZE="TRUE"></TD>')
        cells.append(f'<TD ALIGN="LEFT">{escape(caption(kind, name))}  </TD>')
    if not cells:
        return ""
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="4"><TR>{"".join(cells)}</TR></TABLE>>'
