"""The content of the page of one run; a part that fails is left out with a note."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcs_nas.data.images import Bars
from dcs_nas.errors import Attempts, command
from dcs_nas.report.architecture import Architecture, Heats, draw_architecture, read_heat_maps
from dcs_nas.report.embedded import Picture
from dcs_nas.report.metric_charts import Group, draw_curves
from dcs_nas.report.place_names import describe_place
from dcs_nas.report.retrieval import Lists, draw_lists, read_saved_lists
from dcs_nas.report.score_table import Score, draw_cmc_figure, make_rows, name_evaluations
from dcs_nas.runs import Evaluation, RunContents
from dcs_nas.settings import dump_yaml

if TYPE_CHECKING:
    from dcs_nas.report.maps import AttentionMaps
_WORDS = {"search": "search", "pretrain": "pretraining on classes of images", "tune": "tuning of settings"}
_FIRST = (("mAP", 0), ("rank-1", 2))  # places in SCORE_COLUMNS
COST_COLUMNS = ["layer", "kind", "output", "parameters", "multiply-adds", "kept for the backward pass"]


@dataclass
class RunPage:
    """The parts of a page, empty where the run does not have them."""

    id: str
    title: str
    path: Path
    kind: str
    step: str
    summary: Summary
    notes: list[str]
    loaded: Loaded | None = None
    scores: list[Score] = field(default_factory=list)
    score: Score | None = None
    cmc: Picture | None = None
    groups: list[Group] = field(default_factory=list)
    heats: Heats | None = None
    architecture: Architecture | None = None
    ranked: list[Lists] = field(default_factory=list)
    maps: AttentionMaps | None = None
    no_maps: str = ""
    cost: Cost | None = None
    figures: list[tuple[str, str, str]] = field(default_factory=list)
    trials: list[list[str]] = field(default_factory=list)

    @property
    def searched(self) -> bool:
        """True for a search."""
        return self.kind == "search"

    @property
    def trained(self) -> bool:
        """True for a training for re-identification, which has scores by retrieval."""
        return self.kind == "retrain"

    @property
    def epochs(self) -> list[int]:
        """The epochs or trials of the slider, from 1."""
        of_films = {e for film in (self.architecture.films if self.architecture else []) for e in film.frames}
        return sorted(of_films | set(self.heats.epochs if self.heats else []))

    @property
    def answers(self) -> list[tuple[str, str, str]]:
        """The figures that a reader looks for first, as (name, value, remark)."""
        if self.kind == "tune":
            return self.figures
        score, cost = self.score, self.cost
        missing = "not evaluated yet" if self.trained else "not trained yet"
        scores = [(name, score.cells[i], score.interval(i)) if score else (name, "–", missing) for name, i in _FIRST]
        scores = self.figures if self.kind == "pretrain" else scores
        if cost is None:
            return scores
        size = f"one image of {cost.size} pixels"
        return [
            *scores,
            ("parameters", _shorten(cost.parameters), "without the head"),
            ("multiply-adds", _shorten(cost.macs), size),
        ]

    @property
    def anchors(self) -> list[tuple[str, str]]:
        """The parts that the page's head links to."""
        there = [
            ("loaded", "weights loaded", self.loaded),
            ("scores", "scores", self.scores or self.trained),
            ("curves", "curves", self.groups),
            ("weights", f"over the {self.step}s", self.epochs),
            ("cells", "architecture", self.architecture),
            ("ranked", "ranked lists", self.trained),
            ("maps", "attention maps", self.trained),
            ("trials", "trials", self.trials),
            ("cost", "cost", self.cost),
        ]
        return [(anchor, words) for anchor, words, present in there if present]


