"""Commands that run jobs: search, retrain, evaluate. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dcs_nas.cli.console import progress, say, show_log, table

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A configuration: a path, or a name in configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--set", metavar="KEY=VALUE", help="Replace a setting, e.g. -o search.epochs=20. Repeatable."),
]
Folder = Annotated[Path | None, typer.Option("--out", help="Run folder; by default results/NAME/COMMAND.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after an interruption, from the last whole epoch.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")]


def search(
    config: ConfigFile,
    override: Overrides = None,
    out: Folder = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Search an architecture; ends with genotype.yaml in the run folder."""
    from dcs_nas.config import load_config
    from dcs_nas.space import shipped_file

    settings = load_config(shipped_file("configs", config), override or [])
    settings.section("search")
    folder = out or settings.results / settings.name / "search"
    show_log()
    from dcs_nas.search.search import run_search

    genotype = run_search(settings, folder, resume=resume, overwrite=overwrite, progress=progress)
    for kind, cell in genotype.cells.items():
        rows = [[str(i), *(f"{e.op} <- {e.source}" for e in edges)] for i, edges in enumerate(cell.nodes)]
        columns = ["node", *(f"edge {k + 1}" for k in range(genotype.space.edges_per_node))]
        table(f"{kind} cell, attention: {cell.attention}", columns, rows, words=True)
    say(f"genotype: {folder / 'genotype.yaml'}")
    say(f"next: dcs-nas retrain {config} --genotype {folder / 'genotype.yaml'}")


def retrain(
    config: ConfigFile,
    genotype: Annotated[
        Path | None, typer.Option(help="Genotype file; by default that of the search of the same name.")
    ] = None,
    override: Overrides = None,
    out: Folder = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a genotype, or the backbone that retrain.backbone names."""
    from dcs_nas.config import load_config
    from dcs_nas.space import shipped_file

    settings = load_config(shipped_file("configs", config), override or [])
    if settings.section("retrain").backbone is None and genotype is None:
        genotype = settings.results / settings.name / "search" / "genotype.yaml"
    folder = out or settings.results / settings.name / "retrain"
    show_log()
    from dcs_nas.retrain.retrain import run_retraining

    run_retraining(settings, folder, genotype=genotype, resume=resume, overwrite=overwrite, progress=progress)
    say(f"trained: {folder}")
    say(f"next: dcs-nas evaluate {folder}")


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a retraining run.")],
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Another data set than the run's own.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Its folder.")] = None,
    checkpoint: Annotated[str, typer.Option(help="last, or best where people were held out.")] = "last",
    rerank: Annotated[bool, typer.Option("--rerank", help="k-reciprocal re-ranking (arXiv 1701.08398).")] = False,
    flip: Annotated[bool, typer.Option("--flip", help="Add the features of the mirrored images.")] = False,
    features: Annotated[str, typer.Option(help="network, color-histogram or color-histogram-corrected.")] = "network",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="By default evaluation.json in RUN.")] = None,
) -> None:
    """CMC, mAP and mINP of a trained run, on its own or on another data set."""
    show_log()
    from dcs_nas.files import write_json
    from dcs_nas.retrain.evaluate import evaluate_run

    found = evaluate_run(
        run,
        data_name=data,
        root=root,
        checkpoint=checkpoint,
        rerank=rerank,
        flip=flip,
        features=features,
        progress=progress,
    )
    score_table(found.report, f"{run}: {found.report['data']['version']}, {features}")
    target = json or run / _report_name(data, rerank, flip, features, checkpoint)
    write_json(target, found.report)
    say(f"scores: {target}")


def score_table(report: dict[str, Any], title: str) -> None:
    """The scores of a report, in percent, and which queries they count."""
    cmc, queries = report["cmc"], report["queries"]
    ranks = [k for k in (1, 5, 10) if k <= len(cmc)]
    scores = [report["mAP"], report["mINP"], *(cmc[k - 1] for k in ranks)]
    table(title, ["mAP", "mINP", *(f"rank-{k}" for k in ranks)], [[f"{100 * s:.2f} %" for s in scores]])
    causes = [(cause.replace("_", " "), count) for cause, count in queries["skipped"].items() if count]
    skipped = "".join(f"; {count} skipped: {cause}" for cause, count in causes)
    protocol = report["protocol"]
    say(
        f"{queries['used']} of {queries['total']} queries{skipped}; gallery of "
        f"{report['gallery_size']}; protocol {protocol['name']}, {protocol['metric']} distance"
    )


def _report_name(data: str | None, rerank: bool, flip: bool, features: str, checkpoint: str) -> str:
    """One file for each way to evaluate, so that none replaces another."""
    parts = [
        data,
        "rerank" if rerank else None,
        "flip" if flip else None,
        features if features != "network" else None,
        checkpoint if checkpoint != "last" else None,
    ]
    return "_".join(["evaluation", *filter(None, parts)]) + ".json"
