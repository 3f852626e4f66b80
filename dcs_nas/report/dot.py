"""Drawings by Graphviz: its program ``dot`` lays out and paints the graphs of ``make_drawing_graph``."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from dcs_nas.report.drawn_graph import is_branched, list_stages
from dcs_nas.report.palette import CHANGES, FAMILIES, Theme, choose_paint

if TYPE_CHECKING:
    import graphviz
    import networkx

Panels = Sequence[tuple[str, "networkx.MultiDiGraph"]]
"""Results of ``make_drawing_graph`` with titles."""
# dot can measure DejaVu on every machine that scripts/setup.sh prepared; Verdana has the same widths.
_FONT = "DejaVu Sans,Verdana,sans-serif"
_SIZE, _LEGEND_SIZE = "13", "11"
_DPI = 192
_LETTER = 0.62  # width of a letter of DejaVu Sans, the widest of the usual fonts, over its size
CHAIN_WORDS = (
    "k×k, eN, SE: depthwise kernel k, expansion N, squeeze-excite",
    "under a stage: height×width of its maps",
)


def get_stage_words(graph: networkx.MultiDiGraph) -> tuple[str, ...]:
    """Return the lines under a picture with stages: the graph's own, by default those of chains."""
    return tuple(graph.graph.get("words", "").splitlines()) or CHAIN_WORDS


def paint_graph(graph: networkx.MultiDiGraph, theme: Theme, form: str) -> tuple[bytes, str]:
    """Return one graph as svg, png or pdf by Graphviz, or a plain one by matplotlib and a note that says why."""
    return _paint(to_dot(graph, theme), [("", graph)], theme, form, columns=1)


def paint_panels(panels: Panels, theme: Theme, form: str) -> tuple[bytes, str]:
    """Return several cells (title, graph) side by side as ``paint_graph`` returns one."""
    columns = 1 if len(panels) < 3 else 2 if len(panels) < 9 else 3
    return _paint(make_strip_dot(panels, theme, columns=columns), panels, theme, form, columns=columns)


def _paint(dot: graphviz.Digraph, panels: Panels, theme: Theme, form: str, *, columns: int) -> tuple[bytes, str]:
    problem = "Graphviz' dot is not installed (apt install graphviz)"
    if shutil.which("dot") is not None:
        try:
            if form == "png":
                dot.attr("graph", dpi=str(_DPI))
            return dot.pipe(format=form, quiet=True), ""
        except subprocess.CalledProcessError as error:
            problem = f"dot failed: {(error.stderr or b'').decode(errors='replace').strip().partition(chr(10))[0]}"
    from dcs_nas.report.plain import draw_plain

    note = f"the drawings are plain ones by matplotlib, because {problem}"
    return draw_plain(panels, theme, form, columns=columns), note


def to_dot(graph: networkx.MultiDiGraph, theme: Theme) -> graphviz.Digraph:
    """Return one graph as a Graphviz graph; render it with ``.pipe(format=...)``."""
    dot = _start(graph.name, theme)
    if stages := list_stages(graph):
        add = _add_branches if is_branched(graph) else _add_chain
        add(dot, graph, stages, theme)
        changed = any(data["change"] == "changed" for _, data in graph.nodes(data=True))
        words = [*get_stage_words(graph), *(["filled: changed from the first to the second"] if changed else [])]
        dot.attr("graph", label="".join(f"{row}\\l" for row in words), labeljust="l")
    else:
        with dot.subgraph(name="cluster_cell") as part:
            part.attr(pencolor=theme.ground, margin="0")
            _add_cell(part, graph, theme)
        dot.attr("graph", label=_legend([graph], theme))
    return dot


def make_strip_dot(panels: Panels, theme: Theme, *, columns: int) -> graphviz.Digraph:
    """Return several cells (title, graph) side by side, row by row in ``columns``, under one legend."""
    dot = _start("strip", theme)
    # dot packs before it turns the picture by a quarter: columns of the packing (c), the last first, end as rows.
    dot.attr("graph", packmode=f"array_ctru{columns}", pack="16")
    rows = range(0, len(panels), columns)
    for i in [i for row in reversed(rows) for i in range(row, row + columns)]:
        with dot.subgraph(name=f"cluster_{i}") as part:
            part.attr(labeljust="l", labelloc="t", pencolor=theme.ground, fontsize=_SIZE)
            if i >= len(panels):
                part.node(f"empty_{i}", style="invis")
                continue
            title, graph = panels[i]
            part.attr(label=title)
            _add_cell(part, graph, theme, prefix=f"p{i}_")
    remark = "+ new since the panel before" if len(panels) > 1 else ""
    dot.attr("graph", label=_legend([graph for _, graph in panels], theme, remark))
    return dot


