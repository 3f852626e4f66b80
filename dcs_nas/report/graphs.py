"""Genotypes as pictures: the cells or the chain of one, the difference of two, a strip of cells over the epochs."""

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
from dcs_nas.report.dot import Panels, strip_dot, to_dot
from dcs_nas.report.drawn_graph import difference_graph, drawn_graph, graph_since, stages_of
from dcs_nas.report.palette import Theme, family
from dcs_nas.report.palette import theme as find_theme
from dcs_nas.space import AnyGenotype

if TYPE_CHECKING:
    import networkx

FORMATS = ("svg", "png", "pdf", "dot", "graphml", "darts")
_PAINTED = ("svg", "png", "pdf")
_DPI = 192


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
    one is given. Graphviz lays out and paints svg, png and pdf; without its ``dot`` program the pictures are plain ones
    by matplotlib, and the drawing's note says so. ``graphml`` holds the genotype's graph with the family of every
    operation. ``darts`` is no drawing but the text of DARTS, ``genotype.txt``.

    Raises ``InputError`` for a format or theme that does not exist, and for ``darts`` of a chain.
    """
    job = _Job(out, formats, theme)
    if "darts" in job.formats:
        job.write_text(f"{stem}genotype.txt", genotype)
    for part, graph in genotype.graphs().items():
        job.write(stem + part, drawn_graph(graph), graph)
    overview = genotype.overview()
    if overview is not None:
        job.write(f"{stem}network", drawn_graph(overview))
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
    for part in (part for part in a.parts if part in b.parts):
        job.write(f"difference_{part}", difference_graph(a.graph(part), b.graph(part)))
    return job.drawing


def epoch_graph(genotype: AnyGenotype, part: str, before: AnyGenotype | None) -> networkx.MultiDiGraph:
    """Return what a drawing of one part shows; what it has otherwise than ``before`` is marked."""
    graph = genotype.graph(part)
    return drawn_graph(graph) if before is None else graph_since(graph, before.graph(part))


def title_of(genotype: AnyGenotype, part: str) -> str:
    """Return the words for a part, such as ``normal cell`` or ``chain``."""
    return part if part == genotype.kind else f"{part} {genotype.kind.removesuffix('s')}"


def draw_strip(
    genotypes: Sequence[tuple[str, AnyGenotype]],
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
    if not is_strip(genotypes[0][1]):
        kind = genotypes[0][1].kind
        raise InputError(f"a strip shows cells, and these genotypes are {kind}s; draw the difference of two of them")
    for name in formats:
        if name in FORMATS and name not in _PAINTED:
            raise InputError(f"a strip is a figure and cannot be written as {name}; use {', '.join(_PAINTED)}")
    _require_same_space(genotypes)
    job = _Job(out, formats, theme)
    for part in genotypes[0][1].parts:
        panels = strip_panels(genotypes, part)
        for form in job.formats:
            job.save(f"strip_{part}.{form}", job.note(paint_panels(panels, job.theme, form, columns=columns)))
    return job.drawing


def is_strip(genotype: AnyGenotype) -> bool:
    """Return whether several epochs of a genotype go into one picture: one without stages."""
    return not any(stages_of(drawn_graph(graph)) for graph in genotype.graphs().values())


def strip_panels(genotypes: Sequence[tuple[str, AnyGenotype]], part: str) -> Panels:
    """Return a panel for each run of genotypes with the same part; its title names the first and the last of them."""
    runs: list[list[tuple[str, AnyGenotype]]] = []
    for title, genotype in genotypes:
        if runs and runs[-1][-1][1].part(part) == genotype.part(part):
            runs[-1].append((title, genotype))
        else:
            runs.append([(title, genotype)])
    before = [None, *(run[0][1] for run in runs)]
    return [
        (run[0][0] if len(run) == 1 else f"{run[0][0]} – {run[-1][0]}", epoch_graph(run[0][1], part, since))
        for run, since in zip(runs, before)
    ]


def paint_graph(graph: networkx.MultiDiGraph, theme: Theme, form: str) -> tuple[bytes, str]:
    """Return one graph as svg, png or pdf by Graphviz, or a plain one by matplotlib and a note why."""
    return _paint([("", graph)], theme, form, columns=0)


def paint_panels(panels: Panels, theme: Theme, form: str, *, columns: int | None = None) -> tuple[bytes, str]:
    """Return several cells (title, graph) side by side as ``paint_graph`` does one."""
    return _paint(panels, theme, form, columns=columns or (1 if len(panels) < 3 else 2 if len(panels) < 9 else 3))


def _paint(panels: Panels, theme: Theme, form: str, *, columns: int) -> tuple[bytes, str]:
    if shutil.which("dot") is None:
        note = "plain drawings by matplotlib, since Graphviz' dot is not on this machine (apt install graphviz)"
    else:
        try:
            dot = strip_dot(panels, theme, columns=columns) if columns else to_dot(panels[0][1], theme)
            dot.attr("graph", **({"dpi": str(_DPI)} if form == "png" else {}))
            return dot.pipe(format=form, quiet=True), ""
        except subprocess.CalledProcessError as error:
            text = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
            message = next(iter(text.strip().splitlines()), "no message")
            note = f"plain drawings by matplotlib, since dot failed: {message}"
    from dcs_nas.report.plain import draw_plain

    return draw_plain(panels, theme, form, columns=columns or 1), note


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

    def write(self, stem: str, graph: networkx.MultiDiGraph, own: networkx.MultiDiGraph | None = None) -> None:
        """One graph in every format; GraphML holds the genotype's ``own`` graph or, without one, what is drawn."""
        for form in self.formats:
            if form == "graphml":
                self.save(f"{stem}.graphml", _graphml(own or graph))
            elif form == "dot":
                self.save(f"{stem}.dot", to_dot(graph, self.theme).source.encode())
            elif form != "darts":
                self.save(f"{stem}.{form}", self.note(paint_graph(graph, self.theme, form)))

    def write_text(self, name: str, genotype: AnyGenotype) -> None:
        """The text of DARTS; a note says what it does not hold."""
        self.save(name, genotype.published_text().encode())
        blocks = {
            p: d["label"] for p, g in genotype.graphs().items() for d in g.nodes.values() if d["role"] == "attention"
        }
        if blocks:
            attended = ", ".join(f"{part}: {block}" for part, block in blocks.items())
            self.drawing.note = f"{name} does not hold the attention of the cells ({attended})"

    def note(self, painted: tuple[bytes, str]) -> bytes:
        """Keep the note of what was painted, once."""
        content, note = painted
        if note not in self.drawing.note:
            self.drawing.note = "; ".join(filter(None, (self.drawing.note, note)))
        return content

    def save(self, name: str, content: bytes) -> None:
        with atomic_path(self.out / name) as temporary:
            temporary.write_bytes(content)
        self.drawing.files.append(self.out / name)


def _require_same_space(genotypes: Sequence[tuple[str, AnyGenotype]]) -> None:
    (_, a), *others = genotypes
    for name, b in others:
        b.require_space(a.space, name=a.space.name, source=name)


def _graphml(graph: networkx.MultiDiGraph) -> bytes:
    """A graph with the family of every operation and attention block."""
    import networkx

    graph = graph.copy()
    for *_, data in graph.edges(data=True):
        data.setdefault("family", family(data["op"]) if data.get("op") else "")
    for _, data in graph.nodes(data=True):
        data.setdefault("family", family(data["label"]) if data["role"] == "attention" else "")
    stream = io.BytesIO()
    networkx.write_graphml(graph, stream)
    return stream.getvalue()
