"""What arrays the evaluation accepts: NumPy or torch, checked once, with one-line errors.

Shapes: N images, C feature channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from dcs_nas.errors import InputError

Array: TypeAlias = np.ndarray | Tensor
Integers: TypeAlias = Array | Sequence[int]

_NORM_ROWS = 4096  # rows squared at a time, so that no second feature matrix is made


def as_matrix(name: str, values: Array, device: torch.device | str | None = None) -> Tensor:
    """``values`` (N, M) as a float32 or float64 tensor without gradient, sharing memory where that is possible.

    Raises:
        InputError: not a matrix, empty, or not numbers.
    """
    tensor = values.detach() if isinstance(values, Tensor) else _from_numpy(name, np.asarray(values))
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}; a matrix with at least one row and column is expected"
        )
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise InputError(f"{name} has dtype {tensor.dtype}; real numbers are expected")
    dtype = tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32
    return tensor.to(device=device, dtype=dtype)


def squared_norms(name: str, features: Tensor) -> Tensor:
    """|x|^2 of every row, (N,).

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
            "check the network that made them"
        )
    return norms


def as_labels(name: str, values: Integers) -> np.ndarray:
    """``values`` (N,) as int64.

    Raises:
        InputError: not a vector of integers.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{name} has shape {array.shape} and dtype {array.dtype}; a vector of integers is expected")
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} holds {array.max()}; integers below 2^63 are expected")
    return array.astype(np.int64)


def same_width(query_features: Tensor, gallery_features: Tensor) -> tuple[Tensor, Tensor]:
    """Both matrices in their common float type.

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


def _from_numpy(name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} has dtype {array.dtype}; real numbers are expected")
    if array.dtype.kind == "u" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        array = array.astype(np.float64 if array.dtype.itemsize >= 4 else np.float32)
    with warnings.catch_warnings():  # a read-only array is fine: nothing here writes to its inputs
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))
