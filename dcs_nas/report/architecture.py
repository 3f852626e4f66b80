"""The architecture over the epochs or trials: pictures of the result and of changes, and the mixture weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx

from dcs_nas.report.dot import paint_graph, paint_panels
from dcs_nas.report.drawn_graph import make_difference_graph, make_drawing_graph
from dcs_nas.report.embedded import Picture, paint_both_themes
from dcs_nas.report.graphs import is_strip, list_changes, make_epoch_graph, make_strip_panels, make_title
from dcs_nas.report.palette import get_theme
from dcs_nas.runs import EpochRecord, RunContents
from dcs_nas.space import AnyGenotype

_MOST_PANELS = 24
_INPUTS = ("c(k-2)", "c(k-1)")


@dataclass(frozen=True)
class Film:
    """One kind of cell over the epochs: different pictures, and for every epoch (from 1) the index of its picture."""

    title: str
    pictures: list[Picture]
    frames: dict[int, int]


@dataclass
class Architecture:
    """Pictures of a run's architecture; empty where the run lacks them."""

    final: list[Picture] = field(default_factory=list)
    overview: Picture | None = None
    films: list[Film] = field(default_factory=list)
    strips: list[Picture] = field(default_factory=list)
    differences: list[Picture] = field(default_factory=list)


def draw_architecture(run: RunContents, *, films: bool = True) -> Architecture | None:
    """Return the pictures of a run, without ``films`` of its final architecture alone; None without a genotype."""
    recorded = [(e.number + 1, e.genotype) for e in run.epochs if e.genotype is not None]
    final = run.genotype or (recorded[-1][1] if recorded else None)
    if final is None:
        return None
    shown = Architecture(*_draw_final(_resize_as_trained(run, final)))
    same = [(epoch, g) for epoch, g in recorded if type(g) is type(final) and g.space.hash == final.space.hash]
    if not films or not same:
        return shown
    epochs = [record.number + 1 for record in run.epochs]
    shown.films = [_draw_film(part, same, epochs) for part in final.parts]
    if is_strip(final):
        titled = [(f"{run.step} {epoch}", genotype) for epoch, genotype in same]
        shown.strips = [_draw_strip(part, titled) for part in final.parts]
    (first, a), (last, b) = same[0], same[-1]
    for part in (part for part in final.parts if a.part(part) != b.part(part)):
        title, graph = make_title(final, part), make_difference_graph(a.graph(part), b.graph(part))
        words = f"{title}: from {run.step} {first} to {run.step} {last}"
        shown.differences.append(_paint(graph, f"changes of the {title}", words))
    return shown


def _resize_as_trained(run: RunContents, genotype: AnyGenotype) -> AnyGenotype:
    """Return the genotype at the width, depth and image size of a training."""
    config = run.files.config() if run.trained else None
    if config is None or config.training is None:
        return genotype
    data, settings = config.data, config.training
    return genotype.resize(data.height, data.width, channels=settings.channels, cells=settings.cells)


def _draw_final(genotype: AnyGenotype) -> tuple[list[Picture], Picture | None]:
    """Return the pictures of the parts, and of the network that they form where it has a picture."""
    titles = {part: make_title(genotype, part) for part in genotype.parts}
    pictures = [_paint(make_epoch_graph(genotype, part, None), f"the {title}", title) for part, title in titles.items()]
    overview = genotype.overview()
    if overview is None:
        return pictures, None
    return pictures, _paint(make_drawing_graph(overview), "the whole network", "network")


def _paint(graph: networkx.MultiDiGraph, alt: str, caption: str = "") -> Picture:
    return paint_both_themes(lambda name: paint_graph(graph, get_theme(name), "svg")[0], alt, caption)


def _draw_film(part: str, genotypes: Sequence[tuple[int, AnyGenotype]], epochs: Sequence[int]) -> Film:
    """Return the pictures of a part over the epochs; an epoch without a genotype has the picture of the one before."""
    title, changes = make_title(genotypes[0][1], part), list_changes(genotypes, part)
    places = {epoch: i for i, (members, _) in enumerate(changes) for epoch in members}
    known = sorted(places)
    frames = {epoch: places[known[max(0, bisect_right(known, epoch) - 1)]] for epoch in epochs}
    return Film(title, [_paint(graph, f"the {title}") for _, graph in changes], frames)


