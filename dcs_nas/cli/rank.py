"""``dcs-nas rank``: scores of features of any origin, or lists of the nearest images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from dcs_nas.cli.console import progress, say
from dcs_nas.cli.options import (
    Csv,
    Extension,
    collect_settings,
    load_extension_files,
    parse_options,
    refuse_options,
    with_evaluate_options,
)
from dcs_nas.cli.outputs import OUTPUT
from dcs_nas.cli.tables import list_nearest, score_table
from dcs_nas.errors import InputError

if TYPE_CHECKING:
    from dcs_nas.config import EvaluateConfig
    from dcs_nas.data.records import Record
    from dcs_nas.evaluation import FeatureSet, Scores
    from dcs_nas.export.onnx_model import OnnxModel

    _Images = Sequence[Record]

_FOLDERS = ("query", "bounding_box_test")
_EXAMPLE = "0002_c1s1_000451_03.jpg"
_TOP = 10
_OF_SCORES = ("protocol", "average_precision", "confidence", "max_rank")


@with_evaluate_options(without=["flip", "neck"])
def rank(
    features: Annotated[
        Path, typer.Argument(metavar="FILE", help="FEATURES.npz with identities and cameras, or MODEL.onnx.")
    ],
    query: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With an ONNX file: the folder of the query images, or one image."),
    ] = None,
    gallery: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the gallery images.")] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="In place of both: a folder like Market-1501's, or of the data set that --data names."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --root: folder, csv or another data set.")
    ] = None,
    data_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of its loader, e.g. camera=none. Repeatable."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="With a distance matrix: q_pids, g_pids, q_camids, g_camids."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With fast-reid's feats: the number of queries, num_query.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="No scores, but the K nearest gallery images of each query as CSV, to --csv or here; 10 of one image.",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the scores as JSON."), OUTPUT] = None,
    csv: Csv = None,
    extension: Extension = None,
    **settings: Any,
) -> None:
    """Score features of any origin by CMC, mAP and mINP, across cameras unless another protocol or data set is set.

    A file that dcs-nas evaluate --save-features wrote is scored as it was there; options replace single settings.

    FEATURES.npz holds query_features, gallery_features (n, D), query_pids, gallery_pids, query_camids, gallery_camids
    (n), and may hold query_paths, gallery_paths (n). MODEL.onnx, written by dcs-nas export, makes the features of two
    folders of images named PERSON_cCAMERA..., or of a data set (--root, --data); images of other names, or one image
    (--query), are listed with their nearest by --top.

    Files of torchreid and fast-reid are read under their own names (qf, q_pids, distmat, ...), see docs/formats.md.
    """
    from dcs_nas.config import EvaluateConfig
    from dcs_nas.environment import describe_environment
    from dcs_nas.evaluation import apply_changes, get_settings, score, score_matrix
    from dcs_nas.evaluation.foreign import is_matrix, read_matrix

    load_extension_files(extension)
    changes = collect_settings(settings)
    if features.suffix.lower() != ".onnx" and is_matrix(features):
        of_features = {
            "top": top,
            "query": query,
            "gallery": gallery,
            "root": root,
            "queries": queries,
            "data": data,
            "data-option": data_option,
        }
        about_features = {name: value for name, value in {**changes, **of_features}.items() if name not in _OF_SCORES}
        refuse_options(about_features, "needs features, and a matrix of distances has none; leave it out")
        scores = score_matrix(*read_matrix(features, labels), apply_changes(EvaluateConfig(), changes))
        _write_scores({**scores.report(), **describe_environment()}, scores, str(features), json, csv)
        return
    if labels is not None:
        raise InputError(f"--labels goes with a distance matrix, found {features}; leave it out")
    if features.suffix.lower() == ".onnx":
        apply_changes(EvaluateConfig(), changes)  # before all images are computed with
    if top is None and query is not None and _is_image(query):
        top = _TOP
    if top is not None:
        about_scores = {**{name: changes.get(name) for name in _OF_SCORES}, "json": json}
        refuse_options(about_scores, f"is about scores, and a list of the {top} nearest images has none; leave it out")
    read, own_metric, protocol = _read(
        features,
        query,
        gallery,
        root,
        data=data,
        options=parse_options(data_option),
        labelled=top is None,
        queries=queries,
    )
    chosen_settings = apply_changes(get_settings(read, metric=own_metric), changes)
    if top is not None:
        _write_nearest(read, chosen_settings, top, csv)
        return
    scores = score(read, chosen_settings, protocol=protocol)
    facts = (read.evaluated or {}).get("facts") or {}
    names = None if read.query_paths is None else read.query_paths.tolist()
    _write_scores({**facts, **scores.report(), **describe_environment()}, scores, str(features), json, csv, names)


def _write_scores(
    report: Mapping[str, Any],
    scores: Scores,
    title: str,
    json: Path | None,
    csv: Path | None,
    names: list[str] | None = None,
) -> None:
    """Show the scores, and write them and those of each query to the files, if any."""
    from dcs_nas.files import write_json

    score_table(report, title)
    if json is not None:
        write_json(json, report)
        say(f"scores: {json}")
    if csv is not None:
        scores.result.write_csv(csv, names=names)
        say(f"queries: {csv}")


class _Ranked(NamedTuple):
    """The images to rank, and the default distance and protocol."""

    features: FeatureSet
    metric: str = "euclidean"
    protocol: str = "cross_camera"


def _read(
    file: Path,
    query: Path | None,
    gallery: Path | None,
    root: Path | None,
    *,
    data: str | None,
    options: Mapping[str, Any],
    labelled: bool,
    queries: int | None,
) -> _Ranked:
    """Return the features of a file.

    An ``.npz`` file holds them; an ONNX file computes them for a data set, or for two folders, whose image names hold
    identity and camera (PERSON_cCAMERA...) if ``labelled``.

    Raises:
        InputError: missing or superfluous folders, names that do not parse, or files that cannot be read.
    """
    from dcs_nas.evaluation import load_features
    from dcs_nas.evaluation.foreign import is_foreign, read_foreign
    from dcs_nas.export.onnx_model import OnnxModel

    options_by_name = {"query": query, "gallery": gallery, "root": root, "data": data, "data-option": options}
    asked = [f"--{name}" for name, value in options_by_name.items() if value]
    if queries is not None and (file.is_dir() or file.suffix.lower() == ".onnx" or not is_foreign(file)):
        raise InputError(f"--queries goes with fast-reid's feats, and {file} holds none; leave it out")
    if file.suffix.lower() != ".onnx":
        if file.is_dir():
            return _vectors(file, gallery, [option for option in asked if option != "--gallery"])
        if asked:
            raise InputError(f"{asked[0]} goes with an ONNX file of dcs-nas export, found {file}")
        return _Ranked(read_foreign(file, queries=queries) if is_foreign(file) else load_features(file))
    if root is None and (data or options):
        raise InputError(f"{asked[-1]} goes with --root DIR, the folder of the data set; give it")
    if (root is None) == (gallery is None) or (root is None and query is None):
        raise InputError(f"{file} makes features of images; give --query DIR and --gallery DIR, or --root DIR alone")
    if root is not None and query is not None and labelled:
        raise InputError(
            f"the images of {query} have no identities of the data set in {root}; give --top K for lists without scores"
        )
    model = OnnxModel(file)
    if root is not None:
        own, images, protocol = _test_images(root, data, options, labelled=labelled)
        return _extract(model, own if query is None else _list_images(query, labelled=False), images, protocol)
    assert query is not None
    assert gallery is not None
    return _extract(
        model, _list_images(query, labelled=labelled), _list_images(gallery, labelled=labelled), "cross_camera"
    )


def _vectors(query: Path, gallery: Path | None, asked: Sequence[str]) -> _Ranked:
    """Return the features of two folders of .npy files, whose names hold identity and camera."""
    from dcs_nas.data.datasets.market1501 import parse_image_names
    from dcs_nas.evaluation.foreign import read_vectors

    if gallery is None or asked:
        raise InputError(f"{query} is a folder; for one of .npy files give that of the gallery, --gallery DIR, alone")
    parts: dict[str, tuple[Any, _Images]] = {}
    for part, folder in (("query", query), ("gallery", gallery)):
        names, vectors = read_vectors(folder)
        records = parse_image_names(names, example=_EXAMPLE.replace(".jpg", ".npy"))
        kept = {record.path for record in records}  # junk is left out
        parts[part] = vectors[[name in kept for name in names]], records
    try:
        return _Ranked(_build_feature_set(parts), "cosine")  # demo.py normalises them
    except InputError as error:
        raise InputError(f"{query} and {gallery}, without junk (identity -1): {error}") from None


def _build_feature_set(parts: Mapping[str, tuple[Any, _Images]]) -> FeatureSet:
    """Return the features (n, D) of query and gallery with the identities, cameras and paths of their images."""
    import numpy as np

    from dcs_nas.evaluation import FeatureSet

    arrays: dict[str, Any] = {}
    for part, (features, images) in parts.items():
        arrays[f"{part}_features"] = features
        arrays[f"{part}_pids"] = np.array([image.identity for image in images], dtype=np.int64)
        arrays[f"{part}_camids"] = np.array([image.camera for image in images], dtype=np.int64)
        arrays[f"{part}_paths"] = np.array([Path(image.path).as_posix() for image in images])
    return FeatureSet(**arrays)


def _write_nearest(features: FeatureSet, settings: EvaluateConfig, count: int, target: Path | None) -> None:
    """Write the ``count`` nearest gallery images of every query, without junk, as CSV to ``target`` or to stdout."""
    import numpy as np

    from dcs_nas.data.records import JUNK
    from dcs_nas.evaluation import compute_distances, top_k
    from dcs_nas.files import write_text

    distances = compute_distances(features, settings)
    zeros = [np.zeros(n, dtype=np.int64) for n in distances.shape]
    labels = zeros[0], np.where(features.gallery_pids == JUNK, JUNK, 0)
    images, values = top_k(distances, *labels, *zeros, k=count, protocol="no_camera_filter")
    queries, gallery = _names(features.query_paths, len(images)), _names(features.gallery_paths, distances.shape[1])
    text = list_nearest(
        (name, k, gallery[i], d)
        for name, row, far in zip(queries, images, values)
        for k, (i, d) in enumerate(zip(row, far), start=1)
        if i >= 0
    )
    if target is None:
        print(text, end="")
        return
    write_text(target, text)
    say(f"nearest images: {target}")


def _names(paths: Any, count: int) -> list[str]:
    return [str(i) for i in range(count)] if paths is None else paths.tolist()


def _test_images(
    root: Path, data: str | None, options: Mapping[str, Any], *, labelled: bool
) -> tuple[_Images, _Images, str]:
    """Return queries and gallery of a data set, or of a folder like Market-1501's, and the protocol to rank them by."""
    from dcs_nas.data.datasets import load_dataset
    from dcs_nas.data.datasets.listing import find_root, is_file

    if data is None and not is_file(root):
        if options:
            raise InputError("--data-option goes with --data NAME, the kind of the data set; give it")
        try:
            folder = find_root(
                root, parts=_FOLDERS, title="images like Market-1501's", aliases=("market", "synth", "duke")
            )
        except InputError as error:
            raise InputError(f"{error}; of another data set name the kind by --data, such as folder or csv") from None
        queries, gallery = (_list_images(folder / name, labelled=labelled) for name in _FOLDERS)
        return queries, gallery, "cross_camera"
    dataset = load_dataset(data or "csv", root, **options)
    if not dataset.query or not dataset.gallery:
        raise InputError(f"{dataset.name} in {dataset.root} has no queries or gallery to rank; name another folder")
    queries, gallery = (
        [replace(record, path=str(dataset.root / record.path)) for record in records]
        for records in (dataset.query, dataset.gallery)
    )
    return queries, gallery, dataset.protocol


