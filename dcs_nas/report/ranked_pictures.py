"""Ranked lists as PNG files, hardest query first, and an overview of them all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from dcs_nas.data.cache import read_image
from dcs_nas.data.records import ReidDataset
from dcs_nas.errors import InputError
from dcs_nas.evaluation import FeatureSet
from dcs_nas.files import atomic_path, write_json
from dcs_nas.report import contact_sheet as sheet_of
from dcs_nas.report.contact_sheet import Cell, Sizes
from dcs_nas.report.palette import theme
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
        colours, sizes = theme(self.appearance), sheet_of.sizes(_HEIGHT, self.aspect)
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
        legend = sheet_of.legend_width(sizes.text, self._note)
        right = max(left + sizes.step * max(map(len, rows)), end + len(late) * sizes.step) - sizes.gap
        widest = max(right - _MARGIN, legend, *_widths(lines, sizes))
        bottom = first + len(rows) * row_height
        sheet = sheet_of.paper(widest + 2 * _MARGIN, bottom + sizes.line + _MARGIN, colours)
        for i, line in enumerate(lines):
            sheet_of.write(sheet, (_MARGIN, _MARGIN - 8 + i * sizes.line), line, sizes.text, colours.text)
        sheet_of.draw_cell(sheet, query, (_MARGIN, first), sizes, colours)
        for i, row in enumerate(rows):
            sheet_of.draw_cells(sheet, row, (left, first + i * row_height), sizes, colours)
        sheet_of.draw_cells(sheet, late, (end, first + (len(rows) - 1) * row_height), sizes, colours)
        sheet_of.draw_legend(sheet, (_MARGIN, bottom), sizes.text, colours, note=self._note)
        return sheet

    def overview(self, lists: Sequence[RankedList]) -> Image.Image:
        """The hardest lists, one row each."""
        colours, sizes = theme(self.appearance), sheet_of.sizes(_OVERVIEW_HEIGHT, self.aspect)
        shown = lists[:_OVERVIEW_ROWS]
        title = f"The {len(shown)} hardest queries" if len(shown) > 1 else "The hardest query"
        lines = (title, self.subtitle)
        label = max(sheet_of.text_width(text, sizes.text) for r in shown for text in _labels(r)) + sizes.gap
        rows = [self._cells(ranked, sizes) for ranked in shown]
        most = max(len(images) + len(late) for _, images, late in rows)
        row_height = sizes.cell_height(2) + 10
        first = _MARGIN + 2 * sizes.line + sizes.gap
        left = _MARGIN + label
        gallery = left + sizes.step + sizes.gap
        legend = sheet_of.legend_width(sizes.text, self._note)
        widest = max(gallery - _MARGIN + most * sizes.step + sizes.gap, legend, *_widths(lines, sizes))
        bottom = first + len(rows) * row_height
        sheet = sheet_of.paper(widest + 2 * _MARGIN, bottom + sizes.line + _MARGIN, colours)
        for i, line in enumerate(lines):
            sheet_of.write(sheet, (_MARGIN, _MARGIN - 8 + i * sizes.line), line, sizes.text, colours.text)
        for i, (ranked, (query, images, late)) in enumerate(zip(shown, rows)):
            top = first + i * row_height
            for j, text in enumerate(_labels(ranked)):
                sheet_of.write(sheet, (_MARGIN, top + j * sizes.line), text, sizes.text, colours.text)
            sheet_of.draw_cell(sheet, query, (left, top), sizes, colours)
            sheet_of.draw_cells(sheet, images, (gallery, top), sizes, colours)
            sheet_of.draw_cells(sheet, late, (gallery + len(images) * sizes.step + sizes.gap, top), sizes, colours)
        sheet_of.draw_legend(sheet, (_MARGIN, bottom), sizes.text, colours, note=self._note)
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
    return [sheet_of.text_width(line, sizes.text) for line in lines]


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, optimize=True)
