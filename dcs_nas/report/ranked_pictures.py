"""Ranked lists as PNG files, hardest query first, and an overview of them all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from dcs_nas.data.images import read_image
from dcs_nas.data.records import ReidDataset
from dcs_nas.errors import InputError
from dcs_nas.evaluation import FeatureSet
from dcs_nas.files import atomic_path, write_json
from dcs_nas.report.palette import Theme, theme
from dcs_nas.report.retrieval import RankedList, Retrieved, as_plain

OVERVIEW = "overview.png"
INDEX = "ranked.json"
_OURS = re.compile(r"\d+_ap_\d\.\d+\.png")
_PER_ROW = 10
_MARGIN = 24
_HEIGHT, _OVERVIEW_HEIGHT = 192, 96
_OVERVIEW_ROWS = 30
_CAPTIONS = "below each: rank, distance, camera"
_NOTE = "left out: the same person by the query's own camera"


@dataclass(frozen=True)
class RankedPictures:
    """Draws ranked lists of one data set.

    ``subtitle`` says what was ranked and how; ``aspect`` is an image's width over its height; ``camera_filter`` says
    whether the lists leave the same person by the query's own camera out.
    """

    dataset: ReidDataset
    features: FeatureSet
    aspect: float = 0.5
    subtitle: str = ""
    camera_filter: bool = True
    appearance: str = "light"
    _cameras: Mapping[int, str] = field(init=False)

    def __post_init__(self) -> None:
        names = self.dataset.camera_map or {}
        object.__setattr__(self, "_cameras", {number: name for name, number in names.items()})

    def write(
        self, lists: Sequence[RankedList], folder: Path, *, progress: Callable[[int, int], None] | None = None
    ) -> list[Path]:
        """One picture for each list (``RANK_ap_AP.png``), an overview, and ``ranked.json``; older ones are replaced.

        Raises:
            InputError: no list, or an image file that does not decode.
        """
        if not lists:
            raise InputError("no query has a ranked list to draw; ask for at least one picture")
        for old in folder.glob("*.png"):
            if _OURS.fullmatch(old.name):
                old.unlink()
        digits = max(3, len(str(len(lists))))
        files = [f"{ranked.difficulty:0{digits}d}_ap_{ranked.average_precision:.3f}.png" for ranked in lists]
        for done, (ranked, file) in enumerate(zip(lists, files), start=1):
            _save(self.picture(ranked), folder / file)
            if progress:
                progress(done, len(lists))
        _save(self.overview(lists), folder / OVERVIEW)
        write_json(folder / INDEX, as_plain(lists, files, self.features))
        return [folder / file for file in (*files, OVERVIEW)]

    def picture(self, ranked: RankedList) -> Image.Image:
        """One list: the query, then rows of ten images."""
        colours, sizes = theme(self.appearance), sheet_sizes(_HEIGHT, self.aspect)
        query, images, late = self._cells(ranked, sizes)
        rows = [images[i : i + _PER_ROW] for i in range(0, len(images), _PER_ROW)]
        row_height = sizes.cell_height(2) + sizes.gap
        first = _MARGIN + 2 * sizes.line + sizes.gap
        left = _MARGIN + sizes.step + 2 * sizes.gap
        end = left + len(rows[-1]) * sizes.step + sizes.gap
        kind = "easiest" if ranked.easy else "hardest"
        title = (
            f"{_ordinal(ranked.difficulty)} {kind} query: AP {100 * ranked.average_precision:.1f} %, "
            f"{_matches(ranked.matches)}, the first at rank {ranked.first_match.place:,}"
        )
        lines = (title, f"{self._query_path(ranked)}   {self.subtitle}")
        legend = legend_width(sizes.text, self._note)
        right = max(left + sizes.step * max(map(len, rows)), end + len(late) * sizes.step) - sizes.gap
        widest = max(right - _MARGIN, legend, *_widths(lines, sizes))
        bottom = first + len(rows) * row_height
        sheet = paper(widest + 2 * _MARGIN, bottom + sizes.line + _MARGIN, colours)
        for i, line in enumerate(lines):
            write(sheet, (_MARGIN, _MARGIN - 8 + i * sizes.line), line, sizes.text, colours.text)
        draw_cell(sheet, query, (_MARGIN, first), sizes, colours)
        for i, row in enumerate(rows):
            draw_cells(sheet, row, (left, first + i * row_height), sizes, colours)
        draw_cells(sheet, late, (end, first + (len(rows) - 1) * row_height), sizes, colours)
        draw_legend(sheet, (_MARGIN, bottom), sizes.text, colours, note=self._note)
        return sheet

    def overview(self, lists: Sequence[RankedList]) -> Image.Image:
        """The hardest lists, one row each."""
        colours, sizes = theme(self.appearance), sheet_sizes(_OVERVIEW_HEIGHT, self.aspect)
        shown = lists[:_OVERVIEW_ROWS]
        title = f"The {len(shown)} hardest queries" if len(shown) > 1 else "The hardest query"
        lines = (title, self.subtitle)
        label = max(text_width(text, sizes.text) for r in shown for text in _labels(r)) + sizes.gap
        rows = [self._cells(ranked, sizes) for ranked in shown]
        most = max(len(images) + len(late) for _, images, late in rows)
        row_height = sizes.cell_height(2) + 10
        first = _MARGIN + 2 * sizes.line + sizes.gap
        left = _MARGIN + label
        gallery = left + sizes.step + sizes.gap
        legend = legend_width(sizes.text, self._note)
        widest = max(gallery - _MARGIN + most * sizes.step + sizes.gap, legend, *_widths(lines, sizes))
        bottom = first + len(rows) * row_height
        sheet = paper(widest + 2 * _MARGIN, bottom + sizes.line + _MARGIN, colours)
        for i, line in enumerate(lines):
            write(sheet, (_MARGIN, _MARGIN - 8 + i * sizes.line), line, sizes.text, colours.text)
        for i, (ranked, (query, images, late)) in enumerate(zip(shown, rows)):
            top = first + i * row_height
            for j, text in enumerate(_labels(ranked)):
                write(sheet, (_MARGIN, top + j * sizes.line), text, sizes.text, colours.text)
            draw_cell(sheet, query, (left, top), sizes, colours)
            draw_cells(sheet, images, (gallery, top), sizes, colours)
            draw_cells(sheet, late, (gallery + len(images) * sizes.step + sizes.gap, top), sizes, colours)
        draw_legend(sheet, (_MARGIN, bottom), sizes.text, colours, note=self._note)
        return sheet

    @property
    def _note(self) -> str:
        return f"{_CAPTIONS}; {_NOTE}" if self.camera_filter else _CAPTIONS

    def _cells(self, ranked: RankedList, sizes: Sizes) -> tuple[Cell, list[Cell], list[Cell]]:
        """The query, the first images, and the first match where it comes later than these."""
        picture = self._read(self.dataset.query[ranked.query].path, sizes)
        query = Cell(picture, "query", ("query", self._camera(ranked.camera)))
        late = ranked.first_match.place > len(ranked.images)
        images = [self._cell(image, sizes) for image in ranked.images]
        return query, images, [self._cell(ranked.first_match, sizes)] if late else []

    def _cell(self, image: Retrieved, sizes: Sizes) -> Cell:
        captions = (f"{image.place:,}: {image.distance:.3f}", self._camera(image.camera))
        path = self.dataset.gallery[image.index].path
        return Cell(self._read(path, sizes), "right" if image.match else "wrong", captions)

    def _camera(self, number: int) -> str:
        return f"camera {self._cameras.get(number, number)}"

    def _query_path(self, ranked: RankedList) -> str:
        return self.dataset.query[ranked.query].path

    def _read(self, path: str, sizes: Sizes) -> Image.Image:
        return Image.fromarray(read_image(self.dataset.root / path, height=sizes.height, width=sizes.width))


def _labels(ranked: RankedList) -> tuple[str, str, str]:
    return (
        f"{ranked.difficulty}",
        f"AP {100 * ranked.average_precision:.1f} %",
        f"{_matches(ranked.matches)}",
    )


def _matches(count: int) -> str:
    return "1 match" if count == 1 else f"{count:,} matches"


def _ordinal(number: int) -> str:
    """
    >>> [_ordinal(n) for n in (1, 2, 3, 4, 11, 22)]
    ['The', 'The 2nd', 'The 3rd', 'The 4th', 'The 11th', 'The 22nd']
    """
    if number == 1:
        return "The"
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"The {number}{ending}"


def _widths(lines: Sequence[str], sizes: Sizes) -> list[int]:
    return [text_width(line, sizes.text) for line in lines]


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, optimize=True)


Kind = Literal["query", "right", "wrong"]

_LONGEST = "10,000: 0.000"  # a caption for which there must be room
_SMOOTH = 4  # marks are drawn so many times larger, then scaled down


@dataclass(frozen=True)
class Cell:
    """One image of a list: what it shows, how it is framed, and the lines below it."""

    image: Image.Image
    kind: Kind
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """Height and width of an image, thickness of its frame, space between cells, height of the text."""

    height: int
    width: int
    frame: int
    gap: int
    text: int

    @property
    def step(self) -> int:
        """From one cell to the next."""
        return self.width + 2 * self.frame + self.gap

    def cell_height(self, captions: int) -> int:
        return self.height + 2 * self.frame + 6 + captions * self.line

    @property
    def line(self) -> int:
        """From one line of text to the next."""
        return round(1.3 * self.text)


def sheet_sizes(height: int, aspect: float) -> Sizes:
    """Sizes of a sheet whose images are ``height`` high and ``aspect`` times as wide, with room for captions."""
    width, frame, text = max(16, round(height * aspect)), max(3, height // 32), 12 + height // 48
    room = text_width(_LONGEST, text) + 8 - width - 2 * frame
    return Sizes(height, width, frame, max(10, height // 12, room), text)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size)


def paper(width: int, height: int, theme: Theme) -> Image.Image:
    return Image.new("RGB", (width, height), theme.ground)


def write(sheet: Image.Image, place: tuple[int, int], text: str, size: int, colour: str) -> None:
    ImageDraw.Draw(sheet).text(place, text, fill=colour, font=font(size))


def text_width(text: str, size: int) -> int:
    return round(font(size).getlength(text))


def fitted(text: str, width: int, size: int) -> str:
    """``text``, its end replaced by dots where it is wider than ``width``."""
    if text_width(text, size) <= width:
        return text
    kept = next((n for n in range(len(text), 0, -1) if text_width(text[:n] + "...", size) <= width), 0)
    return text[:kept] + "..."


def draw_cells(sheet: Image.Image, cells: Sequence[Cell], place: tuple[int, int], sizes: Sizes, theme: Theme) -> None:
    """A row of cells whose first begins at ``place`` (left, top)."""
    for i, cell in enumerate(cells):
        draw_cell(sheet, cell, (place[0] + i * sizes.step, place[1]), sizes, theme)


def draw_cell(sheet: Image.Image, cell: Cell, place: tuple[int, int], sizes: Sizes, theme: Theme) -> None:
    left, top = place
    frame, colour = sizes.frame, colour_of(cell.kind, theme)
    sheet.paste(cell.image.resize((sizes.width, sizes.height)), (left + frame, top + frame))
    right, bottom = left + sizes.width + 2 * frame, top + sizes.height + 2 * frame
    draw_frame(sheet, (left, top, right, bottom), frame, colour, dashed=cell.kind == "wrong")
    if cell.kind != "query":
        side = max(16, sizes.height // 9)
        mark = mark_of(cell.kind, side, colour, theme)
        sheet.paste(mark, (right - side - frame // 2, top + frame // 2), mark)
    for i, caption in enumerate(cell.captions):
        fitting = fitted(caption, sizes.step - 6, sizes.text)
        write(sheet, (left, bottom + 4 + i * sizes.line), fitting, sizes.text, theme.text)


def colour_of(kind: Kind, theme: Theme) -> str:
    """Bluish green, vermilion, or the text's colour for a query (Okabe and Ito, 2008)."""
    return {
        "right": theme.families["dilated"].line,
        "wrong": theme.changes["removed"].line,
        "query": theme.text,
    }[kind]


