"""Commands that run jobs: search, retrain, evaluate. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli import own_code, scores
from dcs_nas.cli.console import progress, say, show_log, table
from dcs_nas.processes import is_first
from dcs_nas.slurm import goes_on

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
    from dcs_nas.cli.genotype_table import show_genotype
    from dcs_nas.cli.next_steps import after_search, load_job

    overrides = override or []
    settings = load_job(config, overrides, "search", ("--out", out))
    folder = out or settings.results / settings.name / "search"
    resume, overwrite = goes_on(folder, resume=resume, overwrite=overwrite)
    show_log()
    from dcs_nas.search.job import run_search

    genotype = run_search(settings, folder, resume=resume, overwrite=overwrite, progress=progress)
    show_genotype(genotype)
    say(f"genotype: {folder / 'genotype.yaml'}")
    say(f"next: {after_search(config, overrides, settings, genotype, folder, out)}")


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
    from dcs_nas.cli.next_steps import after_training, load_job

    settings = load_job(config, override or [], "retrain", ("--genotype", genotype), ("--out", out))
    if settings.section("retrain").backbone is None and genotype is None:
        genotype = settings.results / settings.name / "search" / "genotype.yaml"
    folder = out or settings.results / settings.name / "retrain"
    resume, overwrite = goes_on(folder, resume=resume, overwrite=overwrite)
    show_log()
    from dcs_nas.training.retrain_job import run_retraining

    run_retraining(settings, folder, genotype=genotype, resume=resume, overwrite=overwrite, progress=progress)
    if is_first():
        _show_trained(folder)
        say(f"trained: {folder}")
        say(f"next: {after_training(settings, folder)}")


def evaluate(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folder of a retraining run; of several, the mean is given.")
    ],
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Another data set than the run's own.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Its folder.")] = None,
    data_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of its loader, e.g. version=V1. Repeatable."),
    ] = None,
    splits: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Mean over its splits 0 to N - 1, e.g. 20 of classic CUHK03.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, or best where people were held out.")] = "last",
    features: Annotated[str, typer.Option(help="network, color-histogram or color-histogram-corrected.")] = "network",
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Add the features of the mirrored images.")
    ] = None,
    protocol: scores.Protocol = None,
    metric: Annotated[str | None, typer.Option(help="cosine or euclidean.")] = None,
    expand: scores.Expand = None,
    expand_alpha: scores.Alpha = None,
    rerank: scores.Rerank = None,
    k1: scores.K1 = None,
    k2: scores.K2 = None,
    weight: scores.Weight = None,
    trapezoid: scores.Trapezoid = None,
    confidence: scores.Confidence = None,
    max_rank: scores.MaxRank = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="By default evaluation.json in RUN.")] = None,
    csv: scores.Csv = None,
    save_features: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Keep features, people, cameras and paths, as rank reads.")
    ] = None,
    pictures: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Draw the CMC curve and the N hardest queries' ranked lists in RUN/ranked."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, max=100, help="Images of a list in a picture; 10 by default.")
    ] = None,
    extension: own_code.Extension = None,
) -> None:
    """CMC, mAP and mINP of a trained run, on its own or on another data set.

    What is not given here is as the section evaluate of the run's configuration says.
    """
    show_log()
    from dcs_nas.cli.evaluating import Outputs, evaluate_and_write

    own_code.load(extension)
    given = scores.changes(
        flip=flip,
        protocol=protocol,
        metric=metric,
        expand=expand,
        alpha=expand_alpha,
        rerank=rerank,
        k1=k1,
        k2=k2,
        weight=weight,
        trapezoid=trapezoid,
        confidence=confidence,
        max_rank=max_rank,
    )
    evaluate_and_write(
        run,
        data_name=data,
        root=root,
        data_options=scores.parse_options(data_option or []),
        splits=splits,
        checkpoint=checkpoint,
        features=features,
        settings=given,
        outputs=Outputs(json=json, csv=csv, features=save_features, pictures=pictures, top=top),
    )


def _show_trained(folder: Path) -> None:
    """What was trained, on what, and where it ended, as a table."""
    from dcs_nas.models.flops import count
    from dcs_nas.runs import read_metrics
    from dcs_nas.settings import read_yaml
    from dcs_nas.training.evaluate import load_trained
    from dcs_nas.training.retrain_job import FINISHED

    config, network = load_trained(folder)
    cost = count(network.backbone, config.data.height, config.data.width)
    facts, last = read_yaml(folder / FINISHED), read_metrics(folder / "metrics.csv")[-1]
    shown = {
        "parameters": f"{cost.parameters:,}",
        "FLOPs (M)": f"{cost.macs / 1e6:,.1f}",
        "people": f"{facts['train_people']:,}",
        "images": f"{facts['train_images']:,}",
        "epochs": str(facts["epochs"]),
        "loss": f"{last['train/loss']:.3g}",
    }
    if "validation/mAP" in last:
        shown["held-out mAP"] = f"{100 * last['validation/mAP']:.2f} %"
    assert config.retrain is not None
    table(f"{folder}: {config.retrain.backbone or 'searched network'}", list(shown), [list(shown.values())])
