"""Pictures of ranked lists: images in frames whose colour, stroke and mark say whether the person is the right one.

All lengths are pixels. A right image has a solid green frame and a tick, a wrong one a dashed vermilion frame and a
cross, so that nothing depends on telling green from red.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from dcs_nas.report.palette import Theme

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


def sizes(height: int, aspect: float) -> Sizes:
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
