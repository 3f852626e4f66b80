"""All that the page of one run shows; a part that cannot be made is left out with a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dcs_nas.data.cache import Progress
from dcs_nas.errors import command
from dcs_nas.report.attempts import Attempts
from dcs_nas.report.embedded import Figure
from dcs_nas.report.run_files import Evaluated, RunFiles
from dcs_nas.report.sections.architecture import Architecture, architecture_pictures
from dcs_nas.report.sections.cost import Cost, cost_table
from dcs_nas.report.sections.curves import Group, curve_groups
from dcs_nas.report.sections.ranked import Lists, drawn_lists, saved_lists
from dcs_nas.report.sections.scores import Score, cmc_figure, named_evaluations, sound_rows
from dcs_nas.report.sections.summary import Summary, summarize
from dcs_nas.report.sections.weights import Heats, heat_maps

if TYPE_CHECKING:
    from dcs_nas.report.maps import AttentionMaps


@dataclass
class RunPage:
    """The parts of a page, empty where the run does not have them."""

    id: str
    title: str
    path: Path
    searched: bool
    trained: bool
    summary: Summary
    notes: list[str]
    scores: list[Score] = field(default_factory=list)
    intervals: str = ""
    cmc: Figure | None = None
    groups: list[Group] = field(default_factory=list)
    heats: Heats | None = None
    architecture: Architecture | None = None
    ranked: list[Lists] = field(default_factory=list)
    maps: AttentionMaps | None = None
    no_maps: str = ""
    cost: Cost | None = None

    @property
    def epochs(self) -> list[int]:
        """The epochs, from 1, that the slider goes through."""
        of_films = {e for film in (self.architecture.films if self.architecture else []) for e in film.frames}
        return sorted(of_films | set(self.heats.epochs if self.heats else []))

    @property
    def anchors(self) -> list[tuple[str, str]]:
        """The parts that the page's head links to."""
        there = [
            ("scores", "scores", self.scores or self.trained),
            ("curves", "curves", self.groups),
            ("weights", "over the epochs", self.epochs),
            ("cells", "architecture", self.architecture),
            ("ranked", "ranked lists", self.trained),
            ("maps", "attention maps", self.trained),
            ("cost", "cost", self.cost),
        ]
        return [(anchor, words) for anchor, words, present in there if present]


def run_page(
    run: RunFiles, id: str, *, maps: int, ranked: int, progress: Callable[[str], Progress] | None = None
) -> RunPage:
    """The page of ``run``, with attention maps over ``maps`` images and ``ranked`` best and worst queries."""
    notes = run.notes
    attempt = Attempts(notes)
    page = RunPage(id, run.name, run.path, run.searched, run.trained, Summary([], [], ""), notes)
    page.summary = attempt("summary", lambda: summarize(run), page.summary)
    named: list[tuple[str, Evaluated]] = attempt("scores", lambda: named_evaluations(run.evaluations), [])
    page.scores, named = sound_rows(named, attempt)
    page.intervals = attempt("intervals", lambda: _explained_intervals(run), "")
    page.cmc = attempt("CMC", lambda: cmc_figure(named), None)
    page.groups = attempt("curves", lambda: curve_groups([run]), [])
    page.heats = attempt("weights over the epochs", lambda: heat_maps(run), None)
    page.architecture = attempt("architecture", lambda: architecture_pictures(run), None)
    page.cost = attempt("cost", lambda: cost_table(run), None)
    if not run.trained:
        return page
    if ranked:
        page.ranked = attempt("ranked lists", lambda: drawn_lists(run, count=ranked, progress=progress), [])
    page.ranked = page.ranked or attempt("ranked lists", lambda: saved_lists(run), [])
    page.no_maps = f"Not drawn: {command('report', run.path, '--maps', 6)} draws them."
    if maps:
        page.no_maps = "The network has no attention block with a map to show."
        page.maps = attempt("attention maps", lambda: _maps(run, maps, progress), None)
        if page.maps is None and notes and notes[-1].startswith("attention maps"):
            page.no_maps = f"Not drawn: {notes[-1].partition('. ')[2]}"
    return page


def _maps(run: RunFiles, count: int, progress: Callable[[str], Progress] | None) -> AttentionMaps | None:
    from dcs_nas.report.maps import attention_maps

    return attention_maps(run.path, count=count, progress=progress)


def _explained_intervals(run: RunFiles) -> str:
    found = [e.report["confidence"] for e in run.evaluations if e.report.get("confidence")]
    if not found:
        return ""
    level = 100 * float(found[0].get("level", 0.95))
    return f"Small figures: {level:g} % intervals over which queries were asked (bootstrap)."
