"""Options that several commands share, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dcs_nas.errors import InputError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A configuration: a path, or a name in configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--set", metavar="KEY=VALUE", help="Replace a setting, e.g. -o search.epochs=20. Repeatable."),
]
Folder = Annotated[Path | None, typer.Option("--out", help="Run folder; by default results/NAME/COMMAND.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after an interruption, from the last whole epoch.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")]
Extension = Annotated[
    list[Path] | None,
    typer.Option("--extension", metavar="FILE", help="A Python file of your own operations or data sets. Repeatable."),
]

Protocol = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cross_camera, single_gallery_shot or no_camera_filter."),
]
Expand = Annotated[
    int | None,
    typer.Option(
        metavar="K", help="Average query expansion over the K nearest gallery images (5 is usual), 0 for none."
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(help="With --expand: weights are similarity to this power; 0, the default, is the plain average."),
]
Rerank = Annotated[
    bool | None, typer.Option("--rerank/--no-rerank", help="k-reciprocal re-ranking (arXiv 1701.08398).")
]
K1 = Annotated[int | None, typer.Option("--k1", help="With --rerank: neighbours; 20 as published.")]
K2 = Annotated[int | None, typer.Option("--k2", help="With --rerank: encodings averaged; 6 as published.")]
Weight = Annotated[
    float | None, typer.Option("--lambda", help="With --rerank: share of the original distance; 0.3 as published.")
]
Trapezoid = Annotated[
    bool | None,
    typer.Option("--trapezoid/--hits", help="Average precision by the trapezoid rule, as in MATLAB, or at each hit."),
]
Confidence = Annotated[
    int | None,
    typer.Option(metavar="N", help="95 % intervals from N bootstrap resamples of the queries (1000 is usual)."),
]
MaxRank = Annotated[int | None, typer.Option(help="Length of the CMC curve; 50 by default.")]
Csv = Annotated[Path | None, typer.Option(metavar="FILE", help="One line per query: scores, or why it was skipped.")]


def load_extension_files(files: list[Path] | None) -> None:
    """Import what the user names; it stands for what a run folder recorded under the same file name."""
    if files:
        from dcs_nas import api

        api.load_extensions(*files)


def changes(
    *,
    flip: bool | None = None,
    protocol: str | None,
    metric: str | None,
    expand: int | None,
    alpha: float | None,
    rerank: bool | None,
    k1: int | None,
    k2: int | None,
    weight: float | None,
    trapezoid: bool | None,
    confidence: int | None,
    max_rank: int | None,
) -> dict[str, Any]:
    """The options given on the command line as settings of ``EvaluateConfig``."""
    given = {
        "protocol": protocol,
        "metric": metric,
        "flip": flip,
        "expand": expand,
        "expand_alpha": alpha,
        "rerank": rerank,
        "rerank_k1": k1,
        "rerank_k2": k2,
        "rerank_lambda": weight,
        "average_precision": None if trapezoid is None else "trapezoid" if trapezoid else "hits",
        "confidence": confidence,
        "max_rank": max_rank,
    }
    return {key: value for key, value in given.items() if value is not None}


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """Options KEY=VALUE of a data set's loader, values as YAML."""
    from dcs_nas.settings import parse_yaml

    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"option '{item}' is not of the form key=value")
        options[key.strip()] = parse_yaml(value, source=f"the value of option '{item}'")
    return options
