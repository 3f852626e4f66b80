"""Ranked lists of queries, and the images nearest to one image, as PNG files.

All lengths are pixels. A right image has a solid green frame and a tick, a wrong one a dashed vermilion frame and a
cross, so that no reader depends on the colours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from dcs_nas.data.images import read_image
from dcs_nas.data.records import Record, ReidDataset
from dcs_nas.errors import InputError
from dcs_nas.evaluation import FeatureSet
from dcs_nas.files import atomic_path, write_json
from dcs_nas.report.charts import make_style, without_glyph_warnings
from dcs_nas.report.palette import Theme, get_theme
from dcs_nas.report.retrieval import RankedList, Retrieved, to_plain_data

if TYPE_CHECKING:
    from dcs_nas.training.evaluate import Evaluation

OVERVIEW = "overview.png"
INDEX = "ranked.json"
_OURS = re.compile(r"\d+_ap_\d\.\d+\.png")
_PER_ROW = 10
_MARGIN, _DPI = 24, 100
_HEIGHT, _OVERVIEW_HEIGHT, _OVERVIEW_ROWS = 192, 96, 30
_LETTER = 0.68  # width of a letter of DejaVu Sans over its size, at most on average
_MARKS = {"right": "✓", "wrong": "✗"}
_LEGEND = "✓ solid: the query's identity    ✗ dashed: another identity    below each: rank, distance, camera"
_FILTERED = "; left out: the same identity by the query's own camera"
_NEAREST_LEGEND = "below each: rank and distance, file"


@dataclass(frozen=True)
class Cell:
    """An image of a list (h, w, 3), its kind (``query``, ``right``, ``wrong``, ``nearest``), and the lines below it."""

    pixels: np.ndarray
    kind: str
    captions: tuple[str, str]


@dataclass(frozen=True)
class Row:
    """Labels, the query where the row begins a list, its images, and a first match that comes after these."""

    labels: tuple[str, ...]
    query: Cell | None
    images: Sequence[Cell]
    late: Sequence[Cell] = ()


@dataclass(frozen=True)
class RankedPictures:
    """Draws ranked lists of one data set.

    ``subtitle`` names data and distance; ``aspect`` is an image's width over its height; with ``camera_filter`` the
    lists leave out images of the query's identity by the query's camera.
    """

    dataset: ReidDataset
    features: FeatureSet
    aspect: float = 0.5
    subtitle: str = ""
    camera_filter: bool = True
    appearance: str = "light"

    @classmethod
    def of_evaluation(cls, evaluation: Evaluation, *, appearance: str = "light") -> RankedPictures:
        """Return a drawer of the lists of an evaluation, under its data and distance."""
        height, width = evaluation.query.pixels[[0]].shape[1:3]
        protocol = evaluation.result.protocol
        steps = ["expanded queries"] * bool(protocol.expansion) + ["re-ranked"] * bool(protocol.rerank)
        return cls(
            evaluation.dataset,
            evaluation.features,
            aspect=width / height,
            subtitle=", ".join([evaluation.dataset.version, f"{protocol.metric} distance", *steps]),
            camera_filter=protocol.name != "no_camera_filter",
            appearance=appearance,
        )

    @cached_property
    def _cameras(self) -> Mapping[int, str]:
        return {number: name for name, number in (self.dataset.camera_map or {}).items()}

    @property
    def _legend(self) -> str:
        return _LEGEND + _FILTERED if self.camera_filter else _LEGEND

    def write(
        self, lists: Sequence[RankedList], folder: Path, *, progress: Callable[[int, int], None] | None = None
    ) -> list[Path]:
        """Write a picture of each list (``RANK_ap_AP.png``), an overview and ``ranked.json``; then remove older ones.

        Raises:
            InputError: no list, or an image file that does not decode.
        """
        if not lists:
            raise InputError("there is no ranked list to draw, expected at least one; raise the number of pictures")
        digits = max(3, len(str(len(lists))))
        files = [f"{ranked.difficulty:0{digits}d}_ap_{ranked.average_precision:.3f}.png" for ranked in lists]
        for done, (ranked, file) in enumerate(zip(lists, files), start=1):
            _save_picture(self.picture(ranked), folder / file)
            if progress:
                progress(done, len(lists))
        _save_picture(self.overview(lists), folder / OVERVIEW)
        write_json(folder / INDEX, to_plain_data(lists, files, self.features))
        for picture in folder.glob("*.png"):
            if _OURS.fullmatch(picture.name) and picture.name not in files:
                picture.unlink()
        return [folder / file for file in (*files, OVERVIEW)]

    def picture(self, ranked: RankedList) -> Image.Image:
        """Return one list: the query, then rows of ten images."""
        place = "" if ranked.difficulty == 1 else f"{_format_ordinal(ranked.difficulty)} "
        title = (
            f"The {place}{'easiest' if ranked.easy else 'hardest'} query: AP {100 * ranked.average_precision:.1f} %, "
            f"{_count_matches(ranked.matches)}, the first at rank {ranked.first_match.place:,}"
        )
        whole = self._row(ranked, (), _HEIGHT)
        lines = (title, f"{self.dataset.query[ranked.query].path}   {self.subtitle}")
        return draw_sheet(lines, _wrap(whole), self._legend, get_theme(self.appearance))

    def overview(self, lists: Sequence[RankedList]) -> Image.Image:
        """Return the hardest lists, one row each."""
        shown = lists[:_OVERVIEW_ROWS]
        title = f"The {len(shown)} hardest queries" if len(shown) > 1 else "The hardest query"
        rows = [
            self._row(
                ranked,
                (f"{ranked.difficulty}", f"AP {100 * ranked.average_precision:.1f} %", _count_matches(ranked.matches)),
                _OVERVIEW_HEIGHT,
            )
            for ranked in shown
        ]
        return draw_sheet((title, self.subtitle), rows, self._legend, get_theme(self.appearance))

    def _row(self, ranked: RankedList, labels: tuple[str, ...], height: int) -> Row:
        def cell(record: Record, kind: str, words: str, camera: int) -> Cell:
            path = self.dataset.root / record.path
            return _read_cell(path, kind, (words, self._name_camera(camera)), height, self.aspect)

        def draw_cell(image: Retrieved) -> Cell:
            kind, words = "right" if image.match else "wrong", f"{image.place:,}: {image.distance:.3f}"
            return cell(self.dataset.gallery[image.index], kind, words, image.camera)

        query = cell(self.dataset.query[ranked.query], "query", "query", ranked.camera)
        late = [ranked.first_match] if ranked.first_match.place > len(ranked.images) else []
        return Row(labels, query, [draw_cell(image) for image in ranked.images], [draw_cell(image) for image in late])

    def _name_camera(self, number: int) -> str:
        """Return the name of a camera: the user's, or its number from 1, as in file names."""
        return f"camera {self._cameras.get(number, number + 1)}"


