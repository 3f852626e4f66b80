"""``dcs-nas demo``: synthetic data, search, retraining, evaluation, pictures and a report in one command."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dcs_nas import api
from dcs_nas.cli.console import progress, say, show_log, table
from dcs_nas.cli.options import Overrides
from dcs_nas.environment import describe_environment
from dcs_nas.errors import InputError
from dcs_nas.files import remove, write_json
from dcs_nas.runs import RunFolder
from dcs_nas.runs.lock import require_unused
from dcs_nas.settings import make_absolute

_FEATURES = {  # name in demo.json: features to evaluate, name in the table
    "network": ("network", "searched network"),
    "color_histogram": ("color-histogram", "colour histogram"),
    "corrected": ("color-histogram-corrected", "same, cast removed"),
}
_RANKS = (1, 5, 10)
_KEPT = ("mAP", "mINP", "cmc", "protocol", "queries", "gallery_size")


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of data, runs and report.")] = Path("results/demo"),
    config: Annotated[str, typer.Option(help="The configuration to run.")] = "demo",
    override: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start an interrupted demo again.")] = False,
) -> None:
    """Draw a data set, search, retrain, evaluate, draw the architecture, write a report; print a table of the scores.

    An interrupted demo resumes; a finished one starts again.
    """
    from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
    from dcs_nas.models.flops import count
    from dcs_nas.report.graphs import draw
    from dcs_nas.report.page import Options, write_report

    summary, searching, training = out / "demo.json", RunFolder(out / "search"), RunFolder(out / "retrain")
    settings = api.load_settings(config, override or [])
    if settings.data.root is not None:
        raise InputError(f"data.root is {settings.data.root}, but the demo draws its own images; leave it out")
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"root": out / "data"})})
    if overwrite or summary.is_file():
        if summary.is_file():
            say(f"{out} holds a finished demo: starting again")
        for run in (searching, training):
            _require_own(run, out / "data")
        for part in (*searching.parts(), *training.parts(), *out.glob("graphs"), *out.glob(summary.name)):
            remove(part)
    show_log()
    minutes: dict[str, float] = {}
    with _stage("synth", minutes):
        if not (out / "data").is_dir():
            write_synthetic(out / "data", settings=SyntheticSettings(), progress=progress("drawing"))
    with _stage("search", minutes):
        resume = searching.config_file.is_file()
        genotype = api.search(settings, out=searching.path, resume=resume, progress=progress).genotype
    with _stage("retrain", minutes):
        resume = training.config_file.is_file()
        file = searching.genotype_file
        trained = api.retrain(settings, genotype=file, out=training.path, resume=resume, progress=progress)
    with _stage("evaluate", minutes):
        scores = {}
        for name, (features, _) in _FEATURES.items():
            report = trained.evaluate(features=features, progress=progress).report
            write_json(training.evaluation_file(*([features] if features != "network" else [])), report)
            scores[name] = {key: report[key] for key in _KEPT}
        cost = count(trained.network.backbone, settings.data.height, settings.data.width)
    with _stage("visualize", minutes):
        drawing = draw(genotype.genotype, RunFolder(out).graphs)
    with _stage("report", minutes):
        options = Options(maps=4, ranked=4)
        page = write_report([out], RunFolder(out).report_file, options=options, progress=progress)
    for note in filter(None, (drawing.note, *page.notes)):
        say(note)
    _show_scores(scores)
    size = [[f"{cost.parameters / 1e6:.3f} M", f"{cost.macs / 1e6:.1f} M"]]
    table("searched network", ["parameters", "FLOPs (multiply-adds)"], size)
    times = [f"{value:.2f}" for value in (*minutes.values(), sum(minutes.values()))]
    table("minutes", [*minutes, "all"], [times])
    print("open:")
    for file in (page.file, *drawing.files, searching.genotype_file, training.evaluation_file()):
        print(f"  {file}")
    print(f"  tensorboard --logdir {shlex.quote(str(out))}")
    architecture = genotype.model_dump(mode="json", by_alias=True)
    facts = {
        "data": "synthetic",
        "config": config,
        "seed": settings.seed,
        **describe_environment(),
        **{part: architecture[part] for part in ("cells", "stages") if part in architecture},
        "scores": scores,
        "parameters": cost.parameters,
        "multiply_adds": cost.macs,
        "graphs": [str(file.relative_to(out)) for file in drawing.files],
        "report": page.file.name,
    }
    write_json(summary, {**facts, "minutes": minutes})


def _require_own(run: RunFolder, data: Path) -> None:
    """Raise ``InputError`` if a process works on the run, or it is of other images than the demo's."""
    require_unused(run.path)
    if run.is_run() and run.config().data.root != make_absolute(data):
        raise InputError(f"{run.path} is no run of the demo, so it is not replaced; name another folder by --out")


@contextmanager
def _stage(name: str, minutes: dict[str, float]) -> Iterator[None]:
    """Announce a stage, and record the minutes that it takes."""
    say(f"{name} ...")
    began = time.perf_counter()
    yield
    minutes[name] = (time.perf_counter() - began) / 60


def _show_scores(scores: dict[str, dict[str, Any]]) -> None:
    rows = []
    for name, (_, label) in _FEATURES.items():
        cmc, mean = scores[name]["cmc"], [scores[name]["mAP"], scores[name]["mINP"]]
        ranks = [k for k in _RANKS if k <= len(cmc)]
        rows.append([label, *(f"{100 * value:.1f} %" for value in (*(cmc[k - 1] for k in ranks), *mean))])
    columns = ["", *(f"rank-{k}" for k in ranks), "mAP", "mINP"]
    table("synthetic data, identities unseen in training", columns, rows)
