"""One HTML page of a run, or a comparison of several: it needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dcs_nas import __version__
from dcs_nas.data.images import Bars
from dcs_nas.errors import Attempts, InputError
from dcs_nas.files import write_text
from dcs_nas.report.architecture import draw_architecture
from dcs_nas.report.embedded import Picture, encode_picture
from dcs_nas.report.metric_charts import Group, draw_curves
from dcs_nas.report.palette import split_label
from dcs_nas.report.run_page import COST_COLUMNS, Cost, Summary, make_cost_table, make_run_page, summarize
from dcs_nas.report.score_table import SCORE_COLUMNS, Score, are_comparable, draw_cmc_figure, explain_spreads, make_rows
from dcs_nas.runs import RunContents, RunFolder, flatten

_FACTS = ("what", "state", "data", "network", "seed")
_MOST_CELLS = 8
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Options:
    """The numbers of images with attention maps and of best and worst queries; both need computation."""

    maps: int = 0
    ranked: int = 0


@dataclass
class Page:
    """The file written, its runs, and notes on parts that were left out."""

    file: Path
    runs: list[Path]
    notes: list[str] = field(default_factory=list)


def write_report(
    folders: Sequence[Path], out: Path | None = None, *, options: Options | None = None, progress: Bars | None = None
) -> Page:
    """Write the page of one run, of a search and its training, or of several runs side by side.

    A folder is a run's, or holds runs. ``out`` is by default ``report.html`` in the folder, or ``comparison.html`` in
    the folder that holds all runs.

    Raises:
        InputError: a folder without a run, or one whose ``config.yaml`` is damaged.
    """
    paths = list(dict.fromkeys(run.path.resolve() for folder in folders for run in find_shown(folder)))
    runs = [RunFolder(path).read() for path in paths]
    within = folders[0] if len(folders) == 1 else Path(os.path.commonpath(paths))
    parts = vars(options or Options())
    if _is_one(runs):
        if any(parts.values()) and not any(run.kind == "retrain" for run in runs):
            raise InputError(
                f"--maps and --ranked are of a training for re-identification, but {within} holds none; leave "
                "them out, or name the folder that dcs-nas retrain wrote"
            )
        pages = [make_run_page(run, f"r{i}", **parts, progress=progress) for i, run in enumerate(runs)]
        file = out or RunFolder(within).report_file
        title, heading = (runs[0].name, "run") if len(runs) == 1 else (runs[0].path.parent.name, "search and training")
        answer = next((page for page in pages if page.kind != "search"), pages[0])
        write_text(file, _render("run.html.j2", title, heading, runs=pages, answer=answer))
        return Page(file, paths, [note for page in pages for note in page.notes])
    if any(parts.values()):
        raise InputError(
            f"found {len(runs)} runs to compare, but --maps and --ranked are for one; leave them out, or name one run"
        )
    file = out or within / "comparison.html"
    comparison = compare(runs)
    write_text(file, _render("comparison.html.j2", f"{len(runs)} runs", "comparison", **vars(comparison)))
    return Page(file, paths, comparison.notes)


def find_shown(path: Path) -> list[RunFolder]:
    """Return the run folder ``path`` itself, or the run folders in it, searches first, without tunings beside others.

    Raises:
        InputError: the folder is absent or holds no run.
    """
    if not path.is_dir():
        raise InputError(f"there is no folder {path}; name the folder of a run, such as results/NAME/search")
    if RunFolder(path).config_file.is_file():
        return [RunFolder(path)]
    inner = [run for p in path.iterdir() if (run := RunFolder(p)).config_file.is_file()]
    if not inner:
        raise InputError(
            f"{path} holds no run: neither it nor a folder in it has a config.yaml; name results/NAME, "
            "or the folder that dcs-nas search or retrain wrote"
        )
    shown = [run for run in inner if run.contents().kind != "tune"] or inner
    return sorted(shown, key=lambda run: (not run.contents().searched, run.path.name))


def _is_one(runs: Sequence[RunContents]) -> bool:
    """Return whether the runs share a page: a single run, or a search and the training of its genotype."""
    if len(runs) != 2:
        return len(runs) == 1
    a, b = runs
    together = a.path.parent == b.path.parent or (a.genotype is not None and a.genotype == b.genotype)
    return together and a.searched != b.searched and a.trained != b.trained


def _render(template: str, title: str, heading: str, **values: Any) -> str:
    environment = _make_environment()
    script, style = ((_TEMPLATES / name).read_text("utf-8") for name in ("page.js", "style.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    common = {
        "title": title,
        "heading": heading,
        "version": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": digest,
        "score_columns": SCORE_COLUMNS,
        "cost_columns": COST_COLUMNS,
    }
    page = environment.get_template(template).render({**common, **values})
    return _to_utf8(page)


def _to_utf8(text: str) -> str:
    """Return a text with ``?`` in place of what is not UTF-8, such as parts of a folder's name."""
    return text.encode(errors="replace").decode()


