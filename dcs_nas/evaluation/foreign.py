"""Features and distance matrices of torchreid and fast-reid, for ``dcs-nas rank``. Nothing is unpickled.

Neither project writes a labelled features file itself. Read are the arrays of their evaluations, under the names used
there, saved by ``numpy.savez`` or ``torch.save``:

- torchreid (KaiyangZhou/deep-person-reid at f8cd150): ``qf gf q_pids g_pids q_camids g_camids`` and ``distmat`` of
  torchreid/engine/engine.py; ``query_f gallery_f query_label gallery_label query_cam gallery_cam`` of
  torchreid/utils/GPU-Re-Ranking/main.py.
- fast-reid (JDAI-CV/fast-reid at c9bc3ce): ``query_features query_pids query_camids`` and ``gallery_...`` of
  fastreid/evaluation/reid_evaluation.py, which are ours too; there also ``feats pids camids`` of all images, queries
  first; ``distmat.npy`` of projects/NAIC20/naic/naic_evaluator.py; an .npy file for each image of demo/demo.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcs_nas.errors import InputError
from dcs_nas.evaluation.features import FEATURE_KEYS, LABEL_KEYS, FeatureSet, as_matrix
from dcs_nas.evaluation.matching import Labels
from dcs_nas.files import require_file, require_moderate_growth

_TORCH = (".pt", ".pth", ".bin", ".tar")
_PICKLES = (".pkl", ".pickle", ".p")
_NAMES = {
    "torchreid": ("qf", "gf", "q_pids", "g_pids", "q_camids", "g_camids"),
    "torchreid's re-ranking": ("query_f", "gallery_f", "query_label", "gallery_label", "query_cam", "gallery_cam"),
    "fast-reid": FEATURE_KEYS,
}
_TOGETHER = ("feats", "pids", "camids")
_MATRICES = ("distmat", "dist")


def is_foreign(file: Path) -> bool:
    """Return whether a file may be of torchreid or fast-reid: a folder, or by its ending or the names of its arrays."""
    if file.is_dir() or file.suffix.lower() in (*_TORCH, *_PICKLES, ".npy"):
        return True
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = set(arrays.files)
    except Exception:  # load_features reports the fault
        return False
    known = [set(group) for group in _NAMES.values()] + [set(_TOGETHER), {_MATRICES[0]}, {_MATRICES[1]}]
    return not set(FEATURE_KEYS) <= names and any(group <= names for group in known)


def read_foreign(file: Path, *, queries: int | None = None) -> FeatureSet:
    """Return the features of a file of torchreid or fast-reid.

    Args:
        file: .npz, .pt or .pth.
        queries: number of queries among ``feats pids camids``, fast-reid's ``num_query``.

    Raises:
        InputError: a pickle, other names, arrays that don't fit, or a number of queries that the file has itself.
    """
    arrays = _read_file(file)
    for names in _NAMES.values():
        if set(names) <= set(arrays):
            if queries is not None:
                raise InputError(f"{file} holds queries apart from gallery, so --queries is not needed; leave it out")
            return _to_feature_set(file, {ours: arrays[theirs] for ours, theirs in zip(FEATURE_KEYS, names)})
    if set(_TOGETHER) <= set(arrays):
        shapes = [arrays[name].shape for name in _TOGETHER]
        if len({shape[:1] for shape in shapes}) > 1 or len(shapes[0]) != 2:
            raise InputError(
                f"{file} holds {' and '.join(_TOGETHER)} of the shapes {', '.join(map(str, shapes))}; expected (N, D), "
                "(N,) and (N,) of N images"
            )
        if queries is None or not 0 < queries < len(arrays["feats"]):
            raise InputError(
                f"{file} holds {len(arrays['feats'])} images, queries first; give their number with --queries N"
            )
        parts = {name: (arrays[name][:queries], arrays[name][queries:]) for name in _TOGETHER}
        return _to_feature_set(file, dict(zip(FEATURE_KEYS, (half for name in _TOGETHER for half in parts[name]))))
    raise InputError(f"{file} holds {_list_names(arrays)}; expected the arrays {' '.join(_NAMES['torchreid'])}")


def read_matrix(file: Path, labels: Path | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a distance matrix (Q, G), and the identities and cameras of its rows and columns by our names.

    Args:
        file: ``distmat.npy``, or a file that holds ``distmat`` beside the labels.
        labels: a file with ``q_pids g_pids q_camids g_camids``, if ``file`` has none.

    Raises:
        InputError: no matrix, no labels, or sides that don't fit.
    """
    arrays = _read_file(file)
    matrix = next((arrays[name] for name in ("", *_MATRICES) if name in arrays), None)
    if matrix is None:
        raise InputError(f"{file} holds {_list_names(arrays)}; expected a matrix of distances, distmat")
    all_arrays = {**arrays, **(_read_file(labels) if labels is not None else {})}
    for names in _NAMES.values():
        if set(names[2:]) <= set(all_arrays):
            sides = {ours: all_arrays[theirs] for ours, theirs in zip(LABEL_KEYS, names[2:])}
            try:
                rows, columns = as_matrix("distances", matrix).shape
                Labels.from_arrays(**sides, shape=(rows, columns))
            except InputError as error:
                raise InputError(f"{file}{f' and {labels}' if labels else ''}: {error}") from None
            return matrix, sides
    raise InputError(
        f"{labels or file} holds no labels; give --labels FILE.npz with q_pids, g_pids, q_camids and "
        "g_camids, in the order of the matrix"
    )


