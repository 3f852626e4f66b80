"""Genotypes as pictures: the cells or the chain of one, the difference of two, a strip of a cell over the epochs."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dcs_nas.errors import InputError, choices
from dcs_nas.files import atomic_path
from dcs_nas.report.canvas import DPI, render
from dcs_nas.report.chain_graph import chain_file
from dcs_nas.report.dot import to_dot
from dcs_nas.report.palette import Theme, family
from dcs_nas.report.palette import theme as find_theme
from dcs_nas.report.picture import Picture, cell_picture, difference_picture, network_picture
from dcs_nas.space import AnyGenotype, ChainGenotype, Genotype, published_text

if TYPE_CHECKING:
    import networkx

FORMATS = ("svg", "png", "pdf", "dot", "graphml", "darts")
_PAINTED = ("svg", "png", "pdf")


@dataclass
class Drawing:
    """The files written, and a word for the user where they are not drawn as usual."""

    files: list[Path] = field(default_factory=list)
    note: str = ""


def draw(
    genotype: AnyGenotype, out: Path, *, formats: Sequence[str] = ("svg", "png"), theme: str = "light", stem: str = ""
) -> Drawing:
    """Draw every kind of cell and the whole network into the folder ``out``, of a chain the chain.

    The files are ``normal.svg``, ``reduce.svg``, ``network.svg``, ..., or ``chain.svg``, each name behind ``stem`` if
    one is given. Graphviz paints svg, png and pdf of cells; without its ``dot`` program matplotlib does, as it does
    chains, and the drawing's note says so. ``graphml`` holds the genotype's graph with the family of every operation.
    ``darts`` is no drawing but the text of DARTS, ``genotype.txt``.

    Raises ``InputError`` for a format or theme that does not exist, and for ``darts`` of a chain.
    """
    job = _Job(out, formats, theme)
    if isinstance(genotype, ChainGenotype):
        return job.chain(f"{stem}chain", genotype)
    assert isinstance(genotype, Genotype)
    if "darts" in job.formats:
        job.text(f"{stem}genotype.txt", genotype)
    for kind in genotype.cells:
        job.write(stem + kind, cell_picture(genotype, kind), _graph(genotype, kind) if "graphml" in formats else None)
    if "network" not in genotype.cells:
        job.write(f"{stem}network", network_picture(genotype))
    return job.drawing


def draw_difference(
    a: AnyGenotype, b: AnyGenotype, out: Path, *, formats: Sequence[str] = ("svg", "png"), theme: str = "light"
) -> Drawing:
    """Draw what changed from ``a`` to ``b`` into ``difference_normal.svg``, ... in the folder ``out``, or
    ``difference_chain.svg``.

    Operations in both are thin and grey; removed ones dashed with a minus, added ones heavy with a plus, each in a
    colour of its own. Raises ``InputError`` for genotypes of different spaces.
    """
    _require_same_space([("the first genotype", a), ("the second", b)])
    job = _Job(out, formats, theme)
    if "darts" in job.formats:
        raise InputError("a difference has no text of DARTS; write each genotype by itself as darts")
    if isinstance(a, ChainGenotype) or isinstance(b, ChainGenotype):
        assert isinstance(a, ChainGenotype)
        assert isinstance(b, ChainGenotype)
        return job.chain("difference_chain", a, b)
    assert isinstance(a, Genotype)
    assert isinstance(b, Genotype)
    for kind in (kind for kind in a.cells if kind in b.cells):
        job.write(f"difference_{kind}", difference_picture(a, b, kind))
    return job.drawing


def draw_strip(
    genotypes: Sequence[tuple[str, Genotype]],
    out: Path,
    *,
    formats: Sequence[str] = ("svg", "png"),
    theme: str = "light",
    columns: int | None = None,
) -> Drawing:
    """Draw each kind of cell over the epochs, a panel per ``(title, genotype)``, into ``strip_normal.svg``, ...

    Epochs in which a cell did not change share a panel; what is new since the panel before has a plus.
    Raises ``InputError`` without genotypes, for genotypes of different spaces and for formats that hold no figure.
    """
    if not genotypes:
        raise InputError("a strip needs at least one genotype, got none; name a run with saved epochs")
    if any(isinstance(genotype, ChainGenotype) for _, genotype in genotypes):
        raise InputError("a strip shows cells, and these genotypes are chains; draw the difference of two of them")
    for name in formats:
        if name in FORMATS and name not in _PAINTED:
            raise InputError(f"a strip is a figure and cannot be written as {name}; use {', '.join(_PAINTED)}")
    _require_same_space(genotypes)
    job = _Job(out, formats, theme)
    for kind in genotypes[0][1].cells:
        panels = _panels(genotypes, kind)
        wide = columns or (1 if len(panels) < 3 else 2 if len(panels) < 9 else 3)
        remark = "+ new since the panel before" if len(panels) > 1 else ""
        for name in job.formats:
            job.save(f"strip_{kind}.{name}", render(panels, job.theme, name, columns=wide, remark=remark))
    return job.drawing


class _Job:
    """What is written where, in which formats, and with what."""

    def __init__(self, out: Path, formats: Sequence[str], theme: str) -> None:
        for name in formats:
            if name not in FORMATS:
                raise InputError(f"unknown format '{name}' of a drawing; {choices(name, FORMATS)}")
        if not formats:
            raise InputError(f"no format to draw in; known: {', '.join(FORMATS)}")
        self.out, self.formats = out, tuple(dict.fromkeys(formats))
        self.theme: Theme = find_theme(theme)
        self.drawing = Drawing()

    def write(self, stem: str, picture: Picture, graph: networkx.MultiDiGraph | None = None) -> None:
        """One picture in every format; GraphML holds ``graph`` or, without one, the picture's own boxes and wires."""
        for name in self.formats:
            if name == "darts":
                continue
            if name == "graphml":
                self.save(f"{stem}.graphml", _graphml(graph or _picture_graph(picture)))
            elif name == "dot":
                self.save(f"{stem}.dot", to_dot(picture, self.theme).source.encode())
            else:
                self.save(f"{stem}.{name}", self._paint(picture, name))

    def chain(self, stem: str, genotype: ChainGenotype, other: ChainGenotype | None = None) -> Drawing:
        """A chain in every format, or what changes from one to another."""
        if "darts" in self.formats:
            raise InputError("the text of DARTS holds cells, and this genotype is a chain; leave the format darts out")
        for name in self.formats:
            self.save(f"{stem}.{name}", chain_file(genotype, self.theme, name, other))
        return self.drawing

    def text(self, name: str, genotype: Genotype) -> None:
        """The text of DARTS; a note says what it does not hold."""
        self.save(name, published_text(genotype).encode())
        attended = [f"{kind}: {cell.attention}" for kind, cell in genotype.cells.items() if cell.attention != "none"]
        if attended:
            self.drawing.note = f"{name} does not hold the attention of the cells ({', '.join(attended)})"

    def save(self, name: str, content: bytes) -> None:
        with atomic_path(self.out / name) as temporary:
            temporary.write_bytes(content)
        self.drawing.files.append(self.out / name)

    def _paint(self, picture: Picture, form: str) -> bytes:
        painted, note = paint_picture(picture, self.theme, form)
        if note and note not in self.drawing.note:
            self.drawing.note = f"{self.drawing.note}; {note}" if self.drawing.note else note
        return painted


