"""What ``dcs-nas evaluate`` does: scores of one run or the mean of several, and the files and pictures asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dcs_nas.cli.console import progress, say
from dcs_nas.cli.scores import average_table, report_name, score_table, write_query_csv
from dcs_nas.errors import InputError
from dcs_nas.evaluation import save_features
from dcs_nas.evaluation.averages import average
from dcs_nas.files import write_json
from dcs_nas.processes import is_first
from dcs_nas.training.evaluate import Evaluation, evaluate_run, evaluate_splits

_TOP = 10


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
    _check(runs, splits, outputs)
    naming: dict[str, Any] = {
        "data": data_name,
        "data_options": data_options,
        "features": features,
        "checkpoint": checkpoint,
    }
    options: dict[str, Any] = {
        "data_name": data_name,
        "root": root,
        "data_options": data_options,
        "features": features,
        "checkpoint": checkpoint,
        "progress": progress,
        **settings,
    }
    if splits is not None:
        found = evaluate_splits(runs[0], splits=splits, **options)
        names = [one.dataset.version for one in found]
        name = report_name(settings, **naming, images=_other_images(found[0]), splits=splits)
        own = runs[0] / f"{name}.json"
        _write_average([one.report for one in found], names, f"{runs[0]}, {features}", outputs.json, own)
        return
    found = []
    for run in runs:
        found.append(evaluate_run(run, **options))
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
        write_query_csv(outputs.csv, found.result, [record.path for record in found.query.records])
    if outputs.features is not None:
        save_features(outputs.features, found.features)
        say(f"features: {outputs.features}")
    if outputs.pictures is not None:
        _draw(run, found, name, outputs.pictures, outputs.top or _TOP)


def _write_average(
    reports: Sequence[Mapping[str, Any]], names: Sequence[str], title: str, asked: Path | None, own: Path | None = None
) -> None:
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
    from dcs_nas.report.curves import cmc_curve, draw_cmc
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