def is_matrix(file: Path) -> bool:
    """Return whether a file holds a distance matrix: an array named ``distmat`` or ``dist``, or a single array."""
    if file.suffix.lower() == ".npy":
        return True
    return is_foreign(file) and not file.is_dir() and bool({"", *_MATRICES} & set(_read_file(file)))


def read_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return names and features (N, D) of a folder of .npy files, one for each image, as fast-reid's demo.py writes.

    Raises:
        InputError: no such files, no numbers in one, or vectors of different lengths.
    """
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise InputError(
            f"{folder} holds no .npy files; expected one for each image, as fast-reid's demo.py writes them"
        )
    vectors = [_read_vector(file) for file in files]
    lengths = sorted({len(vector) for vector in vectors})
    if len(lengths) > 1:
        raise InputError(f"the vectors in {folder} have {lengths[0]} to {lengths[-1]} numbers; expected one length")
    return [file.stem for file in files], np.stack(vectors)


def _read_vector(file: Path) -> np.ndarray:
    arrays = _read_file(file)
    content = str(arrays[""].dtype) if "" in arrays else _list_names(arrays)
    if "" not in arrays or arrays[""].dtype.kind not in "fiu":
        raise InputError(f"{file} holds {content}; expected one array of numbers: remove or replace it")
    return arrays[""].reshape(-1)


def _read_file(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; a single array has the name ''."""
    if file.suffix.lower() in _PICKLES:
        raise InputError(
            f"{file} is a pickle, which can run code and is not read; if you trust it, convert it once: python -c "
            f"\"import pickle, numpy; numpy.savez('{file.stem}.npz', **pickle.load(open('{file}', 'rb')))\""
        )
    require_file(file, what="features file")
    require_moderate_growth(file, what="features file")
    try:
        return _read_torch(file) if file.suffix.lower() in _TORCH else _read_numpy(file)
    except Exception as error:  # a damaged file leads the parsers to exceptions of any kind
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise InputError(
            f"{file} cannot be read as plain arrays ({reason}); save a dict of arrays or tensors by numpy.savez or "
            "torch.save"
        ) from None


def _read_numpy(file: Path) -> dict[str, np.ndarray]:
    content = np.load(file, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return {"": content}
    with content as archive:
        return {name: archive[name] for name in archive.files}


def _read_torch(file: Path) -> dict[str, np.ndarray]:
    """Return tensors, arrays and lists of numbers by name; a list of batches (fast-reid) is concatenated."""
    with torch.serialization.safe_globals(_list_array_types()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(content, (list, tuple)) and content and all(isinstance(part, Mapping) for part in content):
        return {name: np.concatenate([_to_array(part[name]) for part in content]) for name in content[0]}
    if not isinstance(content, Mapping):
        return {"": _to_array(content)}
    kinds = (Tensor, np.ndarray, list, tuple)
    return {str(name): _to_array(value) for name, value in content.items() if isinstance(value, kinds)}


def _list_array_types() -> list[Any]:
    """Return the globals that rebuild NumPy arrays of numbers, which torch loads only when they are listed."""
    array = np.zeros(1)
    rebuild = array.__reduce__()[0]
    return [
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")},
        (rebuild, "numpy.core.multiarray._reconstruct"),
        (rebuild, "numpy._core.multiarray._reconstruct"),
    ]


def _to_array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor) and value.is_floating_point():
        value = value.detach().float()
    return np.asarray(value)


def _to_feature_set(file: Path, arrays: Mapping[str, Any]) -> FeatureSet:
    try:
        values: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        return FeatureSet(**values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _list_names(arrays: Mapping[str, Any]) -> str:
    return ", ".join(name or "a single array" for name in list(arrays)[:8]) or "nothing"
