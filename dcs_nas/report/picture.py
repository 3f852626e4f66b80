"""What a graph's drawing shows, before any layout: boxes in columns, joined by wires."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from dcs_nas.report.palette import CHANGES, FAMILIES, Paint, Theme, family, lines
from dcs_nas.space.cells import INPUTS, Edge, Genotype


@dataclass(frozen=True)
class Box:
    """One box: ``role`` is input, node, op, concat, attention, output or stage; ``name`` what a file calls it."""

    role: str
    name: str
    rows: tuple[str, ...]
    family: str = ""
    change: str = ""

    @property
    def heavy(self) -> bool:
        """Whether it is to stand out by a thick outline and bold text: what is new, and attention."""
        return self.change in ("added", "new") or (self.family == "attention" and not self.change)

    def text(self) -> tuple[str, ...]:
        """The lines in the box, with a sign where something came or went."""
        sign = {"added": "+ ", "new": "+ ", "removed": "− "}.get(self.change, "")
        return (sign + self.rows[0], *self.rows[1:])


@dataclass(frozen=True)
class Wire:
    """A connection between two boxes, coloured like the operation it belongs to."""

    tail: str
    head: str
    family: str = ""
    change: str = ""


@dataclass
class Picture:
    """Boxes by key, in drawing order, and the wires between them: an acyclic graph."""

    name: str
    boxes: dict[str, Box] = field(default_factory=dict)
    wires: list[Wire] = field(default_factory=list)

    def join(self, tail: str, head: str, *, family: str = "", change: str = "") -> None:
        self.wires.append(Wire(tail, head, family, change))

    def columns(self) -> dict[str, int]:
        """The column of every box from left to right: its longest way from an input; operations stand right
        before the node they feed."""
        column = dict.fromkeys(self.boxes, 0)
        for _ in self.boxes:  # as many rounds as the longest way may have boxes
            for wire in self.wires:
                column[wire.head] = max(column[wire.head], column[wire.tail] + 1)
        for wire in self.wires:
            if self.boxes[wire.tail].role == "op":
                column[wire.tail] = column[wire.head] - 1
        return column

    def layers(self) -> list[list[str]]:
        """The keys of every column, in drawing order."""
        column = self.columns()
        return [[key for key in self.boxes if column[key] == i] for i in range(max(column.values()) + 1)]

    def legend(self) -> list[tuple[str, str]]:
        """What the colours mean, as ``(kind, name)``: changes where there are any, else three families or more."""
        changes = {box.change for box in self.boxes.values()} & set(CHANGES)
        if changes:
            return [("change", name) for name in CHANGES if name in changes]
        present = {box.family for box in self.boxes.values()}
        found = [("family", name) for name in FAMILIES if name in present]
        return found if len(found) > 2 else []


def caption(kind: str, name: str) -> str:
    """The words beside a swatch of the legend."""
    return CHANGES[name] if kind == "change" else FAMILIES[name]


def paint(box: Box | Wire, theme: Theme) -> Paint:
    """The colours of a box or wire: by what changed, else by family, else those of a state."""
    if box.change in theme.changes:
        return theme.changes[box.change]
    if not box.family:
        return theme.state
    colours = theme.families[box.family]
    if isinstance(box, Box) and box.role == "stage":  # a cell that holds attention, not attention itself
        return Paint(theme.state.fill, colours.fill, theme.state.text)
    return colours


def cell_picture(genotype: Genotype, kind: str, *, since: Genotype | None = None) -> Picture:
    """One cell; with ``since``, what that earlier genotype's cell did not have is marked ``new``."""
    cell = genotype.cells[kind]
    old = since.cells[kind] if since else cell
    edges = [[(e, c and "new") for e, c in _compare(b, a) if c != "removed"] for a, b in zip(cell.nodes, old.nodes)]
    mark = "new" if cell.attention != old.attention else ""
    return _cell(f"{genotype.space.name} {kind}", edges, [(cell.attention, mark)])


