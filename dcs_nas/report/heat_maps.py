"""Mixture weights over the epochs as heat maps: a table for each mixture, and what was kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dcs_nas.runs import EpochRecord, RunContents

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
        title="choices of the chain",
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
