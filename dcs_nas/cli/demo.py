"""``dcs-nas demo``: synthetic data, search, retraining, evaluation, pictures and a report in one command."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcs_nas.cli.console import progress, say, show_log, table
from dcs_nas.cli.options import Overrides
from dcs_nas.runs import RunFolder

if TYPE_CHECKING:
    from dcs_nas.config import Config

_FEATURES = {  # name in demo.json: features to evaluate, name in the table
    "network": ("network", "searched network"),
    "color_histogram": ("color-histogram", "colour histogram"),
    "corrected": ("color-histogram-corrected", "same, cast removed"),
}
_KEPT = ("mAP", "mINP", "cmc", "protocol", "queries", "gallery_size")


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("results/demo"),
    config: Annotated[str, typer.Option(help="The configuration to run.")] = "demo",
    override: Overrides = None,
) -> None:
    """Draw a data set, search, retrain, evaluate, draw the architecture, write a report; print a table of the scores.

    An interrupted demo resumes; a finished one starts again.
    """
    from dcs_nas import api
    from dcs_nas.environment import describe_environment
    from dcs_nas.files import write_json

    summary = out / "demo.json"
    if summary.is_file():
        say(f"{out} holds a finished demo: starting again")
        for part in (*_STAGES, "graphs"):
            shutil.rmtree(out / part, ignore_errors=True)
        summary.unlink()
    settings = api.load_settings(config, override or [])
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"root": out / "data"})})
    show_log()
    minutes: dict[str, float] = {}
    results: dict[str, Any] = {}
    for name, stage in _STAGES.items():
        say(f"{name} ...")
        began = time.perf_counter()
        results |= stage(out, settings)
        minutes[name] = (time.perf_counter() - began) / 60
    _show(out, results, minutes)
    facts = {"data": "synthetic", "config": config, "seed": settings.seed, **describe_environment()}
    write_json(summary, {**facts, **results, "minutes": minutes})


def _synth(out: Path, settings: Config) -> dict[str, Any]:
    from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic

    if not (out / "data").is_dir():
        write_synthetic(out / "data", settings=SyntheticSettings(), progress=progress("drawing"))
    return {}


def _search(out: Path, settings: Config) -> dict[str, Any]:
    from dcs_nas import api

    run = RunFolder(out / "search")
    searched = api.search(settings, out=run.path, resume=run.config_file.is_file(), progress=progress)
    genotype = searched.genotype.model_dump(mode="json", by_alias=True)
    return {part: genotype[part] for part in ("cells", "stages") if part in genotype}


def _retrain(out: Path, settings: Config) -> dict[str, Any]:
    from dcs_nas import api

    run, genotype = RunFolder(out / "retrain"), RunFolder(out / "search").genotype_file
    api.retrain(settings, genotype=genotype, out=run.path, resume=run.config_file.is_file(), progress=progress)
    return {}


def _evaluate(out: Path, settings: Config) -> dict[str, Any]:
    from dcs_nas import api
    from dcs_nas.files import write_json
    from dcs_nas.models.flops import count

    scores = {}
    run, trained = RunFolder(out / "retrain"), api.TrainedRun(out / "retrain")
    for name, (features, _) in _FEATURES.items():
        report = trained.evaluate(features=features, progress=progress).report
        write_json(run.evaluation_file(*([features] if features != "network" else [])), report)
        scores[name] = {key: report[key] for key in _KEPT}
    cost = count(trained.network.backbone, settings.data.height, settings.data.width)
    return {"scores": scores, "parameters": cost.parameters, "multiply_adds": cost.macs}


def _visualize(out: Path, settings: Config) -> dict[str, Any]:
    from dcs_nas.report.graphs import draw

    drawing = draw(RunFolder(out / "search").genotype(), RunFolder(out).graphs)
    if drawing.note:
        say(drawing.note)
    return {"graphs": [str(file.relative_to(out)) for file in drawing.files]}


def _report(out: Path, settings: Config) -> dict[str, Any]:
    from dcs_nas.report.page import Options, write_report

    page = write_report([out], RunFolder(out).report_file, options=Options(maps=4, ranked=4), progress=progress)
    for note in page.notes:
        say(note)
    return {"report": page.file.name}


_STAGES: dict[str, Callable[[Path, Config], dict[str, Any]]] = {
    "synth": _synth,
    "search": _search,
    "retrain": _retrain,
    "evaluate": _evaluate,
    "visualize": _visualize,
    "report": _report,
}


def _show(out: Path, results: dict[str, Any], minutes: dict[str, float]) -> None:
    rows = []
    for name, (_, label) in _FEATURES.items():
        scores = results["scores"][name]
        values = [*(scores["cmc"][k - 1] for k in (1, 5, 10)), scores["mAP"], scores["mINP"]]
        rows.append([label, *(f"{100 * value:.1f} %" for value in values)])
    table("synthetic data, identities unseen in training", ["", "rank-1", "rank-5", "rank-10", "mAP", "mINP"], rows)
    size = [[f"{results['parameters'] / 1e6:.3f} M", f"{results['multiply_adds'] / 1e6:.1f} M"]]
    table("searched network", ["parameters", "FLOPs (multiply-adds)"], size)
    times = [f"{minutes[stage]:.2f}" for stage in _STAGES]
    table("minutes", [*_STAGES, "all"], [[*times, f"{sum(minutes.values()):.2f}"]])
    print(f"open:\n  {out / results['report']}")
    for file in results["graphs"]:
        print(f"  {out / file}")
    print(f"  {out / 'search' / 'genotype.yaml'}\n  {out / 'retrain' / 'evaluation.json'}")
    print(f"  tensorboard --logdir {shlex.quote(str(out))}")