def draw_nearest(
    file: Path, query: Path, images: Sequence[tuple[Path, float]], *, aspect: float, subtitle: str
) -> None:
    """Draw an image and the images nearest to it, ten in a row.

    Args:
        file: the PNG file to write.
        query: the image that was searched for.
        images: (path, distance), nearest first.
        aspect: of an image, its width over its height.
        subtitle: the gallery and the distance.

    Raises:
        InputError: an image that does not decode.
    """

    def cell(path: Path, kind: str, words: str) -> Cell:
        return _read_cell(path, kind, (words, path.name), _HEIGHT, aspect)

    cells = [cell(path, "nearest", f"{i:,}: {distance:.3f}") for i, (path, distance) in enumerate(images, start=1)]
    rows, lines = _wrap(Row((), cell(query, "query", "query"), cells)), (f"Nearest to {query.name}", subtitle)
    _save_picture(draw_sheet(lines, rows, _NEAREST_LEGEND, get_theme("light")), file)


def _wrap(row: Row) -> list[Row]:
    """Return a row as rows of ten images, the query in the first and the late match in the last."""
    rows = [Row((), None, row.images[i : i + _PER_ROW]) for i in range(0, len(row.images), _PER_ROW)]
    rows[0] = replace(rows[0], query=row.query)
    rows[-1] = replace(rows[-1], late=row.late)
    return rows


