"""What ``dcs-nas rank`` does with an ONNX file: features of two image folders; and lists of the nearest images."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcs_nas.cli.console import progress, say
from dcs_nas.errors import InputError

if TYPE_CHECKING:
    from dcs_nas.config import EvaluateConfig
    from dcs_nas.evaluation import FeatureSet

Query = Annotated[Path | None, typer.Option(metavar="DIR", help="With an ONNX file: the folder of the query images.")]
Gallery = Annotated[Path | None, typer.Option(metavar="DIR", help="And that of the gallery images.")]
Root = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Instead of both: a folder like Market-1501's, with query/ and so on."),
]
Top = Annotated[
    int | None,
    typer.Option(
        metavar="K", min=1, help="No scores, but the K nearest gallery images of every query as CSV, to --csv or here."
    ),
]

_FOLDERS = ("query", "bounding_box_test")
_EXAMPLE = "0002_c1s1_000451_03.jpg"


def read(
    file: Path, query: Path | None, gallery: Path | None, root: Path | None, *, labelled: bool
) -> tuple[FeatureSet, str]:
    """Features of a file, and the distance to compare them by unless told otherwise.

    An ``.npz`` file holds them; an ONNX file makes them of two folders, whose image names say who and by which camera
    (PERSON_cCAMERA...) where ``labelled``.

    Raises:
        InputError: folders that are missing or not wanted, names that don't parse, or what the files themselves refuse.
    """
    from dcs_nas.evaluation import load_features

    given = [f"--{name}" for name, value in (("query", query), ("gallery", gallery), ("root", root)) if value]
    if file.suffix.lower() != ".onnx":
        if given:
            raise InputError(f"{given[0]} goes with an ONNX file of dcs-nas export, found {file}")
        return load_features(file), "euclidean"
    return _extracted(file, *_folders(file, query, gallery, root), labelled=labelled)


def refuse(count: int, **options: Any) -> None:
    """``InputError`` for an option that is about scores, where lists of ``count`` images are asked for."""
    for name, value in options.items():
        if value is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is about scores, and --top {count} gives none; leave one of them out")


def write_nearest(features: FeatureSet, settings: EvaluateConfig, count: int, target: Path | None) -> None:
    """Write ``query, rank, image, distance`` for the ``count`` nearest gallery images of every query; none is left out.

    Without ``target`` to standard output.
    """
    import numpy as np

    from dcs_nas.evaluation import Expansion, Reranking, distances_of, top_k
    from dcs_nas.files import write_text

    reranking = Reranking(k1=settings.rerank_k1, k2=settings.rerank_k2, weight=settings.rerank_lambda)
    expansion = Expansion(neighbours=settings.expand, alpha=settings.expand_alpha) if settings.expand else None
    distances = distances_of(
        features, metric=settings.metric, rerank=reranking if settings.rerank else False, expansion=expansion
    )
    labels = [np.zeros(n, dtype=np.int64) for n in distances.shape]
    images, values = top_k(distances, *labels, *labels, k=count, protocol="no_camera_filter")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "image", "distance"])
    queries, gallery = _names(features.query_paths, len(images)), _names(features.gallery_paths, distances.shape[1])
    for name, row, far in zip(queries, images, values):
        writer.writerows([name, k, gallery[i], f"{d:.6f}"] for k, (i, d) in enumerate(zip(row, far), start=1) if i >= 0)
    if target is None:
        print(text.getvalue(), end="")
        return
    write_text(target, text.getvalue())
    say(f"nearest images: {target}")


def _names(paths: Any, count: int) -> list[str]:
    return [str(i) for i in range(count)] if paths is None else paths.tolist()


def _folders(file: Path, query: Path | None, gallery: Path | None, root: Path | None) -> tuple[Path, Path]:
    from dcs_nas.data.datasets.files import find_root

    if root is not None and query is None and gallery is None:
        folder = find_root(root, parts=_FOLDERS, title="images like Market-1501's", aliases=("market", "synth", "duke"))
        return folder / _FOLDERS[0], folder / _FOLDERS[1]
    if root is not None or query is None or gallery is None:
        raise InputError(f"{file} makes features of images; give --query DIR and --gallery DIR, or --root DIR alone")
    return query, gallery


def _extracted(file: Path, query: Path, gallery: Path, *, labelled: bool) -> tuple[FeatureSet, str]:
    import numpy as np

    from dcs_nas.deploy.onnx_file import OnnxModel
    from dcs_nas.evaluation import FeatureSet

    model = OnnxModel(file)
    arrays: dict[str, Any] = {}
    for part, folder in (("query", query), ("gallery", gallery)):
        names, people, cameras = _listed(folder, labelled=labelled)
        paths = [folder / name for name in names]
        arrays[f"{part}_features"] = model.features(paths, progress=progress(f"features of {folder}"))
        arrays[f"{part}_pids"] = np.array(people, dtype=np.int64)
        arrays[f"{part}_camids"] = np.array(cameras, dtype=np.int64)
        arrays[f"{part}_paths"] = np.array([path.as_posix() for path in paths])
    return FeatureSet(**arrays), model.info.metric


def _listed(folder: Path, *, labelled: bool) -> tuple[Sequence[str], Sequence[int], Sequence[int]]:
    """Names of the images in a folder, junk left out, with people and cameras; without names, all images and zeros."""
    from dcs_nas.data.datasets.files import existing_folder, list_images
    from dcs_nas.data.datasets.named_boxes import named_records

    names = [path.rpartition("/")[2] for path in list_images(existing_folder(folder), ".")]
    if not labelled:
        return names, [0] * len(names), [0] * len(names)
    try:
        records = named_records(names, example=_EXAMPLE)
    except InputError as error:
        raise InputError(f"{folder}: {error}; or give --top K for lists of the nearest images without scores") from None
    if not records:
        raise InputError(f"{folder} holds junk alone (person -1); expected images of people")
    return [r.path for r in records], [r.person for r in records], [r.camera for r in records]
