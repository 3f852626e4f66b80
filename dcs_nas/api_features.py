"""Features of images, their distances, and the images nearest to one: from a trained run or an exported file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dcs_nas.errors import translate_errors

if TYPE_CHECKING:
    import numpy as np

    from dcs_nas.export.feature_model import FeatureModel
    from dcs_nas.export.finding import MatchList
    from dcs_nas.export.metadata import ExportInfo

Images = str | Path | Sequence[str | Path]
Progress = Callable[[str], Callable[[int, int], None]]


class Features:
    """Base of ``TrainedRun`` and ``ExportedModel``: the features of images."""

    @property
    def source(self) -> Path:
        """The run's folder or the ONNX file."""
        raise NotImplementedError

    @translate_errors()
    def features(
        self,
        images: Images,
        *,
        checkpoint: str = "last",
        overrides: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return features (N, D) float32 of images, in the order of ``image_files(images)``.

        Args:
            images: an image file, a folder, or several of them.
            checkpoint: ``last``, or ``best`` where identities were held out.
            overrides: settings that replace the run's own, such as ``evaluate.flip=true``.
            progress: called with a label; returns a function of (done, total).

        Raises:
            InputError: no such images, one that does not decode, or settings that have no effect here.
        """
        model = self._model(checkpoint, tuple(overrides))
        return model.features(image_files(images), progress=progress("features") if progress else None)

    @translate_errors()
    def find(
        self,
        query: str | Path,
        gallery: Images,
        *,
        top: int = 10,
        index: str | Path | None = None,
        approximate: bool = False,
        checkpoint: str = "last",
        overrides: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> MatchList:
        """Return the gallery images nearest to one image, as ``dcs-nas find``; nothing is written but the index.

        Args:
            query: an image file.
            gallery: a folder of images, image files, or a features file that ``extract`` wrote.
            top: how many images.
            index: the file of a faiss index of the features file; built if it is missing or older than the features.
            approximate: build the index as a graph, which may miss some of the nearest.
            checkpoint: as for ``features``, and so are the other arguments.
            overrides: as for ``features``.
            progress: as for ``features``.

        Raises:
            InputError: no such files, or features of another network.
        """
        from dcs_nas.export.finding import find

        return find(
            self._model(checkpoint, tuple(overrides)),
            Path(query),
            gallery,
            top=top,
            index=None if index is None else Path(index),
            approximate=approximate,
            progress=progress,
        )

    @translate_errors()
    def extract(
        self,
        images: Images,
        out: str | Path,
        *,
        checkpoint: str = "last",
        overrides: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Path:
        """Write features, paths and metric of any number of images into an .npz file, as ``dcs-nas extract``.

        Args:
            images: an image file, a folder, or several of them.
            out: the file, written when all features are computed.
            checkpoint: as for ``features``, and so are the other arguments.
            overrides: as for ``features``.
            progress: as for ``features``.

        Raises:
            InputError: as ``features``; the features of all other images are kept for a repeated call.
        """
        from dcs_nas.export.extraction import extract

        shown = progress("features") if progress else None
        extract(self._model(checkpoint, tuple(overrides)), image_files(images), Path(out), progress=shown)
        return Path(out)

    def _model(self, checkpoint: str, overrides: tuple[str, ...]) -> FeatureModel:
        """Return the model, which stays open for the next call with the same settings."""
        from dcs_nas.export.run_model import open_model

        key = (checkpoint, overrides)
        if self._opened is None or self._opened[0] != key:
            self.__dict__["_opened"] = (key, open_model(self.source, checkpoint=checkpoint, overrides=overrides))
        return self.__dict__["_opened"][1]

    _opened: tuple[tuple[str, tuple[str, ...]], FeatureModel] | None = None


class ExportedModel(Features):
    """An ONNX file that ``dcs-nas export`` wrote.

    Raises:
        InputError: no such file, or one that another program wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info  # noqa: B018  a file that cannot be used is refused at once

    @property
    def source(self) -> Path:
        return self.path

    @cached_property
    @translate_errors()
    def info(self) -> ExportInfo:
        """Size of the images, metric of the features, and origin of the model."""
        return self._model("last", ()).info

    def __repr__(self) -> str:
        info = self.info
        return (
            f"{self.path}: {info.network}, trained on {info.trained_on}; images {info.height} x {info.width}, "
            f"{info.features} features, {info.metric} distance"
        )


@translate_errors()
def image_files(images: Images) -> list[Path]:
    """Return image files in the order of their features; those of a folder and its subfolders are sorted.

    Raises:
        InputError: no such file or folder, or a folder without images.
    """
    from dcs_nas.export.extraction import list_image_files

    return list_image_files(images)


@translate_errors()
def distances(a: np.ndarray, b: np.ndarray, metric: Literal["cosine", "euclidean"] = "cosine") -> np.ndarray:
    """Return the distances (N, M) of features a (N, D) to features b (M, D).

    cosine: 1 - a.b / (|a| |b|), from 0 to 2; euclidean: |a - b|.

    Raises:
        InputError: arrays that do not fit, NaN or infinite features, or an unknown metric.
    """
    from dcs_nas.evaluation import FeatureDistances

    return FeatureDistances(a, b, metric=metric).matrix().numpy()
