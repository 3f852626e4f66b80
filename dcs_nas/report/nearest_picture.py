"""The list of images nearest to a query as one PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcs_nas.data.images import read_image
from dcs_nas.files import atomic_path
from dcs_nas.report.palette import theme
from dcs_nas.report.ranked_pictures import Cell, Row, draw_sheet

_PER_ROW = 10
_HEIGHT = 192  # pixels
_LEGEND = "below each: rank and distance, file"


def draw_nearest(
    file: Path, query: Path, images: Sequence[tuple[Path, float]], *, aspect: float, subtitle: str
) -> None:
    """Draw the query and the images (path, distance) nearest to it, ten a row, nearest first.

    Args:
        file: the PNG file to write.
        query: the image that was looked for.
        images: nearest first.
        aspect: of an image, its width over its height.
        subtitle: what was searched, and how.

    Raises:
        InputError: an image that does not decode.
    """
    width = max(16, round(_HEIGHT * aspect))

    def cell(path: Path, kind: str, words: str) -> Cell:
        return Cell(read_image(path, height=_HEIGHT, width=width), kind, (words, path.name))

    cells = [cell(path, "found", f"{i:,}: {far:.3f}") for i, (path, far) in enumerate(images, start=1)]
    rows = [Row((), None, cells[i : i + _PER_ROW]) for i in range(0, len(cells), _PER_ROW)]
    rows[0] = Row((), cell(query, "query", "query"), rows[0].images)
    picture = draw_sheet((f"Nearest to {query.name}", subtitle), rows, _LEGEND, theme("light"))
    with atomic_path(file) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
