"""Genotypes as pictures: the parts of one, the difference of two, a search over its epochs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from dcs_nas.errors import InputError, choices
from dcs_nas.files import atomic_path
from dcs_nas.report.dot import Panels, paint_graph, paint_panels, to_dot
from dcs_nas.report.drawn_graph import difference_graph, drawn_graph, graph_since, stages_of
from dcs_nas.report.palette import Theme, family
from dcs_nas.report.palette import theme as find_theme
from dcs_nas.report.tikz import tikz_document
from dcs_nas.runs import RunFolder
from dcs_nas.space import AnyGenotype

if TYPE_CHECKING:
    import networkx

FORMATS = ("svg", "png", "pdf", "dot", "graphml", "tikz", "darts")
_PAINTED = ("svg", "png", "pdf")
_MILLISECONDS, _LAST = 700, 2500
_WIDEST = 1280  # pixels
_TITLE = 22  # pixels of a letter
_PAD = 14


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
    operation. ``tikz`` is LaTeX, ``normal.tex``. ``darts`` is no drawing but the text of DARTS, ``genotype.txt``.

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
            elif form == "tikz":
                self.save(f"{stem}.tex", tikz_document(graph, self.theme).encode())
            elif form != "darts":
                self.save(f"{stem}.{form}", self.note(paint_graph(graph, self.theme, form)))

    def write_text(self, name: str, genotype: AnyGenotype) -> None:
        """The text of DARTS; a note says what it does not hold."""
        self.save(name, genotype.to_darts_text().encode())
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


def read_epochs(folder: Path) -> list[tuple[int, AnyGenotype]]:
    """Return the genotypes that a search recorded, with their epochs from 1, in order.

    ``folder`` is the run's or the ``architecture/`` in it.

    Raises:
        InputError: no record there, or one that does not describe a network.
    """
    run = RunFolder(folder)
    if folder == RunFolder(folder.parent).architecture:
        run = RunFolder(folder.parent)
    epochs = run.epoch_genotypes()
    if not epochs:
        raise InputError(
            f"{folder} holds no epochs of a search (architecture/epoch_NNN.yaml); name a search's run folder, "
            "or a genotype file"
        )
    return epochs


def draw_history(folder: Path, out: Path, *, formats: Sequence[str] = ("svg", "png"), theme: str = "light") -> Drawing:
    """Draw what the search in ``folder`` recorded: strips of its cells, or what changed in its chain; animations.

    Raises:
        InputError: as ``read_epochs``, ``draw_strip`` and ``draw_difference``.
    """
    epochs = read_epochs(folder)
    (first, a), (last, b) = epochs[0], epochs[-1]
    if is_strip(b):
        drawing = draw_strip([(f"epoch {epoch}", g) for epoch, g in epochs], out, formats=formats, theme=theme)
    else:
        drawing = draw_difference(a, b, out, formats=formats, theme=theme)
        drawing.note = f"{drawing.files[0].stem}: from epoch {first} to epoch {last}"
    drawing.files += draw_animation(epochs, out, theme=theme)
    return drawing


def draw_animation(genotypes: Sequence[tuple[int, AnyGenotype]], out: Path, *, theme: str = "light") -> list[Path]:
    """Write ``animation_normal.gif``, ..., or ``animation_chain.gif``, a frame for each (epoch, genotype).

    What an epoch has new is marked with a plus; a chain shows what changed from the epoch before. The last frame stays
    longer, and the animation repeats.

    Raises:
        InputError: no genotype, or genotypes of different spaces.
    """
    if not genotypes:
        raise InputError("an animation needs at least one genotype, got none; name a run with saved epochs")
    (_, first), *others = genotypes
    for epoch, other in others:
        other.require_space(first.space, name=first.space.name, source=f"epoch {epoch}")
    colours = find_theme(theme)
    return [
        _write(list(_frames(genotypes, part, colours)), out / f"animation_{part}.gif", colours) for part in first.parts
    ]


def _frames(genotypes: Sequence[tuple[int, AnyGenotype]], part: str, theme: Theme) -> Iterator[tuple[str, Image.Image]]:
    before: AnyGenotype | None = None
    for epoch, genotype in genotypes:
        painted, _ = paint_graph(epoch_graph(genotype, part, before), theme, "png")
        yield f"epoch {epoch}: {title_of(genotype, part)}", _opened(painted)
        before = genotype


def _opened(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as picture:
        return picture.convert("RGB")


def _write(frames: Sequence[tuple[str, Image.Image]], path: Path, theme: Theme) -> Path:
    """All frames on sheets of one size, so that nothing jumps; larger pictures are scaled down together."""
    width, height = (max(picture.size[axis] for _, picture in frames) for axis in (0, 1))
    scale = min(1.0, _WIDEST / width)
    size = round(width * scale) + 2 * _PAD, round(height * scale) + 3 * _PAD + _TITLE
    first, *others = [_sheet(title, picture, scale, size, theme) for title, picture in frames]
    durations = [_MILLISECONDS] * len(others) + [_LAST]
    with atomic_path(path) as temporary:
        first.save(temporary, save_all=True, append_images=others, duration=durations, loop=0, disposal=1)
    return path


def _sheet(title: str, picture: Image.Image, scale: float, size: tuple[int, int], theme: Theme) -> Image.Image:
    sheet = Image.new("RGB", size, theme.ground)
    ImageDraw.Draw(sheet).text((_PAD, _PAD), title, fill=theme.text, font=ImageFont.load_default(_TITLE))
    shrunk = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    sheet.paste(shrunk, (_PAD, 2 * _PAD + _TITLE + (size[1] - 3 * _PAD - _TITLE - shrunk.height) // 2))
    return sheet.quantize(128, dither=Image.Dither.NONE)
