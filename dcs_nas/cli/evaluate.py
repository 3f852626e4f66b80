"""``dcs-nas evaluate``: scores of one run or the mean of several, and the files and pictures asked for.

Heavy imports wait until a command runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcs_nas.cli import options
from dcs_nas.cli.console import progress, say, show_log
from dcs_nas.cli.tables import average_table, score_table
from dcs_nas.errors import InputError
from dcs_nas.files import write_json
from dcs_nas.processes import is_first

if TYPE_CHECKING:
    from dcs_nas.training.evaluate import Evaluation

_TOP = 10


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
    protocol: options.Protocol = None,
    metric: Annotated[str | None, typer.Option(help="cosine or euclidean.")] = None,
    expand: options.Expand = None,
    expand_alpha: options.Alpha = None,
    rerank: options.Rerank = None,
    k1: options.K1 = None,
    k2: options.K2 = None,
    weight: options.Weight = None,
    trapezoid: options.Trapezoid = None,
    confidence: options.Confidence = None,
    max_rank: options.MaxRank = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="By default evaluation.json in RUN.")] = None,
    csv: options.Csv = None,
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
    extension: options.Extension = None,
) -> None:
    """CMC, mAP and mINP of a trained run, on its own or on another data set.

    What is not given here is as the section evaluate of the run's configuration says.
    """
    show_log()
    options.load_extension_files(extension)
    given = options.changes(
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
        data_options=options.parse_options(data_option or []),
        splits=splits,
        checkpoint=checkpoint,
        features=features,
        settings=given,
        outputs=Outputs(json=json, csv=csv, features=save_features, pictures=pictures, top=top),
    )


@dataclass(frozen=True)
class Outputs:
    """Where to write what; None is not asked for. ``pictures`` is how many ranked lists, ``top`` images in each."""

    json: Path | None = None
    csv: Path | None = None
    features: Path | None = None
    pictures: int | None = None
    top: int | None = None


def evaluate_and_write(
    runs: Sequence[Path],
    *,
    data_name: str | None,
    root: Path | None,
    data_options: Mapping[str, Any],
    splits: int | None,
    checkpoint: str,
    features: str,
    settings: Mapping[str, Any],
    outputs: Outputs,
) -> None:
    """Evaluate, show the scores and write what ``outputs`` asks for.

    Raises:
        InputError: as ``evaluate_run``; also outputs of one evaluation where there are several.
    """
    from dcs_nas import api

    _check(runs, splits, outputs)
    naming: dict[str, Any] = {
        "data": data_name,
        "data_options": data_options,
        "features": features,
        "checkpoint": checkpoint,
    }
    choices: dict[str, Any] = {
        "data_name": data_name,
        "root": root,
        "data_options": data_options,
        "features": features,
        "checkpoint": checkpoint,
        "progress": progress,
        **settings,
    }
    if splits is not None:
        found = [one.evaluation for one in api.evaluate_splits(runs[0], splits, **choices)]
        names = [one.dataset.version for one in found]
        name = report_name(settings, **naming, images=_other_images(found[0]), splits=splits)
        own = runs[0] / f"{name}.json"
        _write_average([one.report for one in found], names, f"{runs[0]}, {features}", outputs.json, own)
        return
    found = []
    for run in runs:
        found.append(api.evaluate(run, **choices).evaluation)
        name = report_name(settings, **naming, images=_other_images(found[-1]))
        _write_one(run, found[-1], name, features, outputs if len(runs) == 1 else Outputs())
    if len(runs) > 1:
        reports = [one.report for one in found]
        _write_average(reports, [str(run) for run in runs], f"mean of {len(runs)} runs, {features}", outputs.json)


def _other_images(found: Evaluation) -> str | None:
    """The fingerprint of the images in short where they are not those that the run began with."""
    data = found.report["data"]
    return str(data["fingerprint"])[:8] if data["other_images"] else None


def _check(runs: Sequence[Path], splits: int | None, outputs: Outputs) -> None:
    if outputs.top is not None and not outputs.pictures:
        raise InputError(f"--top {outputs.top} goes with --pictures N, the number of ranked lists to draw")
    if len(runs) == 1 and splits is None:
        return
    if splits is not None and len(runs) > 1:
        raise InputError(f"--splits {splits} goes with one RUN, found {len(runs)}; leave --splits out for their mean")
    asked = [f.name for f in fields(outputs) if f.name not in ("json", "top") and getattr(outputs, f.name) is not None]
    if asked:
        option = {"features": "save-features"}.get(asked[0], asked[0])
        raise InputError(f"--{option} is about one evaluation, found several; give one RUN and no --splits")


def _write_one(run: Path, found: Evaluation, name: str, features: str, outputs: Outputs) -> None:
    if not is_first():
        return
    score_table(found.report, f"{run}: {found.report['data']['version']}, {features}")
    _write_report(found.report, outputs.json, run / f"{name}.json", "scores")
    if outputs.csv is not None:
        found.result.write_csv(outputs.csv, names=[record.path for record in found.query.records])
        say(f"queries: {outputs.csv}")
    if outputs.features is not None:
        from dcs_nas.evaluation import save_features

        save_features(outputs.features, found.features)
        say(f"features: {outputs.features}")
    if outputs.pictures is not None:
        _draw(run, found, name, outputs.pictures, outputs.top or _TOP)


def _write_average(
    reports: Sequence[Mapping[str, Any]], names: Sequence[str], title: str, asked: Path | None, own: Path | None = None
) -> None:
    from dcs_nas.evaluation import average

    if not is_first():
        return
    mean = average(reports)
    average_table(mean, names, title)
    _write_report(mean, asked, own, "mean")


def _write_report(report: Mapping[str, Any], asked: Path | None, own: Path | None, what: str) -> None:
    """Write it where it was asked for and into the run's folder, by which ``runs`` knows it.

    A run's folder that may not be written to is passed over where the report is kept elsewhere.
    """
    for target in filter(None, (asked, own)):
        if target == own and asked is not None and not os.access(own.parent, os.W_OK):
            continue
        write_json(target, report)
        say(f"{what}: {target}")


def _draw(run: Path, found: Evaluation, name: str, count: int, top: int) -> None:
    """The CMC curve and the ranked lists of the ``count`` hardest queries, in ``RUN/ranked/NAME``."""
    from dcs_nas.report.charts import cmc_curve, draw_cmc
    from dcs_nas.report.ranked_pictures import RankedPictures
    from dcs_nas.report.retrieval import hardest_lists

    folder = run / "ranked" / name
    report, version = found.report, found.dataset.version
    for file in draw_cmc([cmc_curve(report, run.name)], folder, title=f"{version}, {report['protocol']['name']}"):
        print(file)
    if not count:
        return
    lists = hardest_lists(found.result, found.distances, found.features, count=count, top=top)
    height, width = found.query.pixels[[0]].shape[1:3]
    protocol = found.result.protocol
    steps = ["expanded queries"] * bool(protocol.expansion) + ["re-ranked"] * bool(protocol.rerank)
    pictures = RankedPictures(
        found.dataset,
        found.features,
        aspect=width / height,
        subtitle=", ".join([version, f"{protocol.metric} distance", *steps]),
        camera_filter=protocol.name != "no_camera_filter",
    )
    files = pictures.write(lists, folder, progress=progress("drawing"))
    print(files[-1])
    say(f"{len(lists)} ranked lists: {folder}")


def report_name(
    given: Mapping[str, Any],
    *,
    data: str | None,
    data_options: Mapping[str, Any],
    features: str,
    checkpoint: str,
    images: str | None = None,
    splits: int | None = None,
) -> str:
    """One name for each way to evaluate, so that none replaces another, e.g. ``evaluation_dukemtmc_rerank_flip``.

    ``given`` are the settings that replace the run's own; intervals don't change scores and are not named. ``images``
    is the fingerprint of images that are not the run's.
    """
    settings = {key: value for key, value in given.items() if key not in ("confidence", "max_rank")}
    parts = [
        data,
        f"images-{images}" if images else None,
        *(f"{key}-{value}" for key, value in data_options.items()),
        *(_short_name(key, value) for key, value in settings.items()),
        features if features != "network" else None,
        checkpoint if checkpoint != "last" else None,
        f"{splits}-splits" if splits else None,
    ]
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", "_".join(["evaluation", *filter(None, parts)]))


def _short_name(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no-{key}"
    return value if isinstance(value, str) else f"{key.replace('rerank_', '').replace('_', '-')}-{value}"
