"""The command line reference, from the Typer app: every command with its arguments and options."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

from dcs_nas.cli import app
from dcs_nas.cli.examples import EXAMPLES

_INTRODUCTION = """# Command line

Made from the program itself by `scripts/docs/references.py`; `dcs-nas COMMAND --help` says the same.
`-v` anywhere shows the traceback of an error. Exit code: 0 done, 1 bad input or failure, 2 interrupted.
`dcs-nas --version` prints the version, `dcs-nas --install-completion` sets up completion in your shell.
"""

_NAMES = {str: "text", int: "whole number", float: "number", bool: "flag", Path: "path"}


def cli_page() -> str:
    """The page as Markdown."""
    parts = [_INTRODUCTION]
    for path, command in commands(typer.main.get_command(app)):
        parts.append("\n".join(_command_lines(path, command)))
    return "\n".join(parts)


def commands(group: Any, path: str = "dcs-nas") -> Iterator[tuple[str, Any]]:
    """Every command of a group and below it with its full name, in the order of registration."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield f"{path} {name}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")


def _command_lines(path: str, command: Any) -> Iterator[str]:
    """Heading, usage, help and tables of one command."""
    yield f"## {path}\n"
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = [path, *map(_argument_usage, arguments), *(["[OPTIONS]"] if options else [])]
    yield f"```text\n{' '.join(usage)}\n```\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    hints = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    if arguments:
        yield "| argument | type | default | meaning |\n|---|---|---|---|"
        for argument in arguments:
            yield _row(
                [
                    f"`{_argument_name(argument)}`",
                    _type(argument, hints[argument.name]),
                    _default(argument),
                    argument.help or "",
                ]
            )
        yield ""
    if options:
        yield "| option | type | default | meaning |\n|---|---|---|---|"
        for option in options:
            yield _row([_names(option), _type(option, hints[option.name]), _default(option), option.help or ""])
        yield ""
    if examples := EXAMPLES.get(path.removeprefix("dcs-nas ")):
        yield "\n".join(["```text", *examples, "```", ""])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _argument_name(argument: Any) -> str:
    return (argument.metavar or argument.name.upper()).strip("[]")


def _argument_usage(argument: Any) -> str:
    name = _argument_name(argument)
    several = "..." if argument.nargs == -1 and "..." not in name else ""
    return f"{name}{several}" if argument.required else f"[{name}{several}]"


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar}" if option.metavar else ""
    names = ", ".join([*option.opts, *option.secondary_opts])
    return f"`{names}{value}`"


def _type(parameter: Any, hint: Any) -> str:
    """The type of the function's argument, the range of a number, and whether it may be given several times."""
    inner = [a for a in get_args(hint) if a is not type(None)]
    if get_origin(hint) in (Union, types.UnionType):
        return _type(parameter, inner[0])
    if get_origin(hint) is list:
        return f"{_type(parameter, inner[0])}, several"
    numbers = parameter if hasattr(parameter, "min") else getattr(parameter, "type", None)
    low, high = getattr(numbers, "min", None), getattr(numbers, "max", None)
    bounds = f", {low} to {high}" if None not in (low, high) else f", at least {low}" if low is not None else ""
    return f"{_NAMES[hint]}{bounds}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value == () or value == [] or callable(value):
        return ""
    return f"`{value}`"