def _extract(model: OnnxModel, queries: _Images, gallery: _Images, protocol: str) -> _Ranked:
    parts = {}
    for part, images in (("query", queries), ("gallery", gallery)):
        paths = [Path(image.path) for image in images]
        parts[part] = model.features(paths, progress=progress(f"features of {part} images")), images
    return _Ranked(_build_feature_set(parts), model.info.metric, protocol)


def _is_image(path: Path) -> bool:
    from dcs_nas.data.datasets.listing import is_file, is_image_name

    return is_file(path) or (is_image_name(path.name) and not path.is_dir())


def _list_images(folder: Path, *, labelled: bool) -> _Images:
    """Return the images in a folder, junk left out, with identities and cameras; without labels all images; or one.

    The numbers of images without labels are zeros.
    """
    from dcs_nas.data.datasets.listing import is_file, list_images, require_folder
    from dcs_nas.data.datasets.market1501 import parse_image_names
    from dcs_nas.data.records import Record

    if _is_image(folder):
        if not is_file(folder):
            raise InputError(f"there is no file {folder}; give an image, or a folder of images")
        if labelled:
            raise InputError(
                f"{folder} is a single image, and scores need a folder; give --top K for the nearest images"
            )
        return [Record(str(folder), 0, 0)]
    names = [path.rpartition("/")[2] for path in list_images(require_folder(folder), ".")]
    if not labelled:
        return [Record(str(folder / name), 0, 0) for name in names]
    try:
        records = parse_image_names(names, example=_EXAMPLE)
    except InputError as error:
        raise InputError(f"{folder}: {error}; or give --top K for lists of the nearest images without scores") from None
    if not records:
        raise InputError(f"{folder} holds only junk (identity -1); expected images of other identities")
    return [replace(record, path=str(folder / record.path)) for record in records]