def draw_frame(sheet: Image.Image, box: tuple[int, int, int, int], thick: int, colour: str, *, dashed: bool) -> None:
    """A frame inside ``box`` (left, top, right, bottom); dashed ones have gaps as long as their dashes."""
    draw = ImageDraw.Draw(sheet)
    left, top, right, bottom = box
    if not dashed:
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=thick)
        return
    for a, b in _dashes(left, right, 3 * thick):
        draw.rectangle((a, top, b - 1, top + thick - 1), fill=colour)
        draw.rectangle((a, bottom - thick, b - 1, bottom - 1), fill=colour)
    for a, b in _dashes(top, bottom, 3 * thick):
        draw.rectangle((left, a, left + thick - 1, b - 1), fill=colour)
        draw.rectangle((right - thick, a, right - 1, b - 1), fill=colour)


def mark_of(kind: Kind, side: int, colour: str, theme: Theme) -> Image.Image:
    """A disc (side, side) with a tick or a cross, transparent around it."""
    big = side * _SMOOTH
    mark = Image.new("RGBA", (big, big), (0, 0, 0, 0))
    draw = ImageDraw.Draw(mark)
    draw.ellipse((0, 0, big - 1, big - 1), fill=colour, outline=theme.ground, width=big // 12)
    strokes = {
        "right": [(0.28, 0.53), (0.44, 0.69), (0.73, 0.34)],
        "wrong": [(0.32, 0.32), (0.68, 0.68), (0.5, 0.5), (0.68, 0.32), (0.32, 0.68)],
    }[kind]
    draw.line([(x * big, y * big) for x, y in strokes], fill=theme.ground, width=big // 8, joint="curve")
    return mark.resize((side, side), Image.Resampling.LANCZOS)


def draw_legend(sheet: Image.Image, place: tuple[int, int], size: int, theme: Theme, *, note: str) -> None:
    """What frames and marks mean, in one line that begins at ``place``, and what else is to be said."""
    left, top = place
    kinds: tuple[tuple[Kind, str], ...] = (("right", "the query's person"), ("wrong", "someone else"))
    for kind, meaning in kinds:
        colour = colour_of(kind, theme)
        draw_frame(sheet, (left, top, left + 2 * size, top + size + 4), 3, colour, dashed=kind == "wrong")
        mark = mark_of(kind, size, colour, theme)
        sheet.paste(mark, (left + size // 2, top + 2), mark)
        write(sheet, (left + 2 * size + 8, top), meaning, size, theme.text)
        left += 2 * size + 8 + text_width(meaning, size) + 2 * size
    write(sheet, (left, top), note, size, theme.text)


def legend_width(size: int, note: str) -> int:
    """How wide ``draw_legend`` writes."""
    return sum(4 * size + 8 + text_width(t, size) for t in ("the query's person", "someone else")) + text_width(
        note, size
    )


def _dashes(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    """An odd number of equal pieces from ``start`` to ``stop``, every second of them: dashes begin and end corners."""
    pieces = max(3, round((stop - start) / length) | 1)
    edges = [start + round(i * (stop - start) / pieces) for i in range(pieces + 1)]
    return list(zip(edges[::2], edges[1::2]))
