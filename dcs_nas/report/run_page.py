"""All that the page of one run shows; a part that cannot be made is left out with a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcs_nas.data.images import Progress
from dcs_nas.errors import Attempts, InputError, command
from dcs_nas.report.architecture import Architecture, Heats, architecture_pictures, heat_maps
from dcs_nas.report.embedded import Picture
from dcs_nas.report.metric_charts import Group, curve_groups
from dcs_nas.report.place_names import place_in_words
from dcs_nas.report.retrieval import Lists, drawn_lists, saved_lists
from dcs_nas.report.score_table import Score, cmc_figure, named_evaluations, sound_rows
from dcs_nas.runs import Evaluation, RunContents
from dcs_nas.settings import dump_yaml

if TYPE_CHECKING:
    from dcs_nas.report.maps import AttentionMaps
_FIRST = (("mAP", 0), ("rank-1", 2))  # places in SCORE_COLUMNS
COST_COLUMNS = ["layer", "kind", "output", "parameters", "multiply-adds", "kept for the backward pass"]


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
    loaded: Loaded | None = None
    scores: list[Score] = field(default_factory=list)
    score: Score | None = None
    intervals: str = ""
    cmc: Picture | None = None
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
    def answers(self) -> list[tuple[str, str, str]]:
        """The figures that a reader looks for first, as (name, value, remark)."""
        score, cost = self.score, self.cost
        missing = "not evaluated yet" if self.trained else "not trained yet"
        scores = [(name, score.cells[i], score.interval(i)) if score else (name, "–", missing) for name, i in _FIRST]
        if cost is None:
            return scores
        size = f"one image of {cost.size} pixels"
        return [
            *scores,
            ("parameters", _short(cost.parameters), "without the head"),
            ("multiply-adds", _short(cost.macs), size),
        ]

    @property
    def anchors(self) -> list[tuple[str, str]]:
        """The parts that the page's head links to."""
        there = [
            ("loaded", "weights loaded", self.loaded),
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
    run: RunContents, id: str, *, maps: int, ranked: int, progress: Callable[[str], Progress] | None = None
) -> RunPage:
    """Return the page of ``run``, with attention maps over ``maps`` images and ``ranked`` best and worst queries."""
    notes = run.notes
    attempt = Attempts(notes)
    page = RunPage(id, run.name, run.path, run.searched, run.trained, Summary([], [], ""), notes)
    page.summary = attempt("summary", lambda: summarize(run), page.summary)
    page.loaded = attempt("weights.json", lambda: loaded_weights(run), None)
    named: list[tuple[str, Evaluation]] = attempt("scores", lambda: named_evaluations(run.evaluations), [])
    page.scores, named = sound_rows(named, attempt)
    page.score = next((row for row, (_, one) in zip(page.scores, named) if one == run.own_evaluation), None)
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
        from dcs_nas.report.maps import attention_maps

        page.maps = attempt("attention maps", lambda: attention_maps(run.path, count=maps, progress=progress), None)
        if page.maps is None and notes and notes[-1].startswith("attention maps"):
            page.no_maps = f"Not drawn: {notes[-1].partition('. ')[2]}"
    return page


@dataclass(frozen=True)
class Loaded:
    """The weights file that a training began with: a sentence, and rows of what fitted, how many, examples."""

    sentence: str
    rows: list[tuple[str, str, str]]


def loaded_weights(run: RunContents) -> Loaded | None:
    """Return what ``weights.json`` tells; None where there is none."""
    found = run.weights
    if not found:
        return None
    below = f", its part {found['prefix']!r}" if found["prefix"] else ""
    sentence = f"{found['file']}{below}: {found['supplied']:,} of the backbone's {found['numbers']:,} numbers."
    return Loaded(sentence, [(str(what), f"{count:,}", str(names)) for what, count, names in found["rows"]])


def _explained_intervals(run: RunContents) -> str:
    found = [e.report["confidence"] for e in run.evaluations if e.report.get("confidence")]
    if not found:
        return ""
    level = 100 * float(found[0].get("level", 0.95))
    return f"Small figures: {level:g} % intervals over which queries were asked (bootstrap)."


@dataclass(frozen=True)
class Summary:
    """Facts as (name, value) pairs, those of how it was made apart, and the whole configuration as YAML."""

    facts: list[tuple[str, str]]
    made: list[tuple[str, str]]
    config: str


def summarize(run: RunContents) -> Summary:
    """Return what a reader wants to know first; facts that the folder does not hold are left out."""
    section, data = run.section(run.kind if run.searched or run.trained else "retrain"), run.section("data")
    epochs, wanted, environment = len(run.metrics), section.get("epochs"), run.environment
    done = f"{epochs} of {wanted} epochs" if wanted and epochs else f"{epochs} epochs" if epochs else ""
    facts = {
        "what": {"search": "search", "pretrain": "pretraining on classes of images"}.get(
            run.kind, "training of a fixed network"
        ),
        "state": ", ".join(filter(None, ["finished" if run.is_finished else "not finished", done])),
        "data": str(run.data.get("version") or data.get("name") or ""),
        "network": _network(run, section),
        "found by": _origin(run),
        "image size": f"{data['height']} × {data['width']} pixels" if {"height", "width"} <= set(data) else "",
        "seed": run.config.get("seed", 0),
    }
    command = environment.get("command")
    made = {
        "command": " ".join(map(str, command)) if isinstance(command, list) else "",
        "software": _pairs(environment.get("versions")),
        "machine": _pairs(environment.get("machine")),
        "source": environment.get("git"),
        "folder": run.path,
    }
    return Summary(_present(facts), _present(made), dump_yaml(run.config))


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


def _pairs(found: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in found.items()) if isinstance(found, Mapping) else ""


@dataclass(frozen=True)
class Cost:
    """Rows of text with the share of all multiply-adds; the totals of the network without its head."""

    rows: list[tuple[list[str], float]]
    parameters: int
    macs: int
    activations: int
    size: str


def cost_table(run: RunContents) -> Cost | None:
    """Return the costs of the network that the run found or trained; None where it has none.

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
        if not isinstance(backbone, nn.Module):
            raise InputError("the network has no backbone to measure")
        found = profile(backbone, height, width, device=torch.device("cpu"), depth=2, rounds=0)
    most = max(found.macs, 1)
    after = "stage" if any(layer.name.startswith("stages.") for layer in found.layers) else "cell"
    rows = [
        (
            [
                place_in_words(layer.name, after=after) or "(itself)",
                layer.kind,
                " × ".join(map(str, layer.output)),
                f"{layer.parameters:,}",
                _short(layer.macs),
                f"{layer.activation_bytes / 1024:,.1f} KiB",
            ],
            layer.macs / most,
        )
        for layer in found.layers
        if layer.parameters or layer.macs or layer.activation_bytes
    ]
    return Cost(rows, found.parameters, found.macs, found.activation_bytes, f"{height} × {width}")


def _short(count: int) -> str:
    """Millions where there is one, else thousands.

    >>> _short(12_345_678), _short(4_500), _short(0)
    ('12.35 M', '4.5 k', '0')
    """
    return f"{count / 1e6:,.2f} M" if count >= 1e6 else f"{count / 1e3:,.1f} k" if count else "0"