def _make_environment() -> jinja2.Environment:
    """Return the environment of the templates, which escapes every inserted text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty"] = lambda op: " ".join(split_label(str(op)))
    environment.filters["shell"] = lambda path: shlex.quote(str(path))
    environment.filters["embedded"] = encode_picture
    environment.filters["explained"] = explain_spreads
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False, "separators": (",", ":")}
    return environment


@dataclass
class Comparison:
    """The content of the page of several runs, in the order of ``names``."""

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
    """Return the comparison of several runs."""
    names = make_labels(runs)
    notes = [f"{name}: {note}" for name, run in zip(names, runs) for note in run.notes]
    attempt = Attempts(notes)
    overview = [(name, _overview(name, run, attempt)) for name, run in zip(names, runs)]
    page = Comparison(names, ["parameters", "multiply-adds", *_FACTS], overview, notes)
    own = [(name, run.own_evaluation) for name, run in zip(names, runs)]
    page.scores, named = make_rows([(name, one) for name, one in own if one is not None], attempt)
    evaluated = [names.index(name) for name, _ in named]
    page.comparable = are_comparable(page.scores)
    page.cmc = attempt("CMC", lambda: draw_cmc_figure(named, evaluated), None)
    page.groups = attempt("curves", lambda: draw_curves(runs, names), [])
    page.differing = list_differing_settings([run.config for run in runs])
    page.cells = attempt("architectures", lambda: _draw_cells(names, runs), [])
    return page


def make_labels(runs: Sequence[RunContents]) -> list[str]:
    """Return a different name for each run: its folder's, with as many parents as necessary."""
    for depth in range(2, 12):
        names = [_to_utf8("/".join(run.path.parts[-depth:])) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [_to_utf8(str(run.path)) for run in runs]


def list_differing_settings(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the settings that differ between configurations, with all values; '–' for an absent one."""
    settings = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [(key, [str(one.get(key, "–")) for one in settings]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _overview(name: str, run: RunContents, attempt: Attempts) -> list[str]:
    facts = dict(attempt(f"{name}: summary", lambda: summarize(run), Summary([], [], "")).facts)
    cost: Cost | None = attempt(f"{name}: cost", lambda: make_cost_table(run), None)
    size = [f"{cost.parameters:,}", f"{cost.macs / 1e6:,.2f} M"] if cost else ["–", "–"]
    return [*size, *(facts.get(fact, "–") for fact in _FACTS)]


def _draw_cells(names: Sequence[str], runs: Sequence[RunContents]) -> list[tuple[str, list[Picture]]]:
    """Return pictures of the first few final architectures, equal ones once."""
    groups: dict[str, tuple[list[str], RunContents]] = {}
    for name, run in zip(names, runs):
        if run.genotype is not None:
            content = run.genotype.model_dump_json(exclude={"origin"})
            groups.setdefault(content, ([], run))[0].append(name)
    shown = islice(groups.values(), _MOST_CELLS)
    pictures = [(", ".join(members), draw_architecture(run, films=False)) for members, run in shown]
    return [(title, [*drawn.final, *filter(None, [drawn.overview])]) for title, drawn in pictures if drawn is not None]
