"""Genotypes as pictures: the parts of one, the difference of two, a search over its epochs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from PIL import Image, ImageDraw, ImageFont

from dcs_nas.errors import InputError, choices
from dcs_nas.files import atomic_path
from dcs_nas.report.dot import Panels, paint_graph, paint_panels, to_dot
from dcs_nas.report.drawn_graph import list_stages, make_difference_graph, make_drawing_graph, mark_new
from dcs_nas.report.palette import Theme, get_family, get_theme
from dcs_nas.report.tikz import make_tikz
from dcs_nas.runs import RunFolder
from dcs_nas.space import AnyGenotype

if TYPE_CHECKING:
    import networkx

FORMATS = ("svg", "png", "pdf", "dot", "graphml", "tikz", "darts")
_PAINTED = ("svg", "png", "pdf")
_MILLISECONDS, _LAST, _LONGEST = 700, 2500, 5000
_WIDEST = 1280  # pixels
_TITLE = 22  # pixels of a letter
_PAD = 14
T = TypeVar("T")


@dataclass
class Drawing:
    """The files written, and a note for the user on what differs from the usual drawing."""

    files: list[Path] = field(default_factory=list)
    note: str = ""


def draw(genotype: AnyGenotype, out: Path, *, formats: Sequence[str] = ("svg", "png"), theme: str = "light") -> Drawing:
    """Draw every kind of cell and the whole network into the folder ``out``; of a chain, the chain.

    The files are ``normal.svg``, ``reduce.svg``, ``network.svg``, ..., or ``chain.svg``. Graphviz lays out and paints
    svg, png and pdf; without its ``dot`` program matplotlib draws plain pictures, and the drawing's note says so.
    ``graphml`` holds the genotype's graph with the family of every operation. ``tikz`` is LaTeX, ``normal.tex``.
    ``darts`` is the text of DARTS, ``genotype.txt``.

    Raises ``InputError`` for an unknown format or theme, and for ``darts`` of a chain.
    """
    job = _Job(out, formats, theme)
    if "darts" in job.formats:
        job.write_text("genotype.txt", genotype)
    for part, graph in genotype.graphs().items():
        job.write(part, make_drawing_graph(graph), graph)
    overview = genotype.overview()
    if overview is not None:
        job.write("network", make_drawing_graph(overview))
    return job.drawing


def draw_difference(
    a: AnyGenotype, b: AnyGenotype, out: Path, *, formats: Sequence[str] = ("svg", "png"), theme: str = "light"
) -> Drawing:
    """Draw the changes from ``a`` to ``b`` into ``difference_normal.svg``, ..., or ``difference_chain.svg`` in ``out``.

    Operations in both are thin and grey; removed ones are dashed with a minus, added ones thick with a plus, each in
    its own colour. Raises ``InputError`` for genotypes of different spaces.
    """
    _require_same_space([("the first genotype", a), ("the second", b)])
    job = _Job(out, formats, theme)
    if "darts" in job.formats:
        raise InputError(
            "found the format darts, but a difference has no text of DARTS; draw each genotype by itself as darts"
        )
    for part in (part for part in a.parts if part in b.parts):
        job.write(f"difference_{part}", make_difference_graph(a.graph(part), b.graph(part)))
    return job.drawing


def make_epoch_graph(genotype: AnyGenotype, part: str, before: AnyGenotype | None) -> networkx.MultiDiGraph:
    """Return the graph of one part for a drawing; differences from ``before`` are marked."""
    graph = genotype.graph(part)
    return make_drawing_graph(graph) if before is None else mark_new(graph, before.graph(part))


def make_title(genotype: AnyGenotype, part: str) -> str:
    """Return the title of a part, such as ``normal cell`` or ``chain``."""
    return part if part == genotype.kind else f"{part} {genotype.kind.removesuffix('s')}"


def draw_strip(
    genotypes: Sequence[tuple[str, AnyGenotype]],
    out: Path,
    *,
    formats: Sequence[str] = ("svg", "png"),
    theme: str = "light",
) -> Drawing:
    """Draw each kind of cell over the epochs, a panel per ``(title, genotype)``, into ``strip_normal.svg``, ...

    Epochs in which a cell did not change share a panel; new operations have a plus.
    Raises ``InputError`` without genotypes, for genotypes of different spaces and for formats other than figures.
    """
    if not genotypes:
        raise InputError("a strip has no genotype, expected at least one; name a run with recorded epochs")
    if not is_strip(genotypes[0][1]):
        kind = genotypes[0][1].kind
        raise InputError(f"these genotypes are {kind}s, expected cells for a strip; draw the difference of two of them")
    for name in formats:
        if name in FORMATS and name not in _PAINTED:
            raise InputError(f"found the format {name}, but a strip is a figure; use {', '.join(_PAINTED)}")
    _require_same_space(genotypes)
    job = _Job(out, formats, theme)
    for part in genotypes[0][1].parts:
        panels = make_strip_panels(genotypes, part)
        for form in job.formats:
            job.save(f"strip_{part}.{form}", job.note(paint_panels(panels, job.theme, form)))
    return job.drawing


def is_strip(genotype: AnyGenotype) -> bool:
    """Return whether several epochs of a genotype fit in one picture, which needs a genotype without stages."""
    return not any(list_stages(make_drawing_graph(graph)) for graph in genotype.graphs().values())


def make_strip_panels(genotypes: Sequence[tuple[str, AnyGenotype]], part: str) -> Panels:
    """Return a panel for each series of genotypes with the same part; its title names the first and the last one."""
    return [
        (names[0] if len(names) == 1 else f"{names[0]} – {names[-1]}", graph)
        for names, graph in list_changes(genotypes, part)
    ]


def list_changes(genotypes: Sequence[tuple[T, AnyGenotype]], part: str) -> list[tuple[list[T], networkx.MultiDiGraph]]:
    """Return, for each series of genotypes with the same part, their names or epochs and the part's graph.

    Differences from the series before are marked.
    """
    series = [list(members) for _, members in groupby(genotypes, key=lambda pair: pair[1].part(part))]
    before = [None, *(members[0][1] for members in series)]
    return [
        ([name for name, _ in members], make_epoch_graph(members[0][1], part, since))
        for members, since in zip(series, before)
    ]


class _Job:
    """The output of a drawing: folder, formats, theme, and the files written."""

    def __init__(self, out: Path, formats: Sequence[str], theme: str) -> None:
        for name in formats:
            if name not in FORMATS:
                raise InputError(f"unknown format '{name}' of a drawing; {choices(name, FORMATS)}")
        if not formats:
            raise InputError(f"no format to draw in, expected at least one; known: {', '.join(FORMATS)}")
        self.out, self.formats = out, tuple(dict.fromkeys(formats))
        self.theme: Theme = get_theme(theme)
        self.drawing = Drawing()

    def write(self, stem: str, graph: networkx.MultiDiGraph, own: networkx.MultiDiGraph | None = None) -> None:
        """Write one graph in every format; GraphML holds the genotype's ``own`` graph if it is given."""
        for form in self.formats:
            if form == "graphml":
                self.save(f"{stem}.graphml", _graphml(own or graph))
            elif form == "dot":
                self.save(f"{stem}.dot", to_dot(graph, self.theme).source.encode())
            elif form == "tikz":
                self.save(f"{stem}.tex", make_tikz(graph, self.theme).encode())
            elif form != "darts":
                self.save(f"{stem}.{form}", self.note(paint_graph(graph, self.theme, form)))

    def write_text(self, name: str, genotype: AnyGenotype) -> None:
        """Write the text of DARTS; a note names the attention that it omits."""
        self.save(name, genotype.to_darts_text().encode())
        blocks = {
            p: d["label"] for p, g in genotype.graphs().items() for d in g.nodes.values() if d["role"] == "attention"
        }
        if blocks:
            attended = ", ".join(f"{part}: {block}" for part, block in blocks.items())
            self.drawing.note = f"{name} omits the attention of the cells ({attended})"

    def note(self, painted: tuple[bytes, str]) -> bytes:
        """Return the content of a painting; add its note to the drawing's, once."""
        content, note = painted
        if note not in self.drawing.note:
            self.drawing.note = "; ".join(filter(None, (self.drawing.note, note)))
        return content

    def save(self, name: str, content: bytes) -> None:
        with atomic_path(self.out / name) as temporary:
            temporary.write_bytes(content)
        self.drawing.files.append(self.out / name)