def make_run_page(run: RunContents, id: str, *, maps: int, ranked: int, progress: Bars | None = None) -> RunPage:
    """Return the page of ``run``, with attention maps over ``maps`` images and ``ranked`` best and worst queries."""
    notes = run.notes
    attempt = Attempts(notes)
    page = RunPage(id, run.name, run.path, run.kind, run.step, Summary([], [], ""), notes)
    page.summary = attempt("summary", lambda: summarize(run), page.summary)
    if run.kind == "tune":
        page.trials = attempt("trials.csv", lambda: _read_trials(run), [])
        page.figures = attempt("best trial", lambda: _describe_best(page.trials), [])
        return page
    page.loaded = attempt("weights.json", lambda: describe_loaded_weights(run), None)
    named: list[tuple[str, Evaluation]] = attempt("scores", lambda: name_evaluations(run.evaluations), [])
    page.scores, named = make_rows(named, attempt)
    page.score = next((row for row, (_, one) in zip(page.scores, named) if one == run.own_evaluation), None)
    page.figures = _read_accuracy(run)
    page.cmc = attempt("CMC", lambda: draw_cmc_figure(named), None)
    page.groups = attempt("curves", lambda: draw_curves([run]), [])
    page.heats = attempt(f"weights over the {run.step}s", lambda: read_heat_maps(run), None)
    page.architecture = attempt("architecture", lambda: draw_architecture(run), None)
    page.cost = attempt("cost", lambda: make_cost_table(run), None)
    if not page.trained:
        return page
    if ranked:
        page.ranked = attempt("ranked lists", lambda: draw_lists(run, count=ranked, progress=progress), [])
    page.ranked = page.ranked or attempt("ranked lists", lambda: read_saved_lists(run), [])
    page.no_maps = f"Not drawn: {command('report', run.path, '--maps', 6)} draws them."
    if maps:
        page.no_maps = "The network has no attention block with a map to show."
        from dcs_nas.report.maps import draw_attention_maps

        page.maps = attempt(
            "attention maps", lambda: draw_attention_maps(run.path, count=maps, progress=progress), None
        )
        if page.maps is None and notes and notes[-1].startswith("attention maps"):
            page.no_maps = f"Not drawn: {notes[-1].partition('. ')[2]}"
    return page


@dataclass(frozen=True)
class Loaded:
    """The weights file of a training: a sentence, and rows of (kind of fit, number, examples)."""

    sentence: str
    rows: list[tuple[str, str, str]]


def describe_loaded_weights(run: RunContents) -> Loaded | None:
    """Return the content of ``weights.json`` in words; None without one."""
    record = run.weights
    if not record:
        return None
    below = f", its part {record['prefix']!r}" if record["prefix"] else ""
    sentence = f"{record['file']}{below}: {record['supplied']:,} of the backbone's {record['numbers']:,} numbers."
    return Loaded(sentence, [(str(what), f"{count:,}", str(names)) for what, count, names in record["rows"]])


def _read_trials(run: RunContents) -> list[list[str]]:
    """Return the rows of a tuning's ``trials.csv``, its head first; none without the file."""
    file = run.files.trials_file
    return list(csv.reader(io.StringIO(file.read_text(encoding="utf-8")))) if file.is_file() else []


def _describe_best(trials: list[list[str]]) -> list[tuple[str, str, str]]:
    """Return the best trial's metric and the number of trials as (name, value, remark)."""
    (_, _, metric, *_), *rows = trials or [["trial", "state", "metric"]]
    finished = [row for row in rows if row[1] == "finished"]
    best = (f"{float(finished[0][2]):.5g}", finished[0][0]) if finished else ("–", "no trial yet")
    return [(metric, *best), ("trials", f"{len(rows):,}", f"{len(finished):,} finished")]


def _read_accuracy(run: RunContents) -> list[tuple[str, str, str]]:
    """Return the last accuracies of a pretraining as (name, value, remark)."""
    columns = {name: f"validation/{name}" for name in ("top-1", "top-5")}
    rows = [row for row in run.metrics if columns["top-1"] in row]
    if not rows:
        return [(name, "–", "no images held out yet") for name in columns]
    remark = f"of held-out images, epoch {rows[-1]['epoch'] + 1}"
    return [(name, f"{100 * rows[-1][column]:.1f} %", remark) for name, column in columns.items()]


@dataclass(frozen=True)
class Summary:
    """Facts of the run and of its origin as (name, value) pairs, and the whole configuration as YAML."""

    facts: list[tuple[str, str]]
    origin: list[tuple[str, str]]
    config: str


