"""Features with their labels: NumPy or torch arrays, checked once, and the ``.npz`` file that stores them.

Shapes: N images, Q queries, G gallery images, C feature channels.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dcs_nas.config import EvaluateConfig
from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path, require_file, require_moderate_growth
from dcs_nas.settings import parse

Array: TypeAlias = np.ndarray | Tensor
Integers: TypeAlias = Array | Sequence[int]

_NORM_ROWS = 4096  # rows squared at a time, so that no second feature matrix is made


def as_matrix(name: str, values: Array, device: torch.device | str | None = None) -> Tensor:
    """Return ``values`` (N, M) as a float32 or float64 tensor without gradient, sharing memory where possible.

    Raises:
        InputError: not a matrix, empty, or not numbers.
    """
    tensor = values.detach() if isinstance(values, Tensor) else _from_numpy(name, np.asarray(values))
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}; expected a matrix with at least one row and column")
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise InputError(f"{name} has dtype {tensor.dtype}; expected real numbers")
    dtype = tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32
    return tensor.to(device=device, dtype=dtype)


def compute_squared_norms(name: str, features: Tensor) -> Tensor:
    """Return |x|^2 of every row, (N,).

    Raises:
        InputError: a row holds NaN or infinity, or its squared norm overflows.
    """
    norms = torch.cat([rows.square().sum(dim=1) for rows in features.split(_NORM_ROWS)])
    bad = torch.nonzero(~torch.isfinite(norms))
    if len(bad):
        row = int(bad[0])
        what = "numbers too large to square" if bool(features[row].isfinite().all()) else "NaN or infinity"
        raise InputError(
            f"{name}: {len(bad)} of {len(features)} rows hold {what}, the first is row {row}; "
            "check the network that computed them"
        )
    return norms


def as_labels(name: str, values: Integers, images: int) -> np.ndarray:
    """Return ``values`` as int64, (N,) with N = ``images``.

    Raises:
        InputError: not a vector of integers, or not one per image.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{name} has shape {array.shape} and dtype {array.dtype}; expected a vector of integers")
    if len(array) != images:
        raise InputError(f"{len(array)} {name} for {images} images; expected one per image")
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} holds {array.max()}; expected integers below 2^63")
    return array.astype(np.int64)


def require_same_width(query_features: Tensor, gallery_features: Tensor) -> tuple[Tensor, Tensor]:
    """Return both matrices in their common float type.

    Raises:
        InputError: the numbers of channels differ.
    """
    if query_features.shape[1] != gallery_features.shape[1]:
        raise InputError(
            f"query_features have {query_features.shape[1]} channels and gallery_features {gallery_features.shape[1]}; "
            "take both from one network"
        )
    dtype = torch.promote_types(query_features.dtype, gallery_features.dtype)
    return query_features.to(dtype), gallery_features.to(dtype)


def as_feature_pair(
    query_features: Array, gallery_features: Array, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Return query and gallery features as matrices of one width and type, by default on the device of the queries.

    Raises:
        InputError: shapes that don't fit, or NaN or infinite features.
    """
    query = as_matrix("query_features", query_features, device)
    query, gallery = require_same_width(query, as_matrix("gallery_features", gallery_features, query.device))
    compute_squared_norms("query_features", query)
    compute_squared_norms("gallery_features", gallery)
    return query, gallery


def require_npz(path: Path) -> None:
    """Raise ``InputError`` unless the name of a features file to be written ends in .npz."""
    if path.suffix != ".npz":
        raise InputError(f"features file {path} does not end in .npz; choose a name that does")


def _from_numpy(name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} has dtype {array.dtype}; expected real numbers")
    if array.dtype.kind == "u" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        array = array.astype(np.float64 if array.dtype.itemsize >= 4 else np.float32)
    with warnings.catch_warnings():  # a read-only array is fine: nothing here writes to its inputs
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features and labels under the names of ``rank``'s arguments: ``rank(**features.arrays(), metric="cosine")``.

    ``query_paths`` (Q,) and ``gallery_paths`` (G,) are the images' paths within their data set, if known.
    ``evaluated`` holds the settings (``EvaluateConfig``) and facts of the evaluation that computed these features.
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
        query, gallery = as_feature_pair(self.query_features, self.gallery_features)
        for side, images in (("query", len(query)), ("gallery", len(gallery))):
            for name in (f"{side}_pids", f"{side}_camids"):
                as_labels(name, getattr(self, name), images)
            paths = getattr(self, f"{side}_paths")
            if paths is not None and (paths.dtype.kind != "U" or paths.shape != (images,)):
                kind = f"shape {paths.shape} and dtype {paths.dtype}"
                raise InputError(f"{side}_paths has {kind}; expected {images} strings")

    def arrays(self) -> dict[str, Any]:
        """Return the six arrays by name."""
        return {name: getattr(self, name) for name in FEATURE_KEYS}


PATH_KEYS = ("query_paths", "gallery_paths")
EVALUATED_KEY = "evaluated"
FEATURE_KEYS = tuple(f.name for f in fields(FeatureSet) if f.name not in (*PATH_KEYS, EVALUATED_KEY))
LABEL_KEYS = FEATURE_KEYS[2:]


def load_features(path: Path | str) -> FeatureSet:
    """Read and check a features file, with the paths of the images if it holds them.

    Other arrays are ignored; pickled arrays are never read.

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
            raise InputError(f"{path} holds a single array; expected an .npz file with {', '.join(FEATURE_KEYS)}")
        missing = [key for key in FEATURE_KEYS if key not in archive]
        if missing:
            content = ", ".join(archive.files) or "nothing"
            raise InputError(f"{path} lacks {', '.join(missing)}; it holds {content}")
        arrays: dict[str, Any] = {
            key: archive[key] for key in (*FEATURE_KEYS, *PATH_KEYS, EVALUATED_KEY) if key in archive
        }
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns a member without the format's first bytes as raw bytes
            raise InputError(f"{path}: {key} is not an array; write the file again")
    if EVALUATED_KEY in arrays:
        arrays[EVALUATED_KEY] = _read_evaluated(arrays[EVALUATED_KEY], path)
    return arrays


def _read_evaluated(text: np.ndarray, path: Path) -> Any:
    """Parse the settings and facts of the evaluation from an array of one JSON string."""
    try:
        evaluation = json.loads(str(text.item()))
        parse(EvaluateConfig, evaluation["settings"], source=str(path))
        if not isinstance(evaluation.get("facts", {}), dict):
            raise ValueError("facts is not a mapping")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: {EVALUATED_KEY} is damaged ({error}); write the file again") from None
    return evaluation


def save_features(path: Path | str, features: FeatureSet) -> None:
    """Write a features file atomically.

    Raises:
        InputError: the name does not end in .npz.
    """
    path = Path(path)
    require_npz(path)
    arrays = features.arrays() | {key: value for key in PATH_KEYS if (value := getattr(features, key)) is not None}
    if features.evaluated is not None:
        arrays[EVALUATED_KEY] = np.array(json.dumps(features.evaluated))
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
