"""``dcs-nas evaluate``: scores of one run or the mean of several, their files and pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from json import loads as read_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcs_nas import api
from dcs_nas.cli.console import progress, say, show_log
from dcs_nas.cli.options import (
    Csv,
    Extension,
    Overrides,
    collect_settings,
    load_extension_files,
    parse_options,
    refuse_options,
    with_evaluate_options,
)
from dcs_nas.cli.outputs import OUTPUT
from dcs_nas.cli.tables import average_table, score_table
from dcs_nas.config import EvaluateConfig, split_overrides
from dcs_nas.errors import InputError
from dcs_nas.files import write_json
from dcs_nas.processes import is_first
from dcs_nas.runs import RunFolder

if TYPE_CHECKING:
    from dcs_nas.training.evaluate import Evaluation

_TOP = 10
_OWN_DATA = ("folder", "csv")  # whose names say nothing of their images
_SAME_SCORES = ("trainer.", "data.root", "data.cache", "data.test_batch", "data.test.root")


@with_evaluate_options()
def evaluate(
    run: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="Folder of a retraining run; the mean of several.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Instead of RUN: a registered backbone with --weights.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights file of the backbone.")] = None,
    override: Overrides = None,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Data set to test on; by default the run's.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of that data set.")] = None,
    data_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of its loader, e.g. version=V1. Repeatable."),
    ] = None,
    splits: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Mean over its splits 0 to N - 1, e.g. 20 of classic CUHK03.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, or best if identities were held out.")] = "last",
    features: Annotated[str, typer.Option(help="network, color-histogram or color-histogram-corrected.")] = "network",
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="By default evaluation.json in RUN."), OUTPUT
    ] = None,
    csv: Csv = None,
    save_features: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Save features, identities, cameras and paths, as rank reads them."),
        OUTPUT,
    ] = None,
    pictures: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Draw the CMC curve and the N hardest queries' ranked lists in RUN/ranked."
        ),
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, max=100, help="Images of each ranked list; 10 by default.")] = None,
    extension: Extension = None,
    **settings: Any,
) -> None:
    """CMC, mAP and mINP of a trained run, on its own or on another data set; or of a backbone's weights without a run.

    Options that are left out take the values of the section evaluate of the run's configuration.
    """
    show_log()
    run = run or []
    several = splits is not None or len(run) > 1
    if not run or backbone is not None or weights is not None:
        _require_weights_alone(
            run, {"backbone NAME": backbone, "weights FILE": weights, "data NAME": data, "root DIR": root}
        )
        about_run = {"splits": splits, "pictures": pictures, "top": top}
        about_run |= {"checkpoint": checkpoint != "last" or None, "features": features != "network" or None}
        refuse_options(about_run, "is about a RUN; leave it out beside --weights")
    if top is not None and not pictures:
        raise InputError(f"--top {top} goes with --pictures N, the number of ranked lists to draw")
    if splits is not None and len(run) > 1:
        raise InputError(f"--splits {splits} goes with one RUN, found {len(run)}; leave --splits out for their mean")
    if several:
        about_one = {"csv": csv, "save-features": save_features, "pictures": pictures}
        refuse_options(about_one, "is about one evaluation, found several; give one RUN and no --splits")
    repeated = [folder for i, folder in enumerate(run) if folder.resolve() in map(Path.resolve, run[:i])]
    if repeated:
        raise InputError(f"{repeated[0]} is given twice, and would count twice in the mean; name each run once")
    if save_features is not None:
        from dcs_nas.evaluation.features import require_npz

        require_npz(save_features)
    load_extension_files(extension)
    remaining, of_evaluate = split_overrides(override or [])
    changes = collect_settings(settings, of_evaluate)
    shared: dict[str, Any] = {"data_options": parse_options(data_option), "overrides": remaining}
    named = {**shared, "features": features, "checkpoint": checkpoint}
    what: dict[str, Any] = {"data_name": data, "root": root, "progress": progress, **changes}

    def name_file(folder: Path, one: Evaluation) -> Path:
        return _name_file(RunFolder(folder), one, changes, data=data, splits=splits, features=features, **shared)

    def evaluate_one(folder: Path) -> dict[str, Any]:
        """Return the report alone, so that features and distances of several runs are not held at a time."""
        one = api.evaluate(folder, **named, **what).evaluation
        if is_first():
            score_table(one.report, f"{folder}: {one.report['data']['version']}, {features}")
            file = name_file(folder, one)
            try:
                _write_report(one.report, [None if several else json, file], "scores")
            finally:  # the folder of the run may be read-only
                _write_details(one, csv, save_features)
            if pictures is not None:
                _draw(folder, one, file.stem, pictures, top or _TOP)
        return one.report

    if backbone is not None:
        one = api.evaluate_weights(backbone, **{"weights": weights, **shared, **what}).evaluation
        if is_first():
            score_table(one.report, f"{backbone}, {weights}: {one.report['data']['version']}")
            _write_report(one.report, [json], "scores")
            _write_details(one, csv, save_features)
    elif splits is not None:
        from dcs_nas.training.evaluate import evaluate_splits

        reports, names = [], []
        for one in evaluate_splits(run[0], splits=splits, **named, **what):
            reports.append(one.report)
            names.append(one.dataset.version)
            file = name_file(run[0], one)
        _write_average(reports, names, f"{run[0]}, {features}", [json, file])
    else:
        reports = [evaluate_one(folder) for folder in run]
        if several:
            _write_average(reports, list(map(str, run)), f"mean of {len(run)} runs, {features}", [json])


def _require_weights_alone(run: Sequence[Path], options: Mapping[str, Any]) -> None:
    """Raise ``InputError`` unless the options are all given, and no run."""
    if run:
        raise InputError(f"{run[0]} and --backbone or --weights are given; give RUN, or both of these")
    missing = [f"--{option}" for option, value in options.items() if value is None]
    if len(missing) == len(options):
        raise InputError("no RUN is given; give one, or --backbone NAME --weights FILE --data NAME --root DIR")
    if missing:
        raise InputError(f"without a RUN, {', '.join(missing)} is needed too")


def _write_details(result: Evaluation, csv: Path | None, features: Path | None) -> None:
    """Write the scores of each query, and the features."""
    from dcs_nas.evaluation import save_features

    if csv is not None:
        result.result.write_csv(csv, names=[record.path for record in result.query.records])
        say(f"queries: {csv}")
    if features is not None:
        save_features(features, result.features)
        say(f"features: {features}")


def _write_average(
    reports: Sequence[Mapping[str, Any]], names: Sequence[str], title: str, targets: Sequence[Path | None]
) -> None:
    from dcs_nas.evaluation import average

    if is_first():
        mean = average(reports)
        average_table(mean, names, title)
        _write_report(mean, targets, "mean")


def _write_report(report: Mapping[str, Any], targets: Sequence[Path | None], what: str) -> None:
    """Write a report to the requested file and into the run's folder, for ``dcs-nas runs``.

    If the report is written to a file, a folder without write permission is skipped.
    """
    asked, *own = targets
    writable = [path for path in own if path and (asked is None or os.access(path.parent, os.W_OK))]
    for path in filter(None, [asked, *writable]):
        write_json(path, report)
        say(f"{what}: {path}")


def _draw(run: Path, result: Evaluation, name: str, count: int, top: int) -> None:
    """Draw the CMC curve and the ranked lists of the ``count`` hardest queries in ``RUN/ranked/NAME``."""
    from dcs_nas.report.charts import draw_cmc, read_cmc_curve
    from dcs_nas.report.ranked_pictures import RankedPictures
    from dcs_nas.report.retrieval import find_hardest_lists

    folder = RunFolder(run).ranked / name
    report, title = result.report, f"{result.dataset.version}, {result.report['protocol']['name']}"
    for file in draw_cmc([read_cmc_curve(report, run.name)], folder, title=title):
        print(file)
    if not count:
        return
    lists = find_hardest_lists(result.result, result.distances, result.features, count=count, top=top)
    files = RankedPictures.of_evaluation(result).write(lists, folder, progress=progress("drawing"))
    print(files[-1])
    say(f"{len(lists)} ranked lists: {folder}")


def _name_file(run: RunFolder, result: Evaluation, changes: Mapping[str, Any], **options: Any) -> Path:
    """Return the file of an evaluation in a run's folder; scores of other images are not replaced."""
    file = run.evaluation_file(*_name_variants(result, changes, **options))
    if _read_fingerprint(file) in (None, result.report["data"]["fingerprint"]):
        return file
    return run.evaluation_file(*_name_variants(result, changes, **options, name_images=True))


