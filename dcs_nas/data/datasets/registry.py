"""The known data sets by name, and the way to load one with checked options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import create_model

from dcs_nas.data.datasets.problems import passed_over
from dcs_nas.data.records import ReidDataset
from dcs_nas.errors import InputError
from dcs_nas.registry import Registry
from dcs_nas.settings import Settings, parse

Loader = Callable[..., ReidDataset]
DATASETS: Registry[Loader] = Registry("data set")


def load_dataset(name: str, root: Path | str, **options: Any) -> ReidDataset:
    """The data set ``name`` in the folder ``root``, its images listed but not opened.

    ``options`` are the keyword arguments of the loader (`describe` prints them).

    Raises:
        InputError: unknown name or option, a value that is none of the option's, or a fault of the folder.
    """
    loader = DATASETS[name]
    checked = check_options(name, options)
    with passed_over() as lines:
        dataset = loader(Path(root), **checked)
    if not isinstance(dataset, ReidDataset):
        found = type(dataset).__name__
        raise InputError(f"the loader of data set '{name}' ({DATASETS.owner(name)}) gave {found}, expected ReidDataset")
    return replace(dataset, passed_over=tuple(lines))


def check_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a data set with their types checked; ``InputError`` lists what it takes."""
    kind = _options_of(DATASETS[name])
    for key, field in kind.model_fields.items():
        if field.is_required() and key not in options:
            raise InputError(
                f"data set '{name}' needs the option '{key}' ({_values(field.annotation)}); there is no default"
            )
    if options and not kind.model_fields:
        raise InputError(f"data set '{name}' takes no options, found {', '.join(options)}")
    settings = parse(kind, options, source=f"options of data set '{name}'")
    return {key: getattr(settings, key) for key in kind.model_fields}


def options_of(name: str) -> list[str]:
    """Return the names of the options that a data set takes."""
    return list(_options_of(DATASETS[name]).model_fields)


def describe(name: str) -> str:
    """What a data set is, the folder it expects and its options: the loader's docstring."""
    return inspect.getdoc(DATASETS[name]) or ""


@cache
def _options_of(loader: Loader) -> type[Settings]:
    hints = get_type_hints(loader, include_extras=True)
    parameters = [p for p in inspect.signature(loader).parameters.values() if p.kind is p.KEYWORD_ONLY]
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default) for p in parameters
    }
    return create_model(f"{loader.__name__}_options", __base__=Settings, **fields)


def _values(annotation: Any) -> str:
    return " or ".join(str(a) for a in getattr(annotation, "__args__", ())) or getattr(annotation, "__name__", "")
