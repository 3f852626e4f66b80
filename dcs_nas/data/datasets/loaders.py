"""The registry of loaders, published facts of data sets, and reports of faults.

A load raises the first fault, a check collects all of them. Files that are passed over are no faults: the data set
counts and names them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from dcs_nas.data.records import SPLITS, ReidDataset
from dcs_nas.errors import InputError, to_one_line
from dcs_nas.registry import Registry
from dcs_nas.settings import options_of, read_options

Kind = Literal["unusable folder", "missing part", "unparsable name", "missing image", "bad list entry", "no match"]

C = TypeVar("C")


@dataclass(frozen=True)
class Problem:
    """One fault, in one line."""

    kind: Kind
    message: str


_problems: ContextVar[list[Problem] | None] = ContextVar("problems", default=None)
_passed_over: ContextVar[dict[str, list[str]] | None] = ContextVar("passed_over", default=None)
_NAMED = 3


def report(kind: Kind, message: str) -> None:
    """Raise ``InputError(message)``; within `collect_problems` record it instead, and let the loader continue."""
    message = to_one_line(message)
    problems = _problems.get()
    if problems is None:
        raise InputError(message)
    problems.append(Problem(kind, message))


def pass_over(what: str, names: Iterable[str]) -> None:
    """Count ``names``, described by ``what``, as passed over by the data set that is being loaded."""
    counted = _passed_over.get()
    if counted is not None and (names := list(names)):
        counted.setdefault(what, []).extend(names)


@contextmanager
def _collect(variable: ContextVar[C | None], collection: C) -> Iterator[C]:
    token = variable.set(collection)
    try:
        yield collection
    finally:
        variable.reset(token)


def collect_problems() -> AbstractContextManager[list[Problem]]:
    """Collect in a list the problems that loaders report in this block."""
    return _collect(_problems, [])


Count = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Facts:
    """Published counts: (identities, images) of each split, distractors and cameras; None if unknown or not checked.

    Distractors count among the gallery's images but not among its identities. Where publications disagree, a count is
    the tuple of their numbers.
    """

    train: tuple[Count, Count] = (None, None)
    query: tuple[Count, Count] = (None, None)
    gallery: tuple[Count, Count] = (None, None)
    distractors: Count = None
    cameras: Count = None

    def deviations(self, dataset: ReidDataset) -> tuple[str, ...]:
        """Return a line for every count that differs from the published one."""
        counts, lines = dataset.statistics(), []
        rows = [
            (f"{split} {label}", counts[split][key], fact)
            for split in SPLITS
            for key, label, fact in zip(("people", "images"), ("identities", "images"), getattr(self, split))
        ]
        rows.append(("gallery distractors", counts["gallery"]["distractors"], self.distractors))
        rows.append(("cameras", counts["cameras"], self.cameras))
        for what, count, fact in rows:
            published = fact if isinstance(fact, tuple) else () if fact is None else (fact,)
            if published and count not in published:
                lines.append(f"{what}: {count:,} found, {' or '.join(f'{n:,}' for n in published)} published")
        return tuple(lines)


def add_deviations(dataset: ReidDataset, facts: Facts) -> ReidDataset:
    """Return the data set with its deviations from the published facts among its notes."""
    return replace(dataset, notes=dataset.notes + facts.deviations(dataset))


Loader = Callable[..., ReidDataset]
DATASETS: Registry[Loader] = Registry("data set")


def load_dataset(name: str, root: Path | str, **options: Any) -> ReidDataset:
    """Return the data set ``name`` in the folder ``root``, its images listed but not opened.

    ``options`` are the keyword arguments of the loader (`describe` prints them).

    Raises:
        InputError: an unknown name or option, a value of the wrong type, or a fault of the folder.
    """
    loader = DATASETS[name]
    checked = check_options(name, options)
    with _collect(_passed_over, {}) as counted:
        dataset = loader(Path(root), **checked)
    if not isinstance(dataset, ReidDataset):
        kind = type(dataset).__name__
        raise InputError(
            f"the loader of data set '{name}' ({DATASETS.owner(name)}) returns {kind}, expected ReidDataset; change it"
        )
    _require_one_identity(dataset)
    lines = (
        f"passed over {len(names):,} {what}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
        for what, names in counted.items()
    )
    return replace(dataset, passed_over=tuple(map(to_one_line, lines)))


def _require_one_identity(dataset: ReidDataset) -> None:
    """Report images that are listed twice in a split, or with two identities."""
    names = {number: name for name, number in (dataset.label_map or {}).items()}
    identities: dict[str, int] = {}
    for split in (*SPLITS, "val"):
        listed: set[str] = set()
        for record in getattr(dataset, split):
            first = identities.setdefault(record.path, record.identity)
            if first != record.identity:
                both = " and ".join(str(names.get(number, number)) for number in (first, record.identity))
                report(
                    "bad list entry",
                    f"{dataset.root / record.path} is listed with the identities {both}, expected one; remove an entry",
                )
            elif record.path in listed:
                report("bad list entry", f"{dataset.root / record.path} is listed twice in {split}; remove an entry")
            listed.add(record.path)


def check_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a data set with their types checked; raise ``InputError`` that lists the known ones."""
    kind = options_of(DATASETS[name])
    for key, field in kind.model_fields.items():
        if field.is_required() and key not in options:
            values = [str(v) for v in getattr(field.annotation, "__args__", [])]
            values = values or [getattr(field.annotation, "__name__", "")]
            raise InputError(
                f"data set '{name}' needs the option '{key}' ({' or '.join(values)}), which has no default; give it, "
                f"e.g. data.options.{key}={values[0]} (datasets: -o {key}={values[0]}; evaluate: --data-option)"
            )
    if options and not kind.model_fields:
        raise InputError(f"data set '{name}' takes no options, found {', '.join(options)}; leave them out")
    return read_options(DATASETS[name], options, source=f"options of data set '{name}'")


def describe(name: str) -> str:
    """Return the description of a data set, its folder and its options: the loader's docstring."""
    return inspect.getdoc(DATASETS[name]) or ""