def difference_picture(a: Genotype, b: Genotype, kind: str) -> Picture:
    """Both genotypes' cell in one picture: what is in both, what only ``a`` has and what only ``b`` has."""
    one, two = a.cells[kind], b.cells[kind]
    edges = [[(e, c or "kept") for e, c in _compare(x, y)] for x, y in zip(one.nodes, two.nodes)]
    attention = [(one.attention, "kept")]
    if one.attention != two.attention:
        attention = [(one.attention, "removed"), (two.attention, "added")]
    return _cell(f"{a.space.name} {kind} difference", edges, attention)


def _compare(old: Iterable[Edge], new: Iterable[Edge]) -> Iterator[tuple[Edge, str]]:
    """The edges of one node, by source: '' in both, 'removed' from the old, 'added' by the new; doubles count."""
    one, two = Counter(old), Counter(new)
    tagged = [(e, "") for e in (one & two).elements()]
    tagged += [(e, "removed") for e in (one - two).elements()] + [(e, "added") for e in (two - one).elements()]
    return iter(sorted(tagged, key=lambda pair: pair[0].source))


def _cell(name: str, nodes: list[list[tuple[Edge, str]]], attention: list[tuple[str, str]]) -> Picture:
    picture = Picture(name)
    states = [f"input_{i}" for i in range(2)] + [f"node_{i}" for i in range(len(nodes))]
    for key, label in zip(states, INPUTS):
        picture.boxes[key] = Box("input", label, (label,))
    for i, edges in enumerate(nodes):
        picture.boxes[states[i + 2]] = Box("node", str(i), (str(i),))
        for k, (edge, change) in enumerate(edges):
            key, kind = f"op_{i}_{k}", family(edge.op)
            picture.boxes[key] = Box("op", edge.op, lines(edge.op), kind, change)
            picture.join(states[edge.source], key, family=kind, change=change)
            picture.join(key, states[i + 2], family=kind, change=change)
        picture.join(states[i + 2], "concat")
    picture.boxes["concat"] = Box("concat", "concat", ("concat",))
    _finish(picture, attention)
    return picture


def _finish(picture: Picture, attention: list[tuple[str, str]]) -> None:
    """The cell's output, behind its attention if it has any."""
    output = "c_{k}"
    picture.boxes["output"] = Box("output", output, (output,))
    for i, (name, change) in enumerate(attention):
        if name == "none":
            picture.join("concat", "output", change=change if len(attention) > 1 else "")
            continue
        kind = family(name)
        rows = (*lines(name), "attention") if kind == "attention" else lines(name)
        picture.boxes[f"attention_{i}"] = Box("attention", name, rows, "attention", change)
        picture.join("concat", f"attention_{i}", family="attention", change=change)
        picture.join(f"attention_{i}", "output", family="attention", change=change)


def network_picture(genotype: Genotype) -> Picture:
    """The whole network in a row: image, stem, runs of equal cells with their width, head."""
    network = genotype.network
    stages = [Box("stage", "image", ("image", f"{network.height}×{network.width}"))]
    stages.append(Box("stage", "stem", ("stem", network.stem)))
    for kind, count, width in _runs(genotype):
        attention = genotype.cells[kind].attention
        label = kind if count == 1 else f"{kind} ×{count}"
        extra = lines(attention) if attention != "none" else ()
        mark = "attention" if extra else ""
        stages.append(
            Box("stage", kind, (label, f"width {width}", *((f"+ {' '.join(extra)}",) if extra else ())), mark)
        )
    stages.append(Box("stage", "head", ("head",)))
    picture = Picture(f"{genotype.space.name} network", {f"stage_{i}": stage for i, stage in enumerate(stages)})
    for i in range(len(stages) - 1):
        picture.join(f"stage_{i}", f"stage_{i + 1}")
    return picture


def _runs(genotype: Genotype) -> Iterator[tuple[str, int, int]]:
    """Runs of equal cells as (kind, how many, channels of each node)."""
    network, width = genotype.network, genotype.network.channels
    stages = []
    for kind in map(network.kind, range(network.cells)):
        width *= 2 if kind == "reduce" else 1
        stages.append((kind, width))
    for (kind, width), run in groupby(stages):
        yield kind, len(list(run)), width
