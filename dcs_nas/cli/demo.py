"""``dcs-nas demo``: synthetic people, search, retraining, evaluation, pictures, a report, in one go."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dcs_nas.cli.console import progress, say, show_log, table
from dcs_nas.cli.options import Overrides
from dcs_nas.runs import RunFolder

STAGES = ("synth", "search", "retrain", "evaluate", "visualize", "report")


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("results/demo"),
    config: Annotated[str, typer.Option(help="The configuration to run.")] = "demo",
    override: Overrides = None,
) -> None:
    """Draw people, search, retrain, evaluate, draw the architecture, report; ends with a table of what came out.

    A demo that was interrupted goes on where it stopped; one that was finished starts anew.
    """
    # OpenMP's threads spin while they wait for each other, which on a busy machine costs ten times the work itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded; on an idle one it costs a third

    from dcs_nas.config import load_config
    from dcs_nas.environment import environment
    from dcs_nas.files import write_json
    from dcs_nas.space import shipped_file

    summary = out / "demo.json"
    if summary.is_file():
        say(f"{out} holds a finished demo: starting anew")
        for part in (*STAGES, "graphs"):
            shutil.rmtree(out / part, ignore_errors=True)
        summary.unlink()
    root = out / "data"
    settings = load_config(shipped_file("configs", config), override or [])
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"root": root})})
    show_log()
    minutes: dict[str, float] = {}
    found: dict[str, Any] = {}
    for stage in STAGES:
        say(f"{stage} ...")
        began = time.perf_counter()
        found |= _RUN[stage](out, root, settings)
        minutes[stage] = (time.perf_counter() - began) / 60
    _show(out, found, minutes)
    facts = {"data": "synthetic", "config": config, "seed": settings.seed, **environment()}
    write_json(summary, {**facts, **found, "minutes": minutes})


def _synth(out: Path, root: Path, settings: Any) -> dict[str, Any]:
    from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic

    if not root.is_dir():
        write_synthetic(root, settings=SyntheticSettings(), progress=progress("drawing"))
    return {}


def _search(out: Path, root: Path, settings: Any) -> dict[str, Any]:
    from dcs_nas.search.job import run_search

    run = RunFolder(out / "search")
    genotype = run_search(settings, run.path, resume=run.config_file.is_file(), progress=progress)
    found = genotype.model_dump(mode="json", by_alias=True)
    return {part: found[part] for part in ("cells", "stages") if part in found}


def _retrain(out: Path, root: Path, settings: Any) -> dict[str, Any]:
    from dcs_nas.training.retrain_job import run_retraining

    run, genotype = RunFolder(out / "retrain"), RunFolder(out / "search").genotype_file
    run_retraining(settings, run.path, genotype=genotype, resume=run.config_file.is_file(), progress=progress)
    return {}


def _evaluate(out: Path, root: Path, settings: Any) -> dict[str, Any]:
    from dcs_nas.files import write_json
    from dcs_nas.models.flops import count
    from dcs_nas.training.evaluate import evaluate_run, load_trained

    reports = {}
    run = RunFolder(out / "retrain")
    for name, features, file in (
        ("network", "network", run.evaluation_file()),
        ("color_histogram", "color-histogram", run.evaluation_file("color-histogram")),
        ("corrected", "color-histogram-corrected", run.evaluation_file("color-histogram-corrected")),
    ):
        reports[name] = evaluate_run(run.path, features=features, progress=progress).report
        write_json(file, reports[name])
    _, network = load_trained(run.path)
    cost = count(network.backbone, settings.data.height, settings.data.width)
    scores = {
        name: {
            "mAP": report["mAP"],
            "mINP": report["mINP"],
            "cmc": report["cmc"],
            "protocol": report["protocol"],
            "queries": report["queries"],
            "gallery_size": report["gallery_size"],
        }
        for name, report in reports.items()
    }
    return {"scores": scores, "parameters": cost.parameters, "multiply_adds": cost.macs}


def _visualize(out: Path, root: Path, settings: Any) -> dict[str, Any]:
    from dcs_nas.report.graphs import draw

    drawing = draw(RunFolder(out / "search").genotype(), RunFolder(out).graphs)
    if drawing.note:
        say(drawing.note)
    return {"graphs": [str(file.relative_to(out)) for file in drawing.files]}


def _report(out: Path, root: Path, settings: Any) -> dict[str, Any]:
    from dcs_nas.report.page import Options, write_report

    page = write_report([out], RunFolder(out).report_file, options=Options(maps=4, ranked=4), progress=progress)
    for note in page.notes:
        say(note)
    return {"report": page.file.name}


_RUN: dict[str, Callable[[Path, Path, Any], dict[str, Any]]] = {
    "synth": _synth,
    "search": _search,
    "retrain": _retrain,
    "evaluate": _evaluate,
    "visualize": _visualize,
    "report": _report,
}


def _show(out: Path, found: dict[str, Any], minutes: dict[str, float]) -> None:
    rows = []
    labels = {
        "network": "searched network",
        "color_histogram": "colour histogram",
        "corrected": "same, cast removed",
    }
    for name, label in labels.items():
        scores = found["scores"][name]
        rows.append(
            [
                label,
                *(
                    f"{100 * s:.1f} %"
                    for s in (*(scores["cmc"][k - 1] for k in (1, 5, 10)), scores["mAP"], scores["mINP"])
                ),
            ]
        )
    table("synthetic people, people unseen in training", ["", "rank-1", "rank-5", "rank-10", "mAP", "mINP"], rows)
    size = [[f"{found['parameters'] / 1e6:.3f} M", f"{found['multiply_adds'] / 1e6:.1f} M"]]
    table("searched network", ["parameters", "FLOPs (multiply-adds)"], size)
    times = [f"{minutes[stage]:.2f}" for stage in STAGES]
    table("minutes", [*STAGES, "all"], [[*times, f"{sum(minutes.values()):.2f}"]])
    print(f"open:\n  {out / found['report']}")
    for file in found["graphs"]:
        print(f"  {out / file}")
    print(f"  {out / 'search' / 'genotype.yaml'}\n  {out / 'retrain' / 'evaluation.json'}")
    print(f"  tensorboard --logdir {shlex.quote(str(out))}")
