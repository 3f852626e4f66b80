"""Reading weights files of other projects as plain tensors, never running what they hold.

Formats: torch.save'd state dicts (.pth, .pt, .pt.tar, .bin, .ckpt: anything with another ending), .npz, .safetensors.
"""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
import zipfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcs_nas.archives import require_file, require_moderate_growth
from dcs_nas.errors import InputError

_DEEPEST = 10  # mappings inside one another
_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# torchreid's checkpoints keep their scores as numpy scalars, DINO's their options as a Namespace, which torch refuses
# unless what makes them is named: numpy's under numpy 1 as well as numpy 2.
_MAKE_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN_OBJECTS: list[Any] = [
    argparse.Namespace,
    (_MAKE_SCALAR, "numpy.core.multiarray.scalar"),
    (_MAKE_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return name to tensor, on the CPU; what is nested in a checkpoint is named ``state_dict.conv1.weight``.

    Raises:
        InputError: no such file, a damaged one, one that would run code, or one without tensors by name.
    """
    path = Path(path)
    require_file(path, what="weights file")
    require_moderate_growth(path, what="weights file")
    reader = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(path.suffix.lower(), _read_torch)
    try:
        content = reader(path)
    # A damaged file can make its parser raise anything.
    except Exception as error:
        raise InputError(f"weights file {path} cannot be read: {_reason(error)}; expected a state dict") from error
    return _state_dict(content, path)


def _read_torch(path: Path) -> Any:
    with torch.serialization.safe_globals(_PLAIN_OBJECTS), warnings.catch_warnings():
        # What torch warns of (a pickle of another protocol) ends in its refusal.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_npz(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ValueError("not a zip archive, or a truncated one")
    with np.load(path, allow_pickle=False) as arrays:
        held = {name: arrays[name] for name in arrays.files}
    return {name: torch.from_numpy(array) for name, array in held.items() if array.dtype.kind in "fiub"}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """https://github.com/huggingface/safetensors, section "Format": header length, JSON header, bytes."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or start > len(data):
        raise ValueError("its header is longer than the file")
    header = json.loads(data[8:start])
    return {name: _tensor(entry, data, start) for name, entry in header.items() if name != "__metadata__"}


def _tensor(entry: Mapping[str, Any], data: bytearray, start: int) -> Tensor:
    kind, (begin, end) = _SAFETENSORS_TYPES[entry["dtype"]], entry["data_offsets"]
    if not 0 <= begin <= end <= len(data) - start:
        raise ValueError("a tensor ends beyond the file: it is truncated")
    if begin == end:
        if 0 not in entry["shape"]:
            raise ValueError("a tensor has a shape and no bytes")
        return torch.empty(entry["shape"], dtype=kind)
    return torch.frombuffer(data[start + begin : start + end], dtype=kind).reshape(entry["shape"])


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    tensors = _flattened(content) if isinstance(content, Mapping) else {}
    if not tensors:
        found = f"a {type(content).__name__} without tensors by name"
        raise InputError(f"weights file {path} holds {found}; expected a state dict (name to tensor)")
    return tensors


def _flattened(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Dotted names of all tensors in mappings inside one another; a mapping under two names counts once."""
    tensors: dict[str, Tensor] = {}
    seen, queue = {id(content)}, deque([("", 0, content)])
    while queue:
        prefix, depth, mapping = queue.popleft()
        for key, value in mapping.items():
            if isinstance(value, Tensor):
                if value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized:
                    tensors.setdefault(f"{prefix}{key}", value)
            elif isinstance(value, Mapping) and id(value) not in seen and depth < _DEEPEST:
                seen.add(id(value))
                queue.append((f"{prefix}{key}.", depth + 1, value))
    return tensors


def _reason(error: Exception) -> str:
    """Why, in one line; torch's own advice on unsafe files goes on for many."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no pickle, or one that needs code to be run"
    lines = str(error).strip().splitlines()
    return lines[0][:120].rstrip(". ") if lines else type(error).__name__