def _read_cell(path: Path, kind: str, captions: tuple[str, str], height: int, aspect: float) -> Cell:
    return Cell(read_image(path, height=height, width=max(16, round(height * aspect))), kind, captions)


def draw_sheet(lines: Sequence[str], rows: Sequence[Row], legend: str, colours: Theme) -> Image.Image:
    """Return rows of cells below each other, under the ``lines`` of a title and above a legend."""
    height, wide = rows[0].images[0].pixels.shape[:2]
    size, gap = 12 + height // 48, max(12, height // 12)
    line, step = round(1.35 * size), max(wide + gap, round(13 * _LETTER * size))
    labels = round(_LETTER * size * max((len(text) for row in rows for text in row.labels), default=0))
    gallery = _MARGIN + labels + step + gap
    most = max(len(row.images) + len(row.late) for row in rows)
    width = max(gallery + most * step + 2 * gap, *(round(_LETTER * size * len(text)) for text in (*lines, legend)))
    tops = [_MARGIN + 2 * line + gap + i * (height + 2 * line + gap) for i in range(len(rows))]
    total = (width + _MARGIN, tops[-1] + height + 3 * line + gap + _MARGIN)
    with matplotlib.rc_context({**make_style(colours), "font.size": size * 72 / _DPI}):
        figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, total[0]), ylim=(total[1], 0))
        axes.set_axis_off()
        sheet = np.full((total[1], total[0], 3), tuple(bytes.fromhex(colours.ground[1:])), dtype=np.uint8)
        for i, text in enumerate(lines):
            axes.text(_MARGIN, _MARGIN + i * line, text, va="center")
        axes.text(_MARGIN, total[1] - _MARGIN, legend, va="center")
        for row, top in zip(rows, tops):
            for i, text in enumerate(row.labels):
                axes.text(_MARGIN, top + (i + 0.5) * line, text, va="center")
            cells = [(_MARGIN + labels, row.query)] if row.query else []
            cells += [(gallery + i * step, cell) for i, cell in enumerate(row.images)]
            cells += [(gallery + len(row.images) * step + gap, cell) for cell in row.late]
            for left, cell in cells:
                sheet[top : top + height, left : left + wide] = cell.pixels
                _draw_frame(axes, cell.kind, (left, top, wide, height), colours)
                words = "\n".join(_cut(caption, round(step / (_LETTER * size))) for caption in cell.captions)
                axes.text(left, top + height + 6, words, va="top")
        figure.figimage(sheet, origin="upper", zorder=-1)
        canvas = FigureCanvasAgg(figure)
        with without_glyph_warnings():
            canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _draw_frame(axes: Axes, kind: str, box: tuple[int, int, int, int], colours: Theme) -> None:
    """Draw a frame around (left, top, width, height) and a mark: bluish green or vermilion (Okabe and Ito, 2008)."""
    left, top, width, height = box
    right, wrong = colours.families["dilated"].line, colours.changes["removed"].line
    colour = {"right": right, "wrong": wrong}.get(kind, colours.text)
    style = (0, (2.5, 2.5)) if kind == "wrong" else "-"
    thick = max(2.5, height / 48)
    axes.add_patch(Rectangle(box[:2], width, height, fill=False, edgecolor=colour, linewidth=thick, linestyle=style))
    if kind in _MARKS:
        disc = {"boxstyle": "circle,pad=0.15", "facecolor": colour, "edgecolor": colours.ground}
        axes.text(left + width, top, _MARKS[kind], color=colours.ground, ha="center", va="center", bbox=disc)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _count_matches(count: int) -> str:
    return "1 match" if count == 1 else f"{count:,} matches"


def _format_ordinal(number: int) -> str:
    """Return an ordinal number.

    >>> [_format_ordinal(n) for n in (2, 3, 4, 11, 22)]
    ['2nd', '3rd', '4th', '11th', '22nd']
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _save_picture(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
