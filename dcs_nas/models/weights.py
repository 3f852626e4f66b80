"""Loading weights files of other projects into our networks, with a report of what went where.

Files are read as plain tensors, and nothing in them is run: torch.save'd state dicts (.pth, .pt, .pt.tar, .bin, .ckpt:
anything with another ending), .npz, .safetensors.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import warnings
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.files import require_file, require_moderate_growth

SHARE = 0.9
"""Share of a network's numbers that a file supplies unless less is asked for."""
_INSERTED = "attention."  # blocks put into a backbone: files of plain networks lack them
_SAME = 0.9  # a second network of a file that supplies this share of what the first does is a candidate as well
_UNKNOWN = "the network has no parameter of this name"
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


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file gave to a network.

    Attributes:
        matched: names in the network that got values.
        skipped: name in the file to the reason why it was not used.
        missing: names in the network that the file has no values for; they keep the values they had.
        supplied: how many numbers of the network, without inserted attention, got values.
        numbers: how many it has.
    """

    matched: tuple[str, ...]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]
    supplied: int
    numbers: int

    def summary(self) -> str:
        """Return one line: how many of each, and the first names of what did not fit."""
        skipped, missing = _some(self.skipped), _some(self.missing)
        return (
            f"{len(self.matched)} tensors loaded, {self.supplied:,} of {self.numbers:,} numbers; "
            f"skipped from the file: {skipped}; not in the file: {missing}"
        )


def load_weights(model: nn.Module, path: str | Path, *, share: float = SHARE, key: str | None = None) -> WeightsReport:
    """Load a weights file into ``model``, name by name, as far as names and shapes agree.

    Names may differ by one prefix, such as ``module.``, ``state_dict.`` or ``teacher.backbone.``: the one under which
    the file supplies most numbers. ``adapt_weights`` of the model, if it has one, first gets the file's tensors without
    the prefix and returns them under the model's own names and shapes.

    Args:
        model: keeps the values it has where the file has none.
        path: of the file.
        share: the least share of the model's numbers that the file supplies, without inserted attention. Below
            ``SHARE``, tensors of other shapes and of parts that the model lacks are skipped and reported; else they are
            refused.
        key: the start of the file's names to load; None: the only network that the file holds.

    Raises:
        InputError: a file that is missing, damaged, unsafe or no state dict, that holds several networks, that fits
            less than it should, or whose numbers are not finite.
    """
    found, wanted = read_weights(path), model.state_dict()
    names = [name for name in found if key is None or name.startswith(f"{key}.")]
    if not names:
        heads = dict.fromkeys(name.partition(".")[0] for name in found)
        raise InputError(f"{path} has no names below '{key}' (retrain.weights_key); it has {_some(heads, 8)}")
    prefix = _prefix(names, wanted, share, path) or (f"{key}." if key else "")
    inside = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    try:
        inside = getattr(model, "adapt_weights", dict)(inside)
    except InputError as error:
        raise InputError(f"{path} does not fit {type(model).__name__}: {error}; name a file of this network") from None
    skipped = {name: _UNKNOWN for name in found if not name.startswith(prefix)}
    fitting: dict[str, Tensor] = {}
    for name, tensor in inside.items():
        reason = _mismatch(name, tensor, wanted)
        if reason is None:
            fitting[name] = _finite(name, tensor.to(wanted[name].dtype), path)
        else:
            skipped[prefix + name] = reason
    missing = tuple(n for n in wanted if n not in fitting and not _counter(n))
    own = [name for name in wanted if not name.startswith(_INSERTED) and not _counter(name)]
    supplied = sum(wanted[name].numel() for name in own if name in fitting)
    report = WeightsReport(tuple(fitting), skipped, missing, supplied, sum(wanted[name].numel() for name in own))
    if not supplied:
        raise InputError(
            f"nothing in {path} fits {type(model).__name__}: the file has {_some(found)}; expected {_some(wanted)}: "
            "check that it is for this network"
        )
    _require_fit(report, model, wanted, inside, share, path)
    model.load_state_dict(fitting, strict=False)
    return report


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return name to tensor, on the CPU; what is nested in a checkpoint is named ``state_dict.conv1.weight``.

    Raises:
        InputError: no such file, a damaged one, one that would run code, or one without tensors by name.
    """
    path = Path(path)
    require_file(path, what="weights file")
    require_moderate_growth(path, what="weights file")
    readers: dict[str, Callable[[Path], Any]] = {".npz": _read_npz, ".safetensors": safetensors.torch.load_file}
    try:
        content = readers.get(path.suffix.lower(), _read_torch)(path)
    # A damaged file can make its parser raise anything.
    except Exception as error:
        raise InputError(f"weights file {path} cannot be read: {_reason(error)}; expected a state dict") from error
    tensors = _flattened(content) if isinstance(content, Mapping) else {}
    if not tensors:
        found = f"a {type(content).__name__} without tensors by name"
        raise InputError(f"weights file {path} holds {found}; expected a state dict (name to tensor)")
    return tensors


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