def _require_same_space(genotypes: Sequence[tuple[str, AnyGenotype]]) -> None:
    (_, a), *further = genotypes
    for name, b in further:
        b.require_space(a.space, source=name)


def _graphml(graph: networkx.MultiDiGraph) -> bytes:
    """Return a graph as GraphML, with the family of every operation and attention block."""
    import networkx

    graph = graph.copy()
    for *_, data in graph.edges(data=True):
        data.setdefault("family", get_family(data["op"]) if data.get("op") else "")
    for _, data in graph.nodes(data=True):
        data.setdefault("family", get_family(data["label"]) if data["role"] == "attention" else "")
    stream = io.BytesIO()
    networkx.write_graphml(graph, stream)
    return stream.getvalue()


def read_epochs(folder: Path) -> list[tuple[int, AnyGenotype]]:
    """Return the genotypes that a search recorded, with their epochs from 1, in order.

    ``folder`` is the run's or the ``architecture/`` in it.

    Raises:
        InputError: no record, or one that does not describe a network.
    """
    epochs = _find_run(folder).epoch_genotypes()
    if not epochs:
        raise InputError(
            f"{folder} holds no epochs of a search (architecture/epoch_NNN.yaml); name the run folder of a "
            "search, or a genotype file"
        )
    return epochs


