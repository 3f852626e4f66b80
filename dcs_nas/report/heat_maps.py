"""Mixture weights over the epochs as heat maps: a table for each mixture, and what was kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcs_nas.report.run_files import Epoch, RunFiles
from dcs_nas.space import ChainGenotype, Genotype

_INPUTS = ("c(k-2)", "c(k-1)")


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


def heat_maps(run: RunFiles) -> Heats | None:
    """The mixture weights of all epochs that have the shape of the last; None where the run recorded none."""
    if not run.epochs or not run.epochs[-1].weights:
        return None
    epochs = [e for e in run.epochs if _shape(e) == _shape(run.epochs[-1])]
    chain = isinstance(epochs[-1].genotype, ChainGenotype)
    tables = [_chain(epochs)] if chain else [_cell(epochs, name) for name in _ordered(epochs[-1].weights)]
    return Heats([e.number + 1 for e in epochs], [t for t in tables if t.rows])


def _cell(epochs: Sequence[Epoch], name: str) -> Heat:
    last = epochs[-1]
    attention = name.endswith("_attention")
    columns = last.names.get(name) or last.names.get("attention" if attention else "operations") or []
    width = max((len(row) for row in last.weights[name]), default=0)
    columns = [*columns, *(str(i) for i in range(len(columns), width))][:width]
    kind = name.removesuffix("_attention")
    rows = ["output"] if attention else _edges(len(last.weights[name]))
    return Heat(
        key=name,
        title=f"{kind} cell: attention on its output" if attention else f"{kind} cell: operations on its edges",
        rows=rows,
        columns=columns,
        options=[columns for _ in rows],
        values=[e.weights[name] for e in epochs],
        kept=[_kept(e.genotype, kind, columns, attention=attention) for e in epochs],
        largest=_largest(epochs, [name]),
    )


def _kept(genotype: Any, kind: str, columns: Sequence[str], *, attention: bool) -> list[list[int]]:
    if not isinstance(genotype, Genotype) or kind not in genotype.cells:
        return []
    cell = genotype.cells[kind]
    if attention:
        return [[0, columns.index(cell.attention)]] if cell.attention in columns else []
    return [
        [node * (node + 3) // 2 + edge.source, columns.index(edge.op)]
        for node, edges in enumerate(cell.nodes)
        for edge in edges
        if edge.op in columns
    ]


def _edges(count: int) -> list[str]:
    """The edges of a cell in the order of its rows: node by node, each from all states before it."""
    found: list[str] = []
    node = 0
    while len(found) < count:
        sources = [*_INPUTS, *map(str, range(node))]
        found += [f"{source} → {node}" for source in sources]
        node += 1
    return found[:count]


def _chain(epochs: Sequence[Epoch]) -> Heat:
    """All choices of a chain in one table, a row each; the weights of a choice are one row."""
    last = epochs[-1]
    structure = last.genotype.space if isinstance(last.genotype, ChainGenotype) else None
    known = {c.label: [str(o) for o in c.options] for c in structure.choices()} if structure else {}
    labels = [name for name, rows in last.weights.items() if len(rows) == 1]
    options = [_options(last.names.get(name) or known.get(name, []), len(last.weights[name][0])) for name in labels]
    return Heat(
        key="chain",
        title="choices of the chain",
        rows=[label.replace("_", " ") for label in labels],
        columns=[],
        options=options,
        values=[[e.weights[name][0] for name in labels] for e in epochs],
        kept=[_strongest([e.weights[name][0] for name in labels]) for e in epochs],
        largest=_largest(epochs, labels),
    )


def _strongest(rows: Sequence[Sequence[float | None]]) -> list[list[int]]:
    return [[i, max(range(len(row)), key=lambda k: row[k] or 0.0)] for i, row in enumerate(rows) if row]


def _options(names: Sequence[str], count: int) -> list[str]:
    return [*names, *(str(i) for i in range(len(names), count))][:count]


def _largest(epochs: Sequence[Epoch], names: Sequence[str]) -> float:
    found = [v for e in epochs for name in names for row in e.weights[name] for v in row if v is not None]
    return max(found, default=0.0) or 1.0


def _shape(epoch: Epoch) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(map(len, rows))) for name, rows in sorted(epoch.weights.items())]


def _ordered(weights: Mapping[str, Any]) -> list[str]:
    """Normal cells before reduction cells, edges before attention."""
    return sorted(weights, key=lambda name: (name.removesuffix("_attention"), name))