def _flattened(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return dotted names of all tensors in mappings inside one another; a mapping under two names counts once."""
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


def _prefix(names: Iterable[str], wanted: Mapping[str, Tensor], share: float, path: str | Path) -> str:
    """The start of the file's names after which they supply most of the network's numbers; of equals the shortest.

    Raises ``InputError`` where another one supplies about as many, and enough: the file holds two networks.
    """
    votes: Counter[str] = Counter()
    deepest = max((name.count(".") for name in wanted), default=0)
    for name in names:
        parts = name.split(".")
        for cut in range(max(0, len(parts) - deepest - 1), len(parts)):
            target = wanted.get(".".join(parts[cut:]))
            if target is not None:
                votes["".join(f"{part}." for part in parts[:cut])] += target.numel()
    first = max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default="")
    equal = [prefix.removesuffix(".") for prefix in votes if votes[prefix] >= _SAME * votes[first]]
    if "" in equal:
        return ""
    if len(equal) > 1 and votes[first] >= min(share, 0.5) * sum(tensor.numel() for tensor in wanted.values()):
        raise InputError(
            f"{path} holds {len(equal)} networks that would fit: {_some(equal, 8)}; choose one, for example by "
            f"retrain.weights_key={_shown(equal[0])}"
        )
    return first


def _mismatch(name: str, tensor: Tensor, wanted: Mapping[str, Tensor]) -> str | None:
    if name not in wanted:
        return _UNKNOWN
    if tensor.shape != wanted[name].shape:
        return f"its shape is {tuple(tensor.shape)}, the network's {tuple(wanted[name].shape)}"
    if tensor.is_floating_point() != wanted[name].is_floating_point():
        return f"its type is {tensor.dtype}, the network's {wanted[name].dtype}"
    return None


def _finite(name: str, tensor: Tensor, path: str | Path) -> Tensor:
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        raise InputError(
            f"weights file {path}: {wrong:,} of the {tensor.numel():,} numbers of '{name}' are NaN, infinite or beyond "
            f"{tensor.dtype}; expected finite numbers: take an earlier checkpoint, or fetch the file again"
        )
    return tensor


def _require_fit(
    report: WeightsReport,
    model: nn.Module,
    wanted: Mapping[str, Tensor],
    inside: Mapping[str, Tensor],
    share: float,
    path: str | Path,
) -> None:
    """Raise ``InputError`` where the file supplies less than ``share``, or is of another network: kinds and causes."""
    modules = dict(model.named_modules())
    missing = [name for name in report.missing if not name.startswith(_INSERTED)]
    causes = {
        "absent": [name for name in missing if name not in inside],
        "of another shape or type": [name for name in missing if name in inside],
        "of parts that the network lacks": [n for n in inside if n not in wanted and _owned(n, modules)],
    }
    supplied = report.supplied / report.numbers
    strange = any(names for cause, names in causes.items() if cause != "absent")
    if supplied >= share and not (strange and share >= SHARE):
        return
    listed = "; ".join(f"{cause}: {_kinds(names, wanted, inside)}" for cause, names in causes.items() if names)
    accepted = min(SHARE - 0.01, math.floor(100 * supplied) / 100)
    inherit = any(".mixtures." in name for name in report.skipped)
    raise InputError(
        f"{path} supplies {report.supplied:,} of the {report.numbers:,} numbers of {type(model).__name__} "
        f"({math.floor(1000 * supplied) / 10:g} %), expected at least {100 * share:g} % and no other parts: {listed}; "
        f"name a file of this network, or load what fits by retrain.weights_share={accepted:g}"
        + ("; a genotype starts from the supernet of a search by retrain.inherit=RUN" if inherit else "")
    )


def _owned(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether a name lies in one of the network's own parts: a deeper stage, or another kind of block."""
    parts = name.split(".")
    paths = (".".join(parts[:cut]) for cut in range(1, min(len(parts), 20)))
    return not name.startswith(_INSERTED) and any(path in modules for path in paths)


def _kinds(names: Iterable[str], wanted: Mapping[str, Tensor], inside: Mapping[str, Tensor]) -> str:
    """Names that differ by their numbers alone as one, most numbers first, with an example of a shape that differs."""
    tensors = {name: wanted[name] if name in wanted else inside[name] for name in names}
    sizes: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        kind = re.sub(r"\d+", "N", name)
        sizes[kind] += tensor.numel()
        examples.setdefault(kind, []).append(name)
    listed = []
    for kind, _ in sizes.most_common():
        first = examples[kind][0]
        shapes = ""
        if first in wanted and first in inside:
            shapes = f", e.g. {_mismatch(first, inside[first], wanted)}"
        listed.append(f"{kind} (x {len(examples[kind])}{shapes})")
    return _some(listed)


def _counter(name: str) -> bool:
    """Batch counters: old files lack them, and nothing here reads them."""
    return name.endswith("num_batches_tracked")


def _some(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return (", ".join(map(_shown, listed[:limit])) or "none") + more


def _shown(name: str) -> str:
    """Return a name of a file, printable and cut."""
    return (name if name.isprintable() else ascii(name))[:200]