def _find_run(folder: Path) -> RunFolder:
    parent = RunFolder(folder.parent)
    return parent if folder == parent.architecture else RunFolder(folder)


def draw_history(folder: Path, out: Path, *, formats: Sequence[str] = ("svg", "png"), theme: str = "light") -> Drawing:
    """Draw the record of the search in ``folder``: strips of its cells or changes of its chain, and animations.

    Raises:
        InputError: as ``read_epochs``, ``draw_strip`` and ``draw_difference``.
    """
    epochs, step = read_epochs(folder), _find_run(folder).contents().step
    (first, a), (last, b) = epochs[0], epochs[-1]
    if is_strip(b):
        drawing = draw_strip([(f"{step} {epoch}", g) for epoch, g in epochs], out, formats=formats, theme=theme)
    else:
        drawing = draw_difference(a, b, out, formats=formats, theme=theme)
        note = f"{drawing.files[0].stem}: from {step} {first} to {step} {last}"
        drawing.note = "; ".join(filter(None, (note, drawing.note)))
    drawing.files += draw_animation(epochs, out, theme=theme, step=step)
    return drawing


def draw_animation(
    genotypes: Sequence[tuple[int, AnyGenotype]], out: Path, *, theme: str = "light", step: str = "epoch"
) -> list[Path]:
    """Write ``animation_normal.gif``, ..., or ``animation_chain.gif``, of (epoch or trial, genotype) pairs.

    Epochs in which a part did not change share a frame, which stays longer, up to 5 s. New operations have a plus; a
    chain shows the changes from the epoch before. The last frame stays longer, and the animation repeats.

    Raises:
        InputError: no genotype, or genotypes of different spaces.
    """
    if not genotypes:
        raise InputError("an animation has no genotype, expected at least one; name a run with recorded epochs")
    _require_same_space([(f"{step} {epoch}", genotype) for epoch, genotype in genotypes])
    colours, parts = get_theme(theme), genotypes[0][1].parts
    return [
        _write(_paint_frames(genotypes, part, colours, step), out / f"animation_{part}.gif", colours) for part in parts
    ]


@dataclass(frozen=True)
class _Frame:
    """A painted part as PNG, its title, and the milliseconds for which it is shown."""

    title: str
    png: bytes
    milliseconds: int


def _paint_frames(genotypes: Sequence[tuple[int, AnyGenotype]], part: str, theme: Theme, step: str) -> list[_Frame]:
    title, frames = make_title(genotypes[0][1], part), []
    for epochs, graph in list_changes(genotypes, part):
        span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        painted, _ = paint_graph(graph, theme, "png")
        frames.append(_Frame(f"{step} {span}: {title}", painted, min(_MILLISECONDS * len(epochs), _LONGEST)))
    return frames


def _write(frames: Sequence[_Frame], path: Path, theme: Theme) -> Path:
    """Write all frames on sheets of one size; larger pictures are scaled down together, one decoded at a time."""
    sizes = [Image.open(io.BytesIO(frame.png)).size for frame in frames]
    width, height = (max(size[axis] for size in sizes) for axis in (0, 1))
    scale = min(1.0, _WIDEST / width)
    size = round(width * scale) + 2 * _PAD, round(height * scale) + 3 * _PAD + _TITLE
    sheets = (_sheet(frame, scale, size, theme) for frame in frames)
    durations = [*(frame.milliseconds for frame in frames[:-1]), max(frames[-1].milliseconds, _LAST)]
    with atomic_path(path) as temporary:
        next(sheets).save(temporary, save_all=True, append_images=sheets, duration=durations, loop=0, disposal=1)
    return path


def _sheet(frame: _Frame, scale: float, size: tuple[int, int], theme: Theme) -> Image.Image:
    sheet = Image.new("RGB", size, theme.ground)
    ImageDraw.Draw(sheet).text((_PAD, _PAD), frame.title, fill=theme.text, font=ImageFont.load_default(_TITLE))
    with Image.open(io.BytesIO(frame.png)) as picture:
        shrunk = picture.convert("RGB").resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
    sheet.paste(shrunk, (_PAD, 2 * _PAD + _TITLE + (size[1] - 3 * _PAD - _TITLE - shrunk.height) // 2))
    return sheet.quantize(128, dither=Image.Dither.NONE)