def _draw_strip(part: str, genotypes: Sequence[tuple[str, AnyGenotype]]) -> Picture:
    """Return the changes of a part side by side; of many, the first and the last ones."""
    panels, title = make_strip_panels(genotypes, part), make_title(genotypes[0][1], part)
    caption, left_out = title, len(panels) - _MOST_PANELS
    if left_out > 0:
        panels = [*panels[: _MOST_PANELS // 2], *panels[-_MOST_PANELS // 2 :]]
        caption = f"{title}; {left_out} panels between the first and the last {_MOST_PANELS // 2} are left out"
    return paint_both_themes(
        lambda name: paint_panels(panels, get_theme(name), "svg")[0], f"the {title} over the steps", caption
    )


@dataclass(frozen=True)
class Heat:
    """A table of weights.

    Attributes:
        key: the mixture's name.
        rows: their names.
        columns: their names; [] where each row has its own options.
        options: of every row, the names of its cells.
        values: by epoch, row and cell.
        kept: by epoch, the [row, cell] pairs that the derived genotype keeps.
        largest: the largest of all values, for the scale.
    """

    key: str
    title: str
    rows: list[str]
    columns: list[str]
    options: list[list[str]]
    values: list[list[list[float | None]]]
    kept: list[list[list[int]]]
    largest: float


@dataclass(frozen=True)
class Heats:
    """All heat maps of a run; ``epochs`` counts from 1."""

    epochs: list[int]
    tables: list[Heat]

    def facts(self) -> dict[str, Any]:
        """Return the data that the slider's script reads."""
        tables = [{"values": t.values, "kept": t.kept, "largest": t.largest} for t in self.tables]
        return {"epochs": self.epochs, "tables": tables}


def read_heat_maps(run: RunContents) -> Heats | None:
    """Return the mixture weights of all epochs that have the shape of the last; None where none is recorded."""
    if not run.epochs or not run.epochs[-1].weights:
        return None
    last = run.epochs[-1]
    epochs = [e for e in run.epochs if _shape(e) == _shape(last)]
    if any(len(rows) > 1 for rows in last.weights.values()):  # mixtures of cells, edges before attention
        names = sorted(last.weights, key=lambda name: (name.removesuffix("_attention"), name))
        tables = [_make_cell_table(epochs, name) for name in names]
    else:
        rows = [name.replace("_", " ") for name in last.weights]
        options = [_options(last.names.get(name, []), len(row)) for name, (row,) in last.weights.items()]
        title = f"choices of the {last.genotype.kind if last.genotype else 'chain'}"
        tables = [_make_table(epochs, list(last.weights), "chain", title, rows, [], options)]
    return Heats([e.number + 1 for e in epochs], [t for t in tables if t.rows])


def _make_cell_table(epochs: Sequence[EpochRecord], name: str) -> Heat:
    """Return the table of a cell's edges or of its output, whose rows have the same candidates."""
    last, kind = epochs[-1], name.removesuffix("_attention")
    attention = name != kind
    columns = _options(
        last.names.get(name) or last.names.get("attention" if attention else "operations") or [],
        max((len(row) for row in last.weights[name]), default=0),
    )
    title = f"{kind} cell: attention on its output" if attention else f"{kind} cell: operations on its edges"
    rows = ["output"] if attention else _name_edges(len(last.weights[name]))
    return _make_table(epochs, [name], name, title, rows, columns, [columns for _ in rows])


def _make_table(
    epochs: Sequence[EpochRecord],
    names: Sequence[str],
    key: str,
    title: str,
    rows: list[str],
    columns: list[str],
    options: list[list[str]],
) -> Heat:
    """Return the table of the mixtures ``names``, their rows below each other."""
    values = [[row for name in names for row in e.weights[name]] for e in epochs]
    largest = max((v for table in values for row in table for v in row if v is not None), default=0.0)
    return Heat(key, title, rows, columns, options, values, [_find_kept(e, names) for e in epochs], largest or 1.0)


def _find_kept(epoch: EpochRecord, names: Sequence[str]) -> list[list[int]]:
    """Return the (row, column) pairs that the epoch's genotype keeps, in the rows of all these mixtures together."""
    if epoch.genotype is None:
        return []
    weights = epoch.genotype.one_hot()
    rows = [row for name in names for row in weights.get(name, [[]])]
    return [[r, c] for r, row in enumerate(rows) for c, value in enumerate(row) if value]


def _name_edges(count: int) -> list[str]:
    """Return the names of a cell's edges in the order of its rows: node by node, from all states before it."""
    edges: list[str] = []
    node = 0
    while len(edges) < count:
        sources = [*_INPUTS, *map(str, range(node))]
        edges += [f"{source} → {node}" for source in sources]
        node += 1
    return edges[:count]


def _options(names: Sequence[str], count: int) -> list[str]:
    return [*names, *(str(i) for i in range(len(names), count))][:count]


def _shape(epoch: EpochRecord) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(map(len, rows))) for name, rows in sorted(epoch.weights.items())]
