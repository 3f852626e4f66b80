"""The architecture over the epochs: pictures of what was found and of what changed, and the mixture weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import networkx

from dcs_nas.report.dot import paint_graph, paint_panels
from dcs_nas.report.drawn_graph import difference_graph, drawn_graph
from dcs_nas.report.embedded import Picture, in_both_themes
from dcs_nas.report.graphs import epoch_graph, is_strip, strip_panels, title_of
from dcs_nas.report.palette import theme
from dcs_nas.runs import EpochRecord, RunContents
from dcs_nas.space import AnyGenotype

_MOST_PANELS = 24
_INPUTS = ("c(k-2)", "c(k-1)")


@dataclass(frozen=True)
class Film:
    """One kind of cell over the epochs: pictures that differ, and for every epoch (from 1) which of them it has."""

    title: str
    pictures: list[Picture]
    frames: dict[int, int]


@dataclass
class Architecture:
    """Pictures of a run's architecture; what a run does not have is empty."""

    final: list[Picture] = field(default_factory=list)
    overview: Picture | None = None
    films: list[Film] = field(default_factory=list)
    strips: list[Picture] = field(default_factory=list)
    differences: list[Picture] = field(default_factory=list)


def architecture_pictures(run: RunContents, *, films: bool = True) -> Architecture | None:
    """Return the pictures of a run; without ``films`` those of the final architecture alone. None where it has none."""
    recorded = [(e.number + 1, e.genotype) for e in run.epochs if e.genotype is not None]
    final = run.genotype or (recorded[-1][1] if recorded else None)
    if final is None:
        return None
    found = Architecture(*_final(_as_trained(run, final)))
    same = [(epoch, g) for epoch, g in recorded if type(g) is type(final) and g.space.hash == final.space.hash]
    if not films or not same:
        return found
    found.films = [_film(part, same) for part in final.parts]
    if is_strip(final):
        titled = [(f"epoch {epoch}", genotype) for epoch, genotype in same]
        if sum(_differs(a, b) for (_, a), (_, b) in pairwise(same)) >= _MOST_PANELS:
            titled = [*titled[: _MOST_PANELS // 2], *titled[-_MOST_PANELS // 2 :]]  # the first and the last epochs
        found.strips = [_strip(part, titled) for part in final.parts]
    (first, a), (last, b) = same[0], same[-1]
    for part in (part for part in final.parts if a.part(part) != b.part(part)):
        title, graph = title_of(final, part), difference_graph(a.graph(part), b.graph(part))
        words = f"{title}: from epoch {first} to epoch {last}"
        found.differences.append(_painted(graph, f"what changed in the {title}", words))
    return found


def _differs(a: AnyGenotype, b: AnyGenotype) -> bool:
    return any(a.part(part) != b.part(part) for part in a.parts)


def _as_trained(run: RunContents, genotype: AnyGenotype) -> AnyGenotype:
    """The genotype at the width, depth and image size of a training."""
    if not run.trained:
        return genotype
    config = run.files.config()
    if config.training is None:
        return genotype
    data, settings = config.data, config.training
    return genotype.resize(data.height, data.width, channels=settings.channels, cells=settings.cells)


def _final(genotype: AnyGenotype) -> tuple[list[Picture], Picture | None]:
    """The parts, and the network that they form where that is a picture of its own."""
    titles = {part: title_of(genotype, part) for part in genotype.parts}
    pictures = [_painted(epoch_graph(genotype, part, None), f"the {title}", title) for part, title in titles.items()]
    overview = genotype.overview()
    if overview is None:
        return pictures, None
    return pictures, _painted(drawn_graph(overview), "the whole network", "network")


def _painted(graph: networkx.MultiDiGraph, alt: str, caption: str = "") -> Picture:
    return in_both_themes(lambda name: paint_graph(graph, theme(name), "svg")[0], alt, caption)


def _film(part: str, genotypes: Sequence[tuple[int, AnyGenotype]]) -> Film:
    """The pictures of a part: after a change, what is new is marked."""
    title = title_of(genotypes[0][1], part)
    pictures: list[Picture] = []
    frames: dict[int, int] = {}
    before: AnyGenotype | None = None
    for epoch, genotype in genotypes:
        if before is None or before.part(part) != genotype.part(part):
            pictures.append(_painted(epoch_graph(genotype, part, before), f"the {title}"))
            before = genotype
        frames[epoch] = len(pictures) - 1
    return Film(title, pictures, frames)


def _strip(part: str, genotypes: Sequence[tuple[str, AnyGenotype]]) -> Picture:
    panels, title = strip_panels(genotypes, part), title_of(genotypes[0][1], part)
    return in_both_themes(
        lambda name: paint_panels(panels, theme(name), "svg")[0], f"the {title} over the epochs", title
    )


@dataclass(frozen=True)
class Heat:
    """A table of weights.

    Attributes:
        key: the mixture's name.
        rows: what each row is called.
        columns: what the columns are called; [] where rows have options of their own.
        options: of every row, what its cells are called.
        values: by epoch, row and cell.
        kept: by epoch, the [row, cell] pairs that the derived genotype keeps.
        largest: of all values, for the scale.
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
        """What the slider's script reads."""
        tables = [{"values": t.values, "kept": t.kept, "largest": t.largest} for t in self.tables]
        return {"epochs": self.epochs, "tables": tables}


def heat_maps(run: RunContents) -> Heats | None:
    """Return the mixture weights of all epochs that have the shape of the last; None where the run recorded none."""
    if not run.epochs or not run.epochs[-1].weights:
        return None
    epochs = [e for e in run.epochs if _shape(e) == _shape(run.epochs[-1])]
    weights = run.epochs[-1].weights
    if any(len(rows) > 1 for rows in weights.values()):  # mixtures of cells, edges before attention
        names = sorted(weights, key=lambda name: (name.removesuffix("_attention"), name))
        tables = [_mixture(epochs, name) for name in names]
    else:
        tables = [_choices(epochs, list(weights))]
    return Heats([e.number + 1 for e in epochs], [t for t in tables if t.rows])


def _mixture(epochs: Sequence[EpochRecord], name: str) -> Heat:
    """A table of edges or of the output, whose rows have the same candidates."""
    last, attention = epochs[-1], name.endswith("_attention")
    columns = _options(
        last.names.get(name) or last.names.get("attention" if attention else "operations") or [],
        max((len(row) for row in last.weights[name]), default=0),
    )
    kind = name.removesuffix("_attention")
    rows = ["output"] if attention else _edges(len(last.weights[name]))
    return Heat(
        key=name,
        title=f"{kind} cell: attention on its output" if attention else f"{kind} cell: operations on its edges",
        rows=rows,
        columns=columns,
        options=[columns for _ in rows],
        values=[e.weights[name] for e in epochs],
        kept=[_kept(e, [name]) for e in epochs],
        largest=_largest(epochs, [name]),
    )


def _choices(epochs: Sequence[EpochRecord], names: Sequence[str]) -> Heat:
    """A table of choices with candidates of their own, a row each, such as those of a chain."""
    last = epochs[-1]
    return Heat(
        key="chain",
        title=f"choices of the {last.genotype.kind if last.genotype else 'chain'}",
        rows=[name.replace("_", " ") for name in names],
        columns=[],
        options=[_options(last.names.get(name, []), len(last.weights[name][0])) for name in names],
        values=[[e.weights[name][0] for name in names] for e in epochs],
        kept=[_kept(e, names) for e in epochs],
        largest=_largest(epochs, names),
    )


def _kept(epoch: EpochRecord, names: Sequence[str]) -> list[list[int]]:
    """The (row, column) pairs that the epoch's genotype keeps, of the rows of these mixtures one below the other."""
    if epoch.genotype is None:
        return []
    weights = epoch.genotype.one_hot()
    rows = [row for name in names for row in weights.get(name, [[]])]
    return [[r, c] for r, row in enumerate(rows) for c, value in enumerate(row) if value]


def _edges(count: int) -> list[str]:
    """The edges of a cell in the order of its rows: node by node, each from all states before it."""
    found: list[str] = []
    node = 0
    while len(found) < count:
        sources = [*_INPUTS, *map(str, range(node))]
        found += [f"{source} → {node}" for source in sources]
        node += 1
    return found[:count]


def _options(names: Sequence[str], count: int) -> list[str]:
    return [*names, *(str(i) for i in range(len(names), count))][:count]


def _largest(epochs: Sequence[EpochRecord], names: Sequence[str]) -> float:
    values = [v for e in epochs for name in names for row in e.weights[name] for v in row if v is not None]
    return max(values, default=0.0) or 1.0


def _shape(epoch: EpochRecord) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(map(len, rows))) for name, rows in sorted(epoch.weights.items())]
