"""The ``.npz`` file of anyone's features that ``dcs-nas rank`` scores.

Shapes: Q queries, G gallery images, C channels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dcs_nas.archives import require_file, require_moderate_growth
from dcs_nas.config import EvaluateConfig
from dcs_nas.errors import InputError
from dcs_nas.evaluation.inputs import as_labels, as_matrix, same_width, squared_norms
from dcs_nas.files import atomic_path
from dcs_nas.settings import parse


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features and labels under the names of ``rank``'s arguments: ``rank(**features.arrays(), metric="cosine")``.

    ``query_paths`` (Q,) and ``gallery_paths`` (G,) are the images' paths within their data set, where they are known.
    ``evaluated`` are the settings of the evaluation that these features come from (``EvaluateConfig``), and its facts.
    """

    query_features: np.ndarray
    gallery_features: np.ndarray
    query_pids: np.ndarray
    gallery_pids: np.ndarray
    query_camids: np.ndarray
    gallery_camids: np.ndarray
    query_paths: np.ndarray | None = None
    gallery_paths: np.ndarray | None = None
    evaluated: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        query = as_matrix("query_features", self.query_features)
        gallery = as_matrix("gallery_features", self.gallery_features)
        same_width(query, gallery)
        squared_norms("query_features", query)
        squared_norms("gallery_features", gallery)
        for side, images in (("query", len(query)), ("gallery", len(gallery))):
            for name in (f"{side}_pids", f"{side}_camids"):
                found = len(as_labels(name, getattr(self, name)))
                if found != images:
                    raise InputError(f"{found} {name} for {images} {side}_features; one per image is expected")
            _check_paths(f"{side}_paths", getattr(self, f"{side}_paths"), images)

    def arrays(self) -> dict[str, Any]:
        """The six arrays by name."""
        return {name: getattr(self, name) for name in FEATURE_KEYS}


def _check_paths(name: str, paths: np.ndarray | None, images: int) -> None:
    if paths is not None and (paths.dtype.kind != "U" or paths.shape != (images,)):
        raise InputError(f"{name} has shape {paths.shape} and dtype {paths.dtype}; {images} strings are expected")


PATH_KEYS = ("query_paths", "gallery_paths")
EVALUATED_KEY = "evaluated"
FEATURE_KEYS = tuple(f.name for f in fields(FeatureSet) if f.name not in (*PATH_KEYS, EVALUATED_KEY))


def load_features(path: Path | str) -> FeatureSet:
    """Reads and checks a features file, with the images' paths where it holds them.

    Other arrays in it are left alone; pickled ones are never read.

    Raises:
        InputError: no such file, not an .npz file or a damaged one, missing arrays, or arrays that don't fit.
    """
    path = Path(path)
    require_file(path, what="features file")
    require_moderate_growth(path, what="features file")
    try:
        arrays = _read_arrays(path)
    except InputError:
        raise
    except Exception as error:  # a damaged file leads NumPy's parsers to exceptions of any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as an .npz file of plain arrays: {reason}") from error
    try:
        return FeatureSet(**arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_arrays(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise InputError(f"{path} holds a single array; an .npz file with {', '.join(FEATURE_KEYS)} is expected")
        missing = [key for key in FEATURE_KEYS if key not in archive]
        if missing:
            found = ", ".join(archive.files) or "nothing"
            raise InputError(f"{path} lacks {', '.join(missing)}; it holds {found}")
        arrays: dict[str, Any] = {
            key: archive[key] for key in (*FEATURE_KEYS, *PATH_KEYS, EVALUATED_KEY) if key in archive
        }
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # a member without the format's first bytes comes as it is
            raise InputError(f"{path}: {key} is damaged: it is no array; write the file again")
    if EVALUATED_KEY in arrays:
        arrays[EVALUATED_KEY] = _read_evaluated(arrays[EVALUATED_KEY], path)
    return arrays


def _read_evaluated(text: np.ndarray, path: Path) -> Any:
    """The settings and facts of the evaluation, a JSON object in an array of one string."""
    try:
        found = json.loads(str(text.item()))
        parse(EvaluateConfig, found["settings"], source=str(path))
        if not isinstance(found.get("facts", {}), dict):
            raise ValueError("facts is no mapping")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: {EVALUATED_KEY} is damaged ({error}); write the file again") from None
    return found


def save_features(path: Path | str, features: FeatureSet) -> None:
    """Writes a features file, whole or not at all.

    Raises:
        InputError: the name does not end in .npz.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"features file {path} should be named *.npz")
    with atomic_path(path) as temporary:
        paths = {key: value for key in PATH_KEYS if (value := getattr(features, key)) is not None}
        if features.evaluated is not None:
            paths[EVALUATED_KEY] = np.array(json.dumps(features.evaluated))
        np.savez(temporary, allow_pickle=False, **features.arrays(), **paths)
