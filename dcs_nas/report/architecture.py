"""The architecture as pictures: what was found, what it was after every epoch, and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import networkx

from dcs_nas.config import Config
from dcs_nas.report.drawn_graph import difference_graph, drawn_graph
from dcs_nas.report.embedded import Picture, in_both_themes
from dcs_nas.report.graphs import epoch_graph, is_strip, paint_graph, paint_panels, strip_panels, title_of
from dcs_nas.report.palette import theme
from dcs_nas.runs import RunContents
from dcs_nas.settings import parse
from dcs_nas.space import AnyGenotype

_MOST_PANELS = 24


@dataclass(frozen=True)
class Film:
    """One kind of cell over the epochs: pictures that differ, and for every epoch (from 1) which of them it has."""

    title: str
    pictures: list[Picture]
    frames: dict[int, int]


@dataclass
class Architecture:
    """Pictures of a run's architecture; what a run does not have is empty."""

    final: list[Picture] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)
    strips: list[Picture] = field(default_factory=list)
    differences: list[Picture] = field(default_factory=list)


def architecture_pictures(run: RunContents, *, films: bool = True) -> Architecture | None:
    """Return the pictures of a run; without ``films`` those of the final architecture alone. None where it has none."""
    recorded = [(e.number + 1, e.genotype) for e in run.epochs if e.genotype is not None]
    final = run.genotype or (recorded[-1][1] if recorded else None)
    if final is None:
        return None
    found = Architecture(final=_final(_as_trained(run, final)))
    same = [(epoch, g) for epoch, g in recorded if type(g) is type(final) and g.space.hash == final.space.hash]
    if not films or not same:
        return found
    found.films = [_film(part, same) for part in final.parts]
    if is_strip(final):
        titled = [(f"epoch {epoch}", genotype) for epoch, genotype in same]
        if sum(_differs(a, b) for (_, a), (_, b) in pairwise(same)) >= _MOST_PANELS:
            titled = [*titled[: _MOST_PANELS // 2], *titled[-_MOST_PANELS // 2 :]]  # the first and the last epochs
        found.strips = [_strip(part, titled) for part in final.parts]
    (first, a), (last, b) = same[0], same[-1]
    for part in (part for part in final.parts if a.part(part) != b.part(part)):
        title, graph = title_of(final, part), difference_graph(a.graph(part), b.graph(part))
        words = f"{title}: from epoch {first} to epoch {last}"
        found.differences.append(_painted(graph, f"what changed in the {title}", words))
    return found


def _differs(a: AnyGenotype, b: AnyGenotype) -> bool:
    return any(a.part(part) != b.part(part) for part in a.parts)


def _as_trained(run: RunContents, genotype: AnyGenotype) -> AnyGenotype:
    """The genotype at the width, depth and image size of a training."""
    if not run.trained:
        return genotype
    config = parse(Config, run.config, source="config.yaml")
    if config.retrain is None:
        return genotype
    data, settings = config.data, config.retrain
    return genotype.resized(data.height, data.width, channels=settings.channels, cells=settings.cells)


def _final(genotype: AnyGenotype) -> list[Picture]:
    titles = {part: title_of(genotype, part) for part in genotype.parts}
    pictures = [_painted(epoch_graph(genotype, part, None), f"the {title}", title) for part, title in titles.items()]
    overview = genotype.overview()
    if overview is not None:
        pictures.append(_painted(drawn_graph(overview), "the whole network", "network"))
    return pictures


def _painted(graph: networkx.MultiDiGraph, alt: str, caption: str = "") -> Picture:
    return in_both_themes(lambda name: paint_graph(graph, theme(name), "svg")[0], alt, caption)


def _film(part: str, genotypes: Sequence[tuple[int, AnyGenotype]]) -> Film:
    """The pictures of a part: after a change, what is new is marked."""
    title = title_of(genotypes[0][1], part)
    pictures: list[Picture] = []
    frames: dict[int, int] = {}
    before: AnyGenotype | None = None
    for epoch, genotype in genotypes:
        if before is None or before.part(part) != genotype.part(part):
            pictures.append(_painted(epoch_graph(genotype, part, before), f"the {title}"))
            before = genotype
        frames[epoch] = len(pictures) - 1
    return Film(title, pictures, frames)


def _strip(part: str, genotypes: Sequence[tuple[str, AnyGenotype]]) -> Picture:
    panels, title = strip_panels(genotypes, part), title_of(genotypes[0][1], part)
    return in_both_themes(
        lambda name: paint_panels(panels, theme(name), "svg")[0], f"the {title} over the epochs", title
    )
