"""The gallery images nearest to one image, by a model from image files to features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcs_nas.data.images import Bars
from dcs_nas.errors import InputError
from dcs_nas.evaluation import FeatureDistances
from dcs_nas.evaluation.gallery import Gallery, find_nearest, open_index, search_index
from dcs_nas.export.exporting import AT_A_STEP
from dcs_nas.export.extraction import list_image_files
from dcs_nas.export.feature_model import FeatureModel


@dataclass(frozen=True)
class Match:
    """A gallery image, its distance to the query, and its rank in the list, from 1."""

    rank: int
    path: Path
    distance: float


@dataclass(frozen=True)
class MatchList:
    """The gallery images nearest to ``query``, among ``searched`` images, and notes for the user."""

    query: Path
    images: tuple[Match, ...]
    searched: int
    metric: str
    notes: tuple[str, ...] = ()


def find(
    model: FeatureModel,
    query: Path,
    gallery: str | Path | Sequence[str | Path],
    *,
    top: int = 10,
    index: Path | None = None,
    approximate: bool = False,
    progress: Bars | None = None,
) -> MatchList:
    """Return the ``top`` gallery images nearest to the image ``query``; the query itself is left out.

    Args:
        model: makes the features.
        query: an image file.
        gallery: a folder of images, image files, or a features file (.npz) that ``extract`` wrote by the same model.
        top: how many images.
        index: of a features file, the file of its faiss index, built if it is missing or older than the features.
        approximate: build the index as a graph, which may miss some of the nearest.
        progress: called with a label; returns a function of (done, total).

    Raises:
        InputError: no such files, or features of another network.
    """
    if top < 1:
        raise InputError(f"top is {top}, expected at least 1 image; raise it")
    bars = progress or (lambda label: lambda done, total: None)
    of_query = model.features([query])
    if isinstance(gallery, (str, Path)) and Path(gallery).suffix == ".npz":
        held = Gallery.open(Path(gallery))
        _require_same_model(model, held)
        ranked, notes = _of_file(of_query, held, top + 1, index, approximate, bars)
        searched, metric = held.shape[0], held.metric
    else:
        if index is not None or approximate:
            raise InputError("an index needs a features file as the gallery; write one by dcs-nas extract and name it")
        paths = list_image_files(gallery)
        ranked, notes = _of_images(model, of_query, paths, top + 1, bars), []
        searched, metric = len(paths), model.info.metric
    images = [(path, distance) for path, distance in ranked if not (path.exists() and path.samefile(query))]
    if len(images) < len(ranked):
        notes.append(f"{query} itself is in the gallery and left out of the list")
    matches = tuple(Match(i, *one) for i, one in enumerate(images[:top], start=1))
    return MatchList(query, matches, searched, metric, tuple(notes))


def _of_file(
    of_query: np.ndarray, gallery: Gallery, k: int, index: Path | None, approximate: bool, bars: Bars
) -> tuple[list[tuple[Path, float]], list[str]]:
    """Return the k nearest images of a features file with their distances, and notes."""
    notes = []
    if index is None:
        if approximate:
            raise InputError("approximate is for an index, but no index is named; name its file")
        indices, distances = find_nearest(of_query, gallery, k, progress=bars("comparing"))
    else:
        faiss_index, is_new = open_index(index, gallery, approximate=approximate, progress=bars("index"))
        notes += [f"index: {index}, made of {gallery.file}"] if is_new else []
        indices, distances = search_index(faiss_index, of_query, gallery, k)
    pairs = zip(indices[0].tolist(), distances[0].tolist())
    return [(gallery.image(i), distance) for i, distance in pairs if i >= 0], notes


def _of_images(
    model: FeatureModel, of_query: np.ndarray, paths: Sequence[Path], k: int, bars: Bars
) -> list[tuple[Path, float]]:
    """Return the k nearest of image files with their distances; equal ones keep their order."""
    of_gallery = model.features(paths, progress=bars("features of the gallery"))
    distances = FeatureDistances(of_query, of_gallery, metric=model.info.metric).matrix()[0].numpy()
    return [(paths[i], float(distances[i])) for i in np.argsort(distances, kind="stable")[:k]]


def _require_same_model(model: FeatureModel, gallery: Gallery) -> None:
    """Raise ``InputError`` unless ``model`` reproduces the features of the gallery's first image."""
    path = gallery.image(0)
    if not path.is_file():
        raise InputError(f"{gallery.file} lists {path}, which is not there; move it back, or extract again")
    then, now = next(gallery.blocks())[0], model.features([path])[0]
    if then.shape != now.shape or np.abs(then - now).max() > AT_A_STEP * float(np.abs(then).max()):
        raise InputError(
            f"{gallery.file} was made by another network ({gallery.model.get('run')}, {gallery.model.get('network')}) "
            "or with other settings than the query; extract the gallery's features again, or name that model"
        )