def list_legend(graphs: Iterable[networkx.MultiDiGraph]) -> list[tuple[str, str, str]]:
    """Return the legend of the colours as (family, change, words): changes, or else at least three families."""
    nodes = [data for graph in graphs for _, data in graph.nodes(data=True)]
    changes = {data["change"] for data in nodes}
    if changes & set(CHANGES):
        return [("", name, words) for name, words in CHANGES.items() if name in changes]
    families = {data["family"] for data in nodes}
    shown = [(name, "", words) for name, words in FAMILIES.items() if name in families]
    return shown if len(shown) > 2 else []


def _start(name: str, theme: Theme) -> graphviz.Digraph:
    import graphviz

    identifier = re.sub(r"[^A-Za-z0-9]+", "_", name)
    dot = graphviz.Digraph(identifier)
    dot.attr("graph", id=identifier, rankdir="LR", bgcolor=theme.ground, pad="0.12", ranksep="0.4", nodesep="0.2")
    dot.attr("graph", fontname=_FONT, fontsize=_LEGEND_SIZE, fontcolor=theme.text, labelloc="b")
    dot.attr("graph", outputorder="edgesfirst")
    dot.attr("node", fontname=_FONT, fontsize=_SIZE, shape="box", margin="0.1,0.06", height="0.36", width="0.5")
    dot.attr("edge", arrowsize="0.75", penwidth="1.2", color=theme.wire)
    return dot


def _add_cell(dot: graphviz.Digraph, graph: networkx.MultiDiGraph, theme: Theme, prefix: str = "") -> None:
    """Add a cell or a network, from left to right; operations stand beside the node that they feed."""
    roles = {key: data["role"] for key, data in graph.nodes(data=True)}
    for key, data in graph.nodes(data=True):
        _add_node(dot, prefix + key, data, theme)
    inputs = [prefix + key for key, role in roles.items() if role == "input"]
    if len(inputs) == 2:  # those of a cell
        with dot.subgraph() as first:
            first.attr(rank="same")
            first.edge(inputs[1], inputs[0], style="invis")  # within a rank, edges point upwards
    for tail, head, data in graph.edges(data=True):
        before_op = roles[head] == "op"
        style = _wire_style(data, theme) | ({"arrowhead": "none"} if before_op else {})
        weight = "4" if roles[tail] == "op" else "2" if before_op else "1"
        dot.edge(prefix + tail, prefix + head, weight=weight, **style)


def _add_chain(dot: graphviz.Digraph, graph: networkx.MultiDiGraph, stages: Mapping[int, str], theme: Theme) -> None:
    """Add a chain: a column for each stage, from top to bottom, and arrows from column to column."""
    dot.attr("graph", compound="true", newrank="true", ranksep="0.3")
    columns: list[list[str]] = [[], *([] for _ in stages), []]
    for key, data in graph.nodes(data=True):
        columns[-1 if data["role"] == "output" else data["stage"]].append(key)
    for number, column in enumerate(columns):
        with dot.subgraph(name=f"cluster_{number}") as part:
            fill = theme.state.fill if number in stages else theme.ground
            part.attr(label=stages.get(number, ""), style="filled", color=fill, labelloc="t", fontsize=_SIZE)
            part.attr(rank="same", margin="8" if number in stages else "0")
            for key in column:
                _add_node(part, key, graph.nodes[key], theme, width="1.05")
            for above, below in pairwise(column):
                part.edge(below, above, dir="back")  # within a rank, edges point upwards
    for number, (one, two) in enumerate(pairwise(columns)):
        ends = {"ltail": f"cluster_{number}"} if number in stages else {}
        ends |= {"lhead": f"cluster_{number + 1}"} if number + 1 in stages else {}
        dot.edge(one[0] if number else one[-1], two[0], weight="100", **ends)


