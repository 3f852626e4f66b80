"""Options that several commands share, and how they are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic.fields import FieldInfo

from dcs_nas.cli.outputs import OUTPUT
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
Csv = Annotated[
    Path | None, typer.Option(metavar="FILE", help="One line per query: scores, or why it was skipped."), OUTPUT
]

_C = TypeVar("_C", bound=Callable[..., None])


def with_evaluate_options(*, without: Sequence[str] = ()) -> Callable[[_C], _C]:
    """Give a command an option for each setting of ``EvaluateConfig``; its ``**settings`` receive them all.

    Values are checked by ``EvaluateConfig``, not by the option.
    """

    def decorate(command: _C) -> _C:
        signature = inspect.signature(command, eval_str=True)
        options = {n: _make_option(n, field) for n, field in EvaluateConfig.model_fields.items() if n not in without}
        own = [p for p in signature.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        added = [Parameter(n, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for n, kind in options.items()]
        command.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ |= options
        return command

    return decorate


def _make_option(name: str, field: FieldInfo) -> Any:
    """Return the annotation of the option of a setting: a flag for a truth value, a number, or text."""
    kind = field.annotation if field.annotation in (bool, int, float) else str
    spelling = name.replace("_", "-")
    declaration = f"--{spelling}/--no-{spelling}" if kind is bool else f"--{spelling}"
    return Annotated[kind | None, typer.Option(declaration, help=field.description)]


def collect_settings(options: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of ``EvaluateConfig`` in ``overrides`` and ``options``, in the order of its fields."""
    settings = {**(overrides or {}), **{name: value for name, value in options.items() if value is not None}}
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


def refuse_options(options: Mapping[str, Any], why: str) -> None:
    """Raise ``InputError`` if one of the options, by name, is given."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"--{name.replace('_', '-')} {why}")


def load_extension_files(files: Sequence[Path] | None) -> None:
    """Import the user's files; each replaces what a run folder recorded under the same file name."""
    if files:
        from dcs_nas import api

        api.load_extensions(*files)