def _read_fingerprint(file: Path) -> str | None:
    """Return the fingerprint of the images of a report, or of a mean; None without one."""
    try:
        report = read_json(file.read_text(encoding="utf-8"))
        return report.get("evaluations", [report])[0]["data"]["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _name_variants(
    result: Evaluation,
    changes: Mapping[str, Any],
    *,
    data: str | None,
    data_options: Mapping[str, Any],
    features: str,
    overrides: Sequence[str],
    splits: int | None,
    name_images: bool = False,
) -> list[str]:
    """Return the options that name the file of an evaluation, e.g. ``dukemtmc, rerank``.

    ``changes`` replace settings of the run; intervals and a longer CMC curve don't change scores and are not named.
    Images other than the run's own, and those of a data set of one's own, are named by the start of their fingerprint,
    ``overrides`` by key and value.
    """
    of_data, default = result.report["data"], EvaluateConfig().max_rank
    images = of_data["fingerprint"][:8] if name_images or of_data["other_images"] or data in _OWN_DATA else None
    settings = {
        key: value
        for key, value in changes.items()
        if key != "confidence" and not (key == "max_rank" and value >= default)
    }
    parts = [
        data,
        f"images-{images}" if images else None,
        *(f"{key}-{value}" for key, value in data_options.items()),
        *(_override_name(item) for item in overrides if not item.strip().startswith(_SAME_SCORES)),
        *(_shorten(key, value) for key, value in settings.items()),
        features if features != "network" else None,
        result.report["checkpoint"] if result.report["checkpoint"] != "last" else None,
        f"{splits}-splits" if splits else None,
    ]
    return [part for part in parts if part]


def _override_name(item: str) -> str:
    """Name an override for a file.

    >>> _override_name("data.height=384")
    'height-384'
    """
    key, _, value = item.partition("=")
    return f"{key.strip().rpartition('.')[2]}-{value.strip()}"


def _shorten(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no-{key}"
    return value if isinstance(value, str) else f"{key.replace('rerank_', '').replace('_', '-')}-{value}"
