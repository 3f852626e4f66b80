"""Options that several commands share, and how they are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dcs_nas.config import EvaluateConfig
from dcs_nas.errors import InputError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A configuration: a path, or a name in configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--set", metavar="KEY=VALUE", help="Replace a setting, e.g. -o search.epochs=20. Repeatable."),
]
GenotypeFile = Annotated[
    Path | None,
    typer.Option("--genotype", help="Genotype file; retrain takes that of the search of the same name by default."),
]
Folder = Annotated[Path | None, typer.Option("--out", help="Run folder; by default results/NAME/COMMAND.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume from the last completed epoch.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")]
Extension = Annotated[
    list[Path] | None,
    typer.Option("--extension", metavar="FILE", help="A Python file of your own operations or data sets. Repeatable."),
]
Csv = Annotated[Path | None, typer.Option(metavar="FILE", help="One line per query: scores, or why it was skipped.")]

_OTHER_SPELLINGS = {"k1": "rerank_k1", "k2": "rerank_k2", "lambda": "rerank_lambda"}
_C = TypeVar("_C", bound=Callable[..., None])


def with_evaluate_options(*, without: Sequence[str] = ()) -> Callable[[_C], _C]:
    """Give a command an option for each setting of ``EvaluateConfig``; its ``**settings`` receive them all.

    Values are checked by ``EvaluateConfig``, not by the option. The hidden options ``--k1``, ``--k2``, ``--lambda``,
    ``--trapezoid`` and ``--hits`` are short for those of ``rerank`` and ``average_precision``.
    """

    def decorate(command: _C) -> _C:
        signature = inspect.signature(command, eval_str=True)
        fields = EvaluateConfig.model_fields
        options = {name: _option(name, fields[name], f"--{_to_dashes(name)}") for name in fields if name not in without}
        for short, name in _OTHER_SPELLINGS.items():
            options[f"short_{short}"] = _option(name, fields[name], f"--{short}", hidden=True)
        options["trapezoid"] = Annotated[bool | None, typer.Option("--trapezoid/--hits", hidden=True)]
        own = [p for p in signature.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        parameters = [
            Parameter(n, Parameter.KEYWORD_ONLY, default=None, annotation=option) for n, option in options.items()
        ]
        command.__signature__ = signature.replace(parameters=[*own, *parameters])  # type: ignore[attr-defined]
        command.__annotations__ |= options
        return command

    return decorate


def collect_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of ``EvaluateConfig`` that the command line gave, in the order of its fields."""
    values = dict(options)
    for short, name in _OTHER_SPELLINGS.items():
        value = values.pop(f"short_{short}")
        values[name] = value if values[name] is None else values[name]
    trapezoid = values.pop("trapezoid")
    if trapezoid is not None and values["average_precision"] is None:
        values["average_precision"] = "trapezoid" if trapezoid else "hits"
    return in_order({name: value for name, value in values.items() if value is not None})


def in_order(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of ``EvaluateConfig`` in the order of its fields."""
    return {name: settings[name] for name in EvaluateConfig.model_fields if name in settings}


def parse_options(items: Sequence[str] | None) -> dict[str, Any]:
    """Return options KEY=VALUE of a data set's loader, values read as YAML."""
    from dcs_nas.settings import parse_yaml

    options = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"option '{item}' is not of the form key=value")
        options[key.strip()] = parse_yaml(value, source=f"the value of option '{item}'")
    return options


def load_extension_files(files: Sequence[Path] | None) -> None:
    """Import the user's files; each replaces what a run folder recorded under the same file name."""
    if files:
        from dcs_nas import api

        api.load_extensions(*files)


def _option(name: str, field: Any, spelling: str, *, hidden: bool = False) -> Any:
    """Return the annotation of an option: a flag of a truth value, a number, or else text."""
    kind = field.annotation if field.annotation in (bool, int, float) else str
    if kind is bool:
        spelling = f"{spelling}/--no-{_to_dashes(name)}"
    return Annotated[kind | None, typer.Option(spelling, help=field.description, hidden=hidden)]


def _to_dashes(name: str) -> str:
    return name.replace("_", "-")