def paint_picture(picture: Picture, theme: Theme, form: str) -> tuple[bytes, str]:
    """One picture as svg, png or pdf by Graphviz, or by matplotlib and a note why."""
    if shutil.which("dot") is None:
        note = "drawn by matplotlib, since Graphviz' dot is not on this machine"
    else:
        try:
            dot = to_dot(picture, theme)
            dot.attr("graph", **({"dpi": str(DPI)} if form == "png" else {}))
            return dot.pipe(format=form, neato_no_op=2, quiet=True), ""
        except subprocess.CalledProcessError as error:
            note = f"drawn by matplotlib, since dot failed: {_first_line(error.stderr)}"
    return render([("", picture)], theme, form), note


def _first_line(text: bytes | str | None) -> str:
    decoded = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    return next(iter(decoded.strip().splitlines()), "no message")


def _require_same_space(genotypes: Sequence[tuple[str, AnyGenotype]]) -> None:
    (_, a), *others = genotypes
    for name, b in others:
        b.require_space(a.space, name=a.space.name, source=name)


def _panels(genotypes: Sequence[tuple[str, Genotype]], kind: str) -> list[tuple[str, Picture]]:
    """A panel per run of genotypes with the same cell; its title names the first and the last of them."""
    runs: list[list[tuple[str, Genotype]]] = []
    for title, genotype in genotypes:
        if runs and runs[-1][-1][1].cells[kind] == genotype.cells[kind]:
            runs[-1].append((title, genotype))
        else:
            runs.append([(title, genotype)])
    panels, before = [], None
    for run in runs:
        title = run[0][0] if len(run) == 1 else f"{run[0][0]} – {run[-1][0]}"
        panels.append((title, cell_picture(run[0][1], kind, since=before)))
        before = run[0][1]
    return panels


def _graph(genotype: Genotype, kind: str) -> networkx.MultiDiGraph:
    """``Genotype.graph`` with the family of every operation."""
    graph = genotype.graph(kind)
    for *_, data in graph.edges(data=True):
        data["family"] = family(data["op"]) if data["op"] else ""
    return graph


def _picture_graph(picture: Picture) -> networkx.MultiDiGraph:
    """A picture as a graph: boxes with what they are, connections with what changed."""
    import networkx

    graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=picture.name)
    for key, box in picture.boxes.items():
        label = box.name if box.role != "stage" else " ".join(box.rows)
        graph.add_node(key, role=box.role, label=label, family=box.family, change=box.change)
    for wire in picture.wires:
        graph.add_edge(wire.tail, wire.head, family=wire.family, change=wire.change)
    return graph


def _graphml(graph: networkx.MultiDiGraph) -> bytes:
    import networkx

    stream = io.BytesIO()
    networkx.write_graphml(graph, stream)
    return stream.getvalue()