def summarize(run: RunContents) -> Summary:
    """Return the first facts for a reader; facts that the folder lacks are left out."""
    section, data = run.section(run.kind if run.searched or run.trained else "retrain"), run.section("data")
    steps, wanted, environment = len(run.metrics), run.steps_wanted, run.environment
    done = f"{steps} of {wanted} {run.step}s" if wanted and steps else f"{steps} {run.step}s" if steps else ""
    facts = {
        "what": _WORDS.get(run.kind, "training of a fixed network"),
        "state": ", ".join(filter(None, ["finished" if run.is_finished else "not finished", done])),
        "data": str(run.data.get("version") or data.get("name") or ""),
        "network": _network(run, section),
        "found by": _origin(run),
        "image size": f"{data['height']} × {data['width']} pixels" if {"height", "width"} <= set(data) else "",
        "seed": run.config.get("seed", 0),
    }
    command = environment.get("command")
    origin = {
        "command": shlex.join(map(str, command)) if isinstance(command, list) else "",
        "software": _pairs(environment.get("versions")),
        "machine": _pairs(environment.get("machine")),
        "source": environment.get("git"),
        "folder": run.path,
    }
    return Summary(_present(facts), _present(origin), dump_yaml(run.config))


def _present(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _network(run: RunContents, section: Mapping[str, Any]) -> str:
    if section.get("backbone"):
        return str(section["backbone"])
    if run.genotype is None:
        return ""
    network = run.genotype.network
    sizes = {name: value for name in ("channels", "cells") if isinstance(value := section.get(name), int)}
    return run.genotype.resize(network.height, network.width, **sizes).summary()


def _origin(run: RunContents) -> str:
    if run.genotype is None:
        return ""
    origin = run.genotype.origin
    words = [origin.method, f"on {origin.data}" if origin.data else ""]
    words += [f"seed {origin.seed}" if origin.seed is not None else ""]
    words += [f"epoch {origin.epoch + 1}" if origin.epoch is not None else ""]
    return ", ".join(filter(None, words))


def _pairs(values: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items()) if isinstance(values, Mapping) else ""


@dataclass(frozen=True)
class Cost:
    """Rows of text with the share of all multiply-adds; the totals of the network without its head."""

    rows: list[tuple[list[str], float]]
    parameters: int
    macs: int
    activations: int
    size: str


def make_cost_table(run: RunContents) -> Cost | None:
    """Return the costs of the network that the run searched or trained; None without one.

    Raises:
        InputError: settings or a genotype that no longer build a network.
    """
    import torch
    from torch import nn

    from dcs_nas.config import RetrainConfig
    from dcs_nas.models.build import build_fixed
    from dcs_nas.models.network_profile import profile

    config = run.files.config()
    settings = RetrainConfig() if run.searched or config.training is None else config.training
    if settings.backbone is None and run.genotype is None:
        return None
    run.files.load_extensions()
    settings = settings.model_copy(update={"weights": None, "inherit": None})
    genotype = None if settings.backbone else run.genotype
    height, width = config.data.height, config.data.width
    with torch.random.fork_rng(devices=[]):
        backbone = build_fixed(settings, config.data, 1, genotype).backbone
        assert isinstance(backbone, nn.Module)
        costs = profile(backbone, height, width, device=torch.device("cpu"), depth=2, rounds=0)
    most = max(costs.macs, 1)
    after = "stage" if any(layer.name.startswith("stages.") for layer in costs.layers) else "cell"
    rows = [
        (
            [
                describe_place(layer.name, after=after) or "(itself)",
                layer.kind,
                " × ".join(map(str, layer.output)),
                f"{layer.parameters:,}",
                _shorten(layer.macs),
                f"{layer.activation_bytes / 1024:,.1f} KiB",
            ],
            layer.macs / most,
        )
        for layer in costs.layers
        if layer.parameters or layer.macs or layer.activation_bytes
    ]
    return Cost(rows, costs.parameters, costs.macs, costs.activation_bytes, f"{height} × {width}")


def _shorten(count: int) -> str:
    """Return a count in millions, or thousands below one million.

    >>> _shorten(12_345_678), _shorten(999_999), _shorten(4_500), _shorten(40)
    ('12.35 M', '1.00 M', '4.5 k', '40')
    """
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.1f} k" if count < 999_950 else f"{count / 1e6:,.2f} M"