def _add_branches(dot: graphviz.Digraph, graph: networkx.MultiDiGraph, stages: Mapping[int, str], theme: Theme) -> None:
    """Add cells of two branches: a column for each stage, from top to bottom, and arrows from column to column."""
    dot.attr("graph", rankdir="TB", compound="true", newrank="true", ranksep="0.22", nodesep="0.25")
    stage = {key: data["stage"] for key, data in graph.nodes(data=True)}
    *tops, output = (key for key in graph if graph.nodes[key]["role"] in ("input", "stem", "output"))
    titles = {0: "", **stages, len(stages) + 1: ""}
    column = stage | {output: len(stages) + 1}
    for number, title in titles.items():
        with dot.subgraph(name=f"cluster_{number}") as part:
            fill = theme.state.fill if number in stages else theme.ground
            part.attr(label=title, style="filled", color=fill, labelloc="t", fontsize=_SIZE)
            for key in (key for key in graph if column[key] == number):
                _add_node(part, key, graph.nodes[key], theme)
            for tail, head in graph.edges():
                if column[tail] == column[head] == number:
                    part.edge(tail, head)
    for keys in (tops, [*graph.predecessors(output), output]):
        with dot.subgraph() as row:
            row.attr(rank="same")
            for tail, head in pairwise(keys):
                start = {} if graph.has_edge(tail, head) else {"ltail": f"cluster_{column[tail]}"}
                row.edge(tail, head, weight="0", **start)


def _add_node(dot: graphviz.Digraph, key: str, data: Mapping[str, str], theme: Theme, **more: str) -> None:
    import graphviz

    colours = choose_paint(theme, data["role"], data["family"], data["change"])
    style = {"fillcolor": colours.fill, "color": colours.line, "fontcolor": colours.text, **more}
    rows = in_one_line(data["text"]).split("\n")
    if data["role"] == "node":
        style |= {"shape": "circle", "style": "filled", "margin": "0.03", "width": "0.36"}
    else:
        letters = max(len(row) for row in rows)
        style["width"] = f"{max(float(more.get('width', 0.5)), letters * _LETTER * int(_SIZE) / 72 + 0.2):.2f}"
        shape = "filled" if data["role"] in ("input", "output") else "filled,rounded"
        style |= {"style": shape + ",dashed" * is_dashed(data), "penwidth": "2.2" if is_heavy(data) else "1.2"}
    label = graphviz.nohtml("\\n".join(graphviz.escape(row.replace("&", "&amp;")) for row in rows))
    dot.node(key, label, id=key, tooltip=graphviz.escape(data["label"]), **style)


def is_heavy(data: Mapping[str, str]) -> bool:
    """Return whether a box has a thick outline: a new one, and attention."""
    return data["change"] in ("added", "new") or (data["family"] == "attention" and not data["change"])


def is_dashed(data: Mapping[str, str]) -> bool:
    """Return whether a box or an arrow has dashes: a removed one, and the operation ``none``."""
    return data["change"] == "removed" or data["family"] == "none"


def get_wire_colour(data: Mapping[str, str], theme: Theme) -> str:
    """Return the colour of an arrow: of its operation's family or change, if it has any."""
    if not data["family"] and not data["change"]:
        return theme.wire
    return choose_paint(theme, "op", data["family"], data["change"]).line


def in_one_line(text: str) -> str:
    """Return text with subscripts in parentheses, since fonts may lack them.

    >>> in_one_line("c_{k-2}")
    'c(k-2)'
    """
    return re.sub(r"_\{(.+)\}", r"(\1)", text)


def _wire_style(data: Mapping[str, str], theme: Theme) -> dict[str, str]:
    style = {"color": get_wire_colour(data, theme)} | ({"style": "dashed"} if is_dashed(data) else {})
    return style | ({"penwidth": "2.2"} if data["change"] in ("added", "new") else {})


def _legend(graphs: Sequence[networkx.MultiDiGraph], theme: Theme, remark: str = "") -> str:
    cells = []
    for family, change, words in list_legend(graphs):
        colours = choose_paint(theme, "op", family, change)
        line = "dashed" if is_dashed({"family": family, "change": change}) else "solid"
        swatch = f'STYLE="{line}" BGCOLOR="{colours.fill}" COLOR="{colours.line}" BORDER="1"'
        cells.append(f'<TD {swatch} WIDTH="18" HEIGHT="11" FIXEDSIZE="TRUE"></TD>')
        width = round(len(words) * _LETTER * int(_LEGEND_SIZE)) + 8
        cells.append(f'<TD ALIGN="LEFT" WIDTH="{width}">{escape(words)}</TD>')
    cells += [f"<TD>{escape(remark)}</TD>"] if remark else []
    if not cells:
        return ""
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="4"><TR>{"".join(cells)}</TR></TABLE>>'
