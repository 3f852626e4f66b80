"""Reading weights files of other projects as plain tensors, without running code in them.

The formats are state dicts of torch.save (.pth, .pt, .pt.tar, .bin, .ckpt: any ending but the following), TorchScript
archives, .npz and .safetensors.
"""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from dcs_nas.errors import InputError
from dcs_nas.files import require_file, require_moderate_growth

_DEEPEST = 10  # mappings inside one another
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
    """Return name to tensor, on the CPU; nested tensors have dotted names such as ``state_dict.conv1.weight``.

    Raises:
        InputError: no such file, a damaged one, one that would run code, or one without tensors by name.
    """
    path = Path(path)
    require_file(path, what="weights file")
    require_moderate_growth(path, what="weights file")
    try:
        content = _READERS[detect_format(path)](path)
    # A damaged file can make its parser raise anything.
    except Exception as error:
        raise InputError(f"weights file {path} cannot be read: {_explain(error)}; expected a state dict") from error
    tensors = _flatten(content) if isinstance(content, Mapping) else {}
    if not tensors:
        content_kind = f"a {type(content).__name__} without tensors by name"
        raise InputError(f"weights file {path} holds {content_kind}; expected a state dict (name to tensor)")
    return tensors


def detect_format(path: Path) -> str:
    """Return ``NumPy archive``, ``safetensors``, ``TorchScript archive`` or ``PyTorch file``."""
    ending = path.suffix.lower()
    if ending in (".npz", ".safetensors"):
        return "NumPy archive" if ending == ".npz" else "safetensors"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return "TorchScript archive"
    return "PyTorch file"


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


def _read_torchscript(path: Path) -> Any:
    """Return the attributes of a scripted module, such as OpenAI's CLIP, without its code."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        with archive.open(name) as file:
            return vars(_ScriptUnpickler(file, archive, name.removesuffix("data.pkl")).load())


class _ScriptModule:
    """The attributes of a module of a TorchScript archive."""


class _ScriptUnpickler(pickle.Unpickler):
    """Reads modules as ``_ScriptModule``, and tensors; refuses every other global."""

    _DTYPES: Mapping[str, torch.dtype] = {
        "FloatStorage": torch.float32,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "DoubleStorage": torch.float64,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "BoolStorage": torch.bool,
    }

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a global of the archive."""
        if module.startswith("__torch__"):
            return _ScriptModule
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda values, offset, size, stride, *_: values.as_strided(size, stride, offset)
        if module == "torch" and name in self._DTYPES:
            return self._DTYPES[name]
        if module == "torch.jit._pickle":
            return lambda values: list(values)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, key: Any) -> Tensor:
        """Return the flat values of a storage."""
        _, dtype, name, *_ = key
        return torch.frombuffer(bytearray(self._archive.read(f"{self._root}data/{name}")), dtype=dtype)


_READERS: Mapping[str, Callable[[Path], Any]] = {
    "NumPy archive": _read_npz,
    "safetensors": safetensors.torch.load_file,
    "TorchScript archive": _read_torchscript,
    "PyTorch file": _read_torch,
}


def _flatten(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return all tensors of nested mappings by dotted names; a mapping under two names counts once."""
    tensors: dict[str, Tensor] = {}
    seen, queue = {id(content)}, deque([("", 0, content)])
    while queue:
        prefix, depth, mapping = queue.popleft()
        for key, value in mapping.items():
            inner = vars(value) if isinstance(value, _ScriptModule) else value
            if isinstance(value, Tensor):
                if value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized:
                    tensors.setdefault(f"{prefix}{key}", value)
            elif isinstance(inner, Mapping) and id(inner) not in seen and depth < _DEEPEST:
                seen.add(id(inner))
                queue.append((f"{prefix}{key}.", depth + 1, inner))
    return tensors


def _explain(error: Exception) -> str:
    """Return the reason in one line; torch's own advice on unsafe files has many."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no pickle, or one that needs code to be run"
    lines = str(error).strip().splitlines()
    return lines[0][:120].rstrip(". ") if lines else type(error).__name__
