"""Loading weights files of other projects into our networks, with a report of what went where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.weights_files import read_weights


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file gave to a network.

    Attributes:
        matched: names in the network that got values.
        skipped: name in the file to the reason why it was not used.
        missing: names in the network that the file has no values for; they keep the values they had.
    """

    matched: tuple[str, ...]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]

    def summary(self) -> str:
        """One line: how many of each, and the first names of what did not fit."""
        skipped, missing = _some(self.skipped), _some(self.missing)
        return f"{len(self.matched)} tensors loaded; skipped from the file: {skipped}; not in the file: {missing}"


def load_weights(model: nn.Module, path: str | Path) -> WeightsReport:
    """Loads a weights file into ``model``, name by name, as far as names and shapes agree.

    Names may differ by one prefix, such as ``module.`` or ``backbone.``: the one under which most of them match. A
    tensor of another shape goes to the ``resize_weight(name, tensor)`` of the module that owns the parameter, if it has
    one (transformers resize their position embeddings so); classifiers of other class counts are skipped.

    Raises:
        InputError: a file that is missing, damaged, unsafe or no state dict, or of which nothing fits.
    """
    found, wanted = read_weights(path), model.state_dict()
    prefix = _best_prefix(found, wanted)
    fitting: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for name, tensor in found.items():
        target = name.removeprefix(prefix)
        reason = _mismatch(name.startswith(prefix), target, tensor, wanted)
        resized = _resized(model, target, tensor) if reason and target in wanted else None
        if resized is not None and resized.shape == wanted[target].shape:
            tensor, reason = resized, None
        if reason is None:
            fitting[target] = tensor
        else:
            skipped[name] = reason
    if not fitting:
        raise InputError(_nothing_fits(path, model, found, wanted))
    model.load_state_dict(fitting, strict=False)
    return WeightsReport(tuple(fitting), skipped, tuple(n for n in wanted if n not in fitting and not _counter(n)))


def _best_prefix(found: Iterable[str], wanted: Mapping[str, Tensor]) -> str:
    """The start of the file's names after which most of them are the network's; of equals the shortest."""
    votes: Counter[str] = Counter()
    for name in found:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in wanted:
                votes["".join(f"{part}." for part in parts[:cut])] += 1
    return max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default="")


def _mismatch(prefixed: bool, name: str, tensor: Tensor, wanted: Mapping[str, Tensor]) -> str | None:
    if not prefixed or name not in wanted:
        return "the network has no parameter of this name"
    if tensor.shape != wanted[name].shape:
        return f"its shape is {tuple(tensor.shape)}, the network's {tuple(wanted[name].shape)}"
    return None


def _resized(model: nn.Module, name: str, tensor: Tensor) -> Tensor | None:
    owner, _, leaf = name.rpartition(".")
    resize = getattr(model.get_submodule(owner), "resize_weight", None)
    return resize(leaf, tensor) if resize is not None else None


def _counter(name: str) -> bool:
    """Batch counters: old files lack them, and nothing here reads them."""
    return name.endswith("num_batches_tracked")


def _nothing_fits(path: str | Path, model: nn.Module, found: Iterable[str], wanted: Iterable[str]) -> str:
    return (
        f"nothing in {path} fits {type(model).__name__}: the file has {_some(found)}; expected {_some(wanted)}: "
        "check that it is for this network"
    )


def _some(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) or "none") + more
