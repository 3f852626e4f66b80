"""Plain drawings by networkx and matplotlib, for machines without Graphviz."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcs_nas.report.charts import make_style, save_figure
from dcs_nas.report.dot import (
    Panels,
    get_stage_words,
    get_wire_colour,
    in_one_line,
    is_dashed,
    is_heavy,
    list_legend,
)
from dcs_nas.report.drawn_graph import is_branched, list_stages
from dcs_nas.report.palette import Theme, choose_paint

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes

_PER_COLUMN, _PER_ROW = 1.35, 0.72  # inches


def draw_plain(panels: Panels, theme: Theme, form: str, *, columns: int) -> bytes:
    """Return several graphs (title, graph) as one svg, png or pdf: boxes in columns, straight arrows between them."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    places = [place_nodes(graph) for _, graph in panels]
    wide = _PER_COLUMN * (1 + max(x for place in places for x, _ in place.values()))
    high = _PER_ROW * (2 + max(2 * abs(y) for place in places for _, y in place.values()))
    with matplotlib.rc_context(make_style(theme)):
        figure = Figure(figsize=(wide * columns, high * rows + 0.4), facecolor=theme.ground, layout="constrained")
        for i, ((title, graph), place) in enumerate(zip(panels, places)):
            axes = figure.add_subplot(rows, columns, i + 1)
            axes.set(xlim=(-0.6, wide / _PER_COLUMN - 0.4), ylim=(-high / _PER_ROW / 2, high / _PER_ROW / 2))
            axes.set_axis_off()
            axes.set_title(title, loc="left", fontsize=10)
            _draw(axes, graph, place, theme)
        if list_stages(panels[0][1]):
            figure.supxlabel("\n".join(get_stage_words(panels[0][1])), fontsize=8)
        else:
            swatches = [
                Patch(facecolor=colours.fill, edgecolor=colours.line, label=words)
                for family, change, words in list_legend(graph for _, graph in panels)
                for colours in [choose_paint(theme, "op", family, change)]
            ]
            figure.legend(handles=swatches, loc="outside lower center", ncols=max(len(swatches), 1), fontsize=8)
        return save_figure(figure, form)


def place_nodes(graph: networkx.MultiDiGraph) -> dict[str, tuple[float, float]]:
    """Return the (x, y) of every node: a column for each stage, else columns by the longest way from an input."""
    import networkx

    if is_branched(graph):
        return _place_branches(graph)
    if stages := list_stages(graph):
        last = len(stages) + 1
        layers = {key: last if data["role"] == "output" else data["stage"] for key, data in graph.nodes(data=True)}
    else:
        generations = networkx.topological_generations(graph)
        layers = {key: i for i, generation in enumerate(generations) for key in generation}
    columns: dict[int, list[str]] = {}
    for key in graph:
        columns.setdefault(layers[key], []).append(key)
    return {key: (x, (len(keys) - 1) / 2 - i) for x, keys in columns.items() for i, key in enumerate(keys)}


def _place_branches(graph: networkx.MultiDiGraph) -> dict[str, tuple[float, float]]:
    """Return (x, y) of cells of two branches: a column for each stage, a row for each step, branches left and right."""
    import networkx

    rows = {key: row for row, keys in enumerate(networkx.topological_generations(graph)) for key in keys}
    data = dict(graph.nodes(data=True))
    last = max(d["stage"] for d in data.values()) + 1
    tops = {d["stage"]: min(rows[k] for k in data if data[k]["stage"] == d["stage"]) for d in data.values()}
    deepest = max(rows[key] - tops[d["stage"]] for key, d in data.items() if d["stage"])
    places = {}
    for key, d in data.items():
        column = last if d["role"] == "output" else d["stage"]
        row = rows[key] - tops[d["stage"]] if d["stage"] else 0
        places[key] = (1.9 * column + {"a": -0.45, "b": 0.45}.get(d["branch"], 0.0), deepest / 2 - row)
    return places


def _draw(axes: Axes, graph: networkx.MultiDiGraph, places: dict[str, tuple[float, float]], theme: Theme) -> None:
    for tail, head, data in graph.edges(data=True):
        arrow = {"arrowstyle": "-|>", "color": get_wire_colour(data, theme), "shrinkA": 16, "shrinkB": 20}
        arrow |= {"linestyle": "--"} if is_dashed(data) else {}
        axes.annotate("", places[head], places[tail], arrowprops=arrow, zorder=1)
    for key, data in graph.nodes(data=True):
        colours = choose_paint(theme, data["role"], data["family"], data["change"])
        box = {
            "boxstyle": {"node": "circle", "input": "square", "output": "square"}.get(data["role"], "round"),
            "facecolor": colours.fill,
            "edgecolor": colours.line,
            "linewidth": 2.2 if is_heavy(data) else 1.2,
            "linestyle": "--" if is_dashed(data) else "-",
        }
        axes.text(
            *places[key], in_one_line(data["text"]), color=colours.text, ha="center", va="center", bbox=box, zorder=2
        )
