"""Loading weights files of other projects into our networks, with a report of the tensors used."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.weights_file import read_weights

SHARE = 0.9
"""Share of a network's numbers that a file has to supply."""
PREFERRED = {
    "teacher": "student",
    "model_ema": "model",
    "state_dict_ema": "state_dict",
    "encoder_q": "encoder_k",
    "ema": "network",
}
"""Of two networks in a file, the one to load to the other one: as DINO, timm, MoCo and dcs-nas use them."""
_INSERTED = "attention."  # blocks put into a backbone: files of plain networks lack them
_ESSENTIAL = re.compile(r"(^|\.)(pos_embed|relative_position_bias_table|semantic_embed_[wb]\.\d\.(weight|bias))$")
_SAME = 0.9  # a second network of a file is a candidate too if it supplies this share of the first one's numbers
_MOST_REASONS = 5
_UNKNOWN = "the network has no parameter of this name"


@dataclass(frozen=True)
class WeightsReport:
    """The tensors that a network gets from a weights file.

    Attributes:
        path: the file.
        prefix: of the file's names, removed, such as ``teacher.backbone.``.
        matched: names in the network that get values.
        interpolated: matched names whose values are resized, to the sizes, such as ``14 x 14 to 16 x 8``.
        skipped: name in the file to the reason why it is not used.
        missing: names in the network without values in the file; they keep their values.
        supplied: count of the network's numbers, without inserted attention, that get values.
        numbers: count of all these numbers.
    """

    path: str
    prefix: str
    matched: tuple[str, ...]
    interpolated: Mapping[str, str]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]
    supplied: int
    numbers: int

    @property
    def share(self) -> float:
        """The share of the network's numbers that the file supplies."""
        return self.supplied / max(1, self.numbers)

    def summary(self) -> str:
        """Return one line: the counts, and the first names that did not fit."""
        interpolated = "".join(f", {name} interpolated from {sizes}" for name, sizes in self.interpolated.items())
        below = f" of '{_make_printable(self.prefix)}'" if self.prefix else ""
        return (
            f"{len(self.matched)} tensors loaded{below}{interpolated}, {self.supplied:,} of {self.numbers:,} numbers; "
            f"skipped from the file: {join_names(self.skipped)}; not in the file: {join_names(self.missing)}"
        )

    def rows(self) -> list[tuple[str, int, str]]:
        """Return the rows of a table: matched, interpolated, left random, unused; count of tensors; examples."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        listed = list(reasons.items())[:_MOST_REASONS]
        unused = "; ".join(f"{join_names(names, 2)}: {reason}" for reason, names in listed)
        return [
            ("matched", len(self.matched), join_names(self.matched)),
            (
                "interpolated",
                len(self.interpolated),
                join_names(f"{n}, {size}" for n, size in self.interpolated.items()),
            ),
            ("left random", len(self.missing), join_names(self.missing)),
            ("unused", len(self.skipped), unused or "none"),
        ]

    def facts(self) -> dict[str, Any]:
        """Return the report for a JSON file."""
        return {
            "file": self.path,
            "prefix": _make_printable(self.prefix),
            "supplied": self.supplied,
            "numbers": self.numbers,
            "rows": [list(row) for row in self.rows()],
            "left_random": list(self.missing),
            "unused": {_make_printable(name): reason for name, reason in self.skipped.items()},
        }


@dataclass(frozen=True, eq=False)
class Match:
    """The tensors of a file under a network's names.

    Attributes:
        tensors: the tensors that fit.
        report: the names that fit and those that do not.
        problem: why the file is refused; None if it fits.
    """

    tensors: Mapping[str, Tensor]
    report: WeightsReport
    problem: str | None


def load_weights(model: nn.Module, path: str | Path, *, partial: bool = False, key: str | None = None) -> WeightsReport:
    """Load a weights file into ``model``, name by name, as far as names and shapes agree.

    Names may differ by one prefix, such as ``module.``, ``state_dict.`` or ``teacher.backbone.``: the one under which
    the file supplies most numbers. ``adapt_weights`` of the model, if it has one, gets the file's tensors without the
    prefix and returns them under the model's own names and shapes.

    Args:
        model: keeps its values where the file has none.
        path: of the file.
        partial: load the tensors that fit. Else a file is refused that supplies less than ``SHARE`` of the model's
            numbers without inserted attention, lacks its first layer, positions or semantic embedding, or has tensors
            of other shapes or of parts that the model lacks.
        key: prefix of the file's names to load; None: the only network in the file, or of two the one in
            ``PREFERRED``.

    Raises:
        InputError: a file that is missing, damaged, unsafe or no state dict, that holds several networks, that does
            not fit, or whose numbers are not finite.
    """
    match = match_weights(model, read_weights(path), path, partial=partial, key=key)
    if match.problem is not None:
        raise InputError(match.problem)
    wanted = model.state_dict()
    loaded = {
        name: _require_finite(name, tensor.to(wanted[name].dtype), path) for name, tensor in match.tensors.items()
    }
    model.load_state_dict(loaded, strict=False)
    return match.report


def match_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, *, partial: bool = False, key: str | None = None
) -> Match:
    """Compare a file's ``tensors`` with a network, see ``load_weights``; the network may lie on torch's meta.

    Raises:
        InputError: nothing fits, several networks fit, or the file is of another kind of network.
    """
    wanted = model.state_dict()
    names = [name for name in tensors if key is None or name.startswith(f"{key}.")]
    if not names:
        heads = dict.fromkeys(name.partition(".")[0] for name in tensors)
        raise InputError(f"{path} has no names below '{key}' (retrain.weights_key); it has {join_names(heads, 8)}")
    second = find_second_networks(names) if key is None else {}
    names = [name for name in names if name not in second]
    prefix = _find_prefix(names, wanted, path) or (f"{key}." if key else "")
    if prefix.endswith("base.") and f"{prefix.removesuffix('base.')}b1.0.norm1.weight" in tensors and not partial:
        raise InputError(
            f"{path} is of TransReID with the jigsaw branch, whose last block stands under b1; name a file of "
            f"{type(model).__name__}, or train transreid_vit_base"
        )
    inside = {name.removeprefix(prefix): tensors[name] for name in names if name.startswith(prefix)}
    try:
        inside = getattr(model, "adapt_weights", dict)(inside)
    except (InputError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not partial:
            first = (str(error).splitlines() or [""])[0]
            cause = first if isinstance(error, InputError) else f"its tensors are laid out in another way ({first})"
            raise InputError(
                f"{path} does not fit {type(model).__name__}: {cause}; name a file of this network"
            ) from None
    skipped = {name: second.get(name, _UNKNOWN) for name in tensors if name in second or not name.startswith(prefix)}
    mismatches = {name: _find_mismatch(name, tensor, wanted) for name, tensor in inside.items()}
    fitting = {name: inside[name] for name, reason in mismatches.items() if reason is None}
    skipped |= {prefix + name: reason for name, reason in mismatches.items() if reason is not None}
    missing = tuple(n for n in wanted if n not in fitting and not _is_counter(n))
    own = [name for name in wanted if not name.startswith(_INSERTED) and not _is_counter(name)]
    supplied = sum(wanted[name].numel() for name in own if name in fitting)
    numbers = sum(wanted[name].numel() for name in own)
    interpolated = _read_interpolated(model, fitting)
    report = WeightsReport(str(path), prefix, tuple(fitting), interpolated, skipped, missing, supplied, numbers)
    if not supplied:
        raise InputError(
            f"nothing in {path} fits {type(model).__name__}: the file has {join_names(tensors)}; expected "
            f"{join_names(wanted)}: check that it is for this network"
        )
    return Match(fitting, report, None if partial else _find_problem(report, model, wanted, inside))


def find_second_networks(names: Iterable[str]) -> dict[str, str]:
    """Return the names of a file's second network to the reason why they are not used, see ``PREFERRED``."""
    names = list(names)
    starts = {tuple(name.split(".")[:depth]) for name in names for depth in (1, 2, 3)}
    second: dict[str, str] = {}
    for *before, part in starts:
        other = PREFERRED.get(part)
        if other is not None and (*before, other) in starts:
            start = ".".join((*before, other, ""))
            reason = f"the file's '{part}' is loaded; retrain.weights_key chooses another"
            second |= {name: reason for name in names if name.startswith(start)}
    return second


