"""Several runs side by side: settings, scores, curves, CMC, architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dcs_nas.errors import Attempts
from dcs_nas.report.architecture import architecture_pictures
from dcs_nas.report.embedded import Picture
from dcs_nas.report.metric_charts import Group, curve_groups
from dcs_nas.report.run_page import Cost, Summary, cost_table, summarize
from dcs_nas.report.score_table import Score, cmc_figure, comparable, sound_rows
from dcs_nas.runs import RunContents

_FACTS = ("what", "state", "data", "network", "seed")
_MOST_CELLS = 8


@dataclass
class Comparison:
    """What the page of several runs shows, in the order of ``names``."""

    names: list[str]
    overview_columns: list[str]
    overview: list[tuple[str, list[str]]]
    notes: list[str]
    scores: list[Score] = field(default_factory=list)
    comparable: bool = True
    cmc: Picture | None = None
    groups: list[Group] = field(default_factory=list)
    differing: list[tuple[str, list[str]]] = field(default_factory=list)
    cells: list[tuple[str, list[Picture]]] = field(default_factory=list)


def compare(runs: Sequence[RunContents]) -> Comparison:
    """All that the runs have in common and what sets them apart."""
    names = labels(runs)
    notes = [f"{name}: {note}" for name, run in zip(names, runs) for note in run.notes]
    attempt = Attempts(notes)
    overview = [(name, _overview(name, run, attempt)) for name, run in zip(names, runs)]
    found = Comparison(names, [*_FACTS, "parameters", "multiply-adds"], overview, notes)
    own = [(name, run.own_evaluation) for name, run in zip(names, runs)]
    found.scores, named = sound_rows([(name, one) for name, one in own if one is not None], attempt)
    evaluated = [names.index(name) for name, _ in named]
    found.comparable = comparable(found.scores)
    found.cmc = attempt("CMC", lambda: cmc_figure(named, evaluated), None)
    found.groups = attempt("curves", lambda: curve_groups(runs, names), [])
    found.differing = differing_settings([run.config for run in runs])
    found.cells = attempt("architectures", lambda: _cells(names, runs), [])
    return found


def labels(runs: Sequence[RunContents]) -> list[str]:
    """Return a name for each run, different for each: the folder's, behind as many folders as that takes."""
    for depth in range(2, 12):
        names = ["/".join(run.path.parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all configurations, with the value of each; '–' where it has none."""
    flat = [dict(_flat(config)) for config in configs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [(key, [str(one.get(key, "–")) for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _overview(name: str, run: RunContents, attempt: Attempts) -> list[str]:
    facts = dict(attempt(f"{name}: summary", lambda: summarize(run), Summary([], [], "")).facts)
    cost: Cost | None = attempt(f"{name}: cost", lambda: cost_table(run), None)
    size = [f"{cost.parameters:,}", f"{cost.macs / 1e6:,.2f} M"] if cost else ["–", "–"]
    return [*(facts.get(fact, "–") for fact in _FACTS), *size]


def _cells(names: Sequence[str], runs: Sequence[RunContents]) -> list[tuple[str, list[Picture]]]:
    """The final architectures, equal ones once, the first few."""
    groups: list[tuple[Any, list[str], RunContents]] = []
    for name, run in zip(names, runs):
        if run.genotype is None:
            continue
        content = run.genotype.model_dump(mode="json", exclude={"origin"})
        same = next((members for known, members, _ in groups if known == content), None)
        if same is not None:
            same.append(name)
        else:
            groups.append((content, [name], run))
    pictures = [
        (", ".join(members), architecture_pictures(run, films=False)) for _, members, run in groups[:_MOST_CELLS]
    ]
    return [(title, found.final) for title, found in pictures if found is not None]


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found
