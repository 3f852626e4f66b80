"""The architecture as pictures: what was found, what it was after every epoch, and what changed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from dcs_nas.config import Config
from dcs_nas.report import graphs
from dcs_nas.report.chain_graph import chain_file
from dcs_nas.report.embedded import Figure, in_both_themes
from dcs_nas.report.palette import theme as find_theme
from dcs_nas.report.picture import Picture, cell_picture, difference_picture, network_picture
from dcs_nas.report.run_files import RunFiles
from dcs_nas.settings import parse
from dcs_nas.space import AnyGenotype, ChainGenotype, Genotype

_MOST_PANELS = 24


@dataclass(frozen=True)
class Film:
    """One kind of cell over the epochs: pictures that differ, and for every epoch (from 1) which of them it has."""

    title: str
    figures: list[Figure]
    frames: dict[int, int]


@dataclass
class Architecture:
    """Pictures of a run's architecture; what a run does not have is empty."""

    final: list[Figure] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)
    strips: list[Figure] = field(default_factory=list)
    differences: list[Figure] = field(default_factory=list)


def architecture_pictures(run: RunFiles, *, films: bool = True) -> Architecture | None:
    """The pictures of a run; without ``films`` those of the final architecture alone. None where it has none."""
    recorded = [(e.number + 1, e.genotype) for e in run.epochs if e.genotype is not None]
    final = run.genotype or (recorded[-1][1] if recorded else None)
    if final is None:
        return None
    found = Architecture(final=_final(_as_trained(run, final)))
    same = [(epoch, g) for epoch, g in recorded if type(g) is type(final) and g.space.hash == final.space.hash]
    if not films or not same:
        return found
    cells = [(epoch, g) for epoch, g in same if isinstance(g, Genotype)]
    chains = [(epoch, g) for epoch, g in same if isinstance(g, ChainGenotype)]
    if cells:
        kinds = list(cells[0][1].cells)
        found.films = [_film(kind, cells) for kind in kinds]
        found.strips = _strips(cells)
        found.differences = _differences(cells, kinds)
    elif chains:
        found.films = [_chain_film(chains)]
        found.differences = _chain_differences(chains)
    return found


def _as_trained(run: RunFiles, genotype: AnyGenotype) -> AnyGenotype:
    """The genotype at the width, depth and image size of a training."""
    if not run.trained or isinstance(genotype, ChainGenotype):
        return genotype
    config = parse(Config, run.config, source="config.yaml")
    return (
        genotype
        if config.retrain is None
        else genotype.resized(
            config.data.height, config.data.width, channels=config.retrain.channels, cells=config.retrain.cells
        )
    )


def _final(genotype: AnyGenotype) -> list[Figure]:
    if isinstance(genotype, ChainGenotype):
        return [in_both_themes(lambda name: chain_file(genotype, find_theme(name), "svg"), "the chain", "chain")]
    assert isinstance(genotype, Genotype)
    figures = [_painted(cell_picture(genotype, kind), f"the {kind} cell", f"{kind} cell") for kind in genotype.cells]
    return [*figures, _painted(network_picture(genotype), "the whole network", "network")]


def _painted(picture: Picture, alt: str, caption: str = "") -> Figure:
    return in_both_themes(lambda name: graphs.paint_picture(picture, find_theme(name), "svg")[0], alt, caption)


def _film(kind: str, genotypes: Sequence[tuple[int, Genotype]]) -> Film:
    """A cell's pictures: after a change, what is new is marked."""
    figures: list[Figure] = []
    frames: dict[int, int] = {}
    before: Genotype | None = None
    for epoch, genotype in genotypes:
        if before is None or genotype.cells[kind] != before.cells[kind]:
            figures.append(_painted(cell_picture(genotype, kind, since=before), f"the {kind} cell"))
            before = genotype
        frames[epoch] = len(figures) - 1
    return Film(f"{kind} cell", figures, frames)


def _chain_film(genotypes: Sequence[tuple[int, ChainGenotype]]) -> Film:
    figures: list[Figure] = []
    frames: dict[int, int] = {}
    before: ChainGenotype | None = None
    for epoch, genotype in genotypes:
        if before is None or genotype.stages != before.stages:
            figures.append(in_both_themes(_chain_painter(genotype), "the chain"))
            before = genotype
        frames[epoch] = len(figures) - 1
    return Film("chain", figures, frames)


def _chain_painter(genotype: ChainGenotype, other: ChainGenotype | None = None) -> Callable[[str], bytes]:
    return lambda name: chain_file(genotype, find_theme(name), "svg", other)


def _strips(genotypes: Sequence[tuple[int, Genotype]]) -> list[Figure]:
    """The first and the last epochs where there are more changes than panels fit."""
    chosen = [(f"epoch {epoch}", g) for epoch, g in genotypes]
    if _changes(chosen) > _MOST_PANELS:
        chosen = [*chosen[: _MOST_PANELS // 2], *chosen[-_MOST_PANELS // 2 :]]
    pages = {name: _drawn_strip(chosen, name) for name in ("light", "dark")}
    kinds = list(genotypes[0][1].cells)
    return [
        in_both_themes(lambda name, kind=kind: pages[name][kind], f"the {kind} cell over the epochs", f"{kind} cell")  # type: ignore[misc]
        for kind in kinds
    ]


def _drawn_strip(genotypes: Sequence[tuple[str, Genotype]], theme: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        graphs.draw_strip(genotypes, Path(folder), formats=("svg",), theme=theme)
        return {kind: (Path(folder) / f"strip_{kind}.svg").read_bytes() for kind in genotypes[0][1].cells}


def _changes(genotypes: Sequence[tuple[str, Genotype]]) -> int:
    return 1 + sum(a.cells != b.cells for (_, a), (_, b) in pairwise(genotypes))


def _differences(genotypes: Sequence[tuple[int, Genotype]], kinds: Sequence[str]) -> list[Figure]:
    """What the last epoch has otherwise than the first."""
    (first, a), (last, b) = genotypes[0], genotypes[-1]
    words = f"{{kind}} cell: from epoch {first} to epoch {last}"
    return [
        _painted(difference_picture(a, b, kind), f"what changed in the {kind} cell", words.format(kind=kind))
        for kind in kinds
        if a.cells[kind] != b.cells[kind]
    ]


def _chain_differences(genotypes: Sequence[tuple[int, ChainGenotype]]) -> list[Figure]:
    (first, a), (last, b) = genotypes[0], genotypes[-1]
    if a.stages == b.stages:
        return []
    return [
        in_both_themes(_chain_painter(a, b), "what changed in the chain", f"chain: from epoch {first} to epoch {last}")
    ]