def _read_interpolated(model: nn.Module, fitting: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the tensors that ``adapt_weights`` resized: name to the sizes, as the modules record them."""
    sizes = {
        f"{path}.{name}".lstrip("."): size
        for path, module in model.named_modules()
        for name, size in getattr(module, "interpolated", {}).items()
    }
    return {name: size for name, size in sizes.items() if name in fitting}


def _find_prefix(names: Iterable[str], wanted: Mapping[str, Tensor], path: str | Path) -> str:
    """Return the prefix without which the file's names supply most numbers; of equal ones the shortest.

    Raises ``InputError`` if another prefix supplies about as many, and enough: the file holds two networks.
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
    if len(equal) > 1 and votes[first] >= 0.5 * sum(tensor.numel() for tensor in wanted.values()):
        raise InputError(
            f"{path} holds {len(equal)} networks that would fit: {join_names(equal, 8)}; choose one, for example by "
            f"retrain.weights_key={_make_printable(equal[0])}"
        )
    return first


def _find_mismatch(name: str, tensor: Tensor, wanted: Mapping[str, Tensor]) -> str | None:
    if name not in wanted:
        return _UNKNOWN
    if tensor.shape != wanted[name].shape:
        return f"its shape is {tuple(tensor.shape)}, the network's {tuple(wanted[name].shape)}"
    if tensor.is_floating_point() != wanted[name].is_floating_point():
        return f"its type is {tensor.dtype}, the network's {wanted[name].dtype}"
    return None


def _require_finite(name: str, tensor: Tensor, path: str | Path) -> Tensor:
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        raise InputError(
            f"weights file {path}: {wrong:,} of the {tensor.numel():,} numbers of '{name}' are NaN, infinite or beyond "
            f"{tensor.dtype}; expected finite numbers: take an earlier checkpoint, or fetch the file again"
        )
    return tensor


def _find_problem(
    report: WeightsReport, model: nn.Module, wanted: Mapping[str, Tensor], inside: Mapping[str, Tensor]
) -> str | None:
    """Return why the file is refused (it supplies too little, or is of another network), or None if it is not."""
    modules = dict(model.named_modules())
    missing = [name for name in report.missing if not name.startswith(_INSERTED)]
    first = next((name for name in wanted if wanted[name].ndim == 4 and not name.startswith(_INSERTED)), None)
    essential = [name for name in missing if name == first or _ESSENTIAL.search(name)]
    causes = {
        "absent": [name for name in missing if name not in inside],
        "of another shape or type": [name for name in missing if name in inside],
        "of parts that the network lacks": [n for n in inside if n not in wanted and _is_own(n, modules)],
    }
    strange = any(names for cause, names in causes.items() if cause != "absent")
    if report.share >= SHARE and not strange and not essential:
        return None
    listed = "; ".join(f"{cause}: {_list_kinds(names, wanted, inside)}" for cause, names in causes.items() if names)
    random = f"; what must not stay random: {join_names(essential)}" if essential else ""
    inherit = any(".mixtures." in name for name in report.skipped)
    return (
        f"{report.path} supplies {report.supplied:,} of the {report.numbers:,} numbers of {type(model).__name__} "
        f"({math.floor(1000 * report.share) / 10:g} %), expected at least {100 * SHARE:g} %, the first layer, all "
        f"positions and no other parts: {listed}{random}; name a file of this network, or load what fits by "
        "retrain.weights_partial=true"
        + ("; a genotype starts from the supernet of a search by retrain.inherit=RUN" if inherit else "")
    )


def _is_own(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether a name lies in one of the network's own parts: a deeper stage, or another kind of block."""
    parts = name.split(".")
    paths = (".".join(parts[:cut]) for cut in range(1, min(len(parts), 20)))
    return not name.startswith(_INSERTED) and any(path in modules for path in paths)


def _list_kinds(names: Iterable[str], wanted: Mapping[str, Tensor], inside: Mapping[str, Tensor]) -> str:
    """Return names, merged if they differ in numbers alone, largest first, with an example of a wrong shape."""
    tensors, groups = {**inside, **wanted}, dict[str, list[str]]()
    for name in names:
        groups.setdefault(re.sub(r"\d+", "N", name), []).append(name)
    listed = []
    for kind in sorted(groups, key=lambda kind: -sum(tensors[name].numel() for name in groups[kind])):
        first = groups[kind][0]
        shapes = f", e.g. {_find_mismatch(first, inside[first], wanted)}" if first in wanted and first in inside else ""
        listed.append(f"{kind} (x {len(groups[kind])}{shapes})")
    return join_names(listed)


def _is_counter(name: str) -> bool:
    """Return whether a name is that of a batch counter, which old files lack and nothing here reads."""
    return name.endswith("num_batches_tracked")


def join_names(names: Iterable[str], limit: int = 3) -> str:
    """Return the first names from a file, made printable, for messages; "none" without any."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return (", ".join(map(_make_printable, listed[:limit])) or "none") + more


def _make_printable(name: str) -> str:
    """Return a name from a file, made printable and cut."""
    return (name if name.isprintable() else ascii(name))[:200]
