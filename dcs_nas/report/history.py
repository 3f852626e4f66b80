"""A search's architecture over the epochs: a strip, and an animated GIF with a frame for each epoch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path
from dcs_nas.report import ranked_pictures as sheet_of
from dcs_nas.report.graphs import (
    Drawing,
    draw_difference,
    draw_strip,
    epoch_graph,
    is_strip,
    paint_graph,
    title_of,
)
from dcs_nas.report.palette import Theme
from dcs_nas.report.palette import theme as find_theme
from dcs_nas.runs import RunFolder
from dcs_nas.space import AnyGenotype

_MILLISECONDS, _LAST = 700, 2500
_WIDEST = 1280  # pixels
_TITLE = 22  # pixels of a letter
_PAD = 14


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
    sheet = sheet_of.paper(*size, theme)
    sheet_of.write(sheet, (_PAD, _PAD), title, _TITLE, theme.text)
    shrunk = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    sheet.paste(shrunk, (_PAD, 2 * _PAD + _TITLE + (size[1] - 3 * _PAD - _TITLE - shrunk.height) // 2))
    return sheet.quantize(128, dither=Image.Dither.NONE)
