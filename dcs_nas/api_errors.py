"""Error lines for those who call the commands from Python: options are named as arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from dcs_nas.errors import InputError

_FLAGS = ("resume", "overwrite", "rerank", "flip", "approximate")
_ARGUMENTS = {"data": "data_name", "data-option": "data_options", "extension": "load_extensions"}
_OPTION = re.compile(
    r"(?P<command>dcs-nas [^;]*)|(?<![\w-])--(?P<name>[a-z][a-z0-9-]*)(?P<value>[ =](?:[A-Z]{1,9}|\d+|last)\b)?"
)
_SETTING = re.compile(r"(?<![\w-])-o (?P<item>[a-z_.]+=\S*[^\s;,.)])")


class ApiError(InputError):
    """An error line that names arguments; ``shell`` is the line that names the command's options."""

    def __init__(self, message: str, *, shell: str) -> None:
        super().__init__(message)
        self.shell = shell


@contextmanager
def translate_errors() -> Iterator[None]:
    """Name arguments of Python in place of options in the error lines of a block or a decorated function."""
    try:
        yield
    except ApiError:
        raise
    except InputError as error:
        raise ApiError(name_arguments(str(error)), shell=str(error)) from error


def name_arguments(line: str) -> str:
    """Return an error line with ``--option VALUE`` as ``option=VALUE``; whole ``dcs-nas`` commands stay.

    >>> name_arguments("it holds a run already; continue it with --resume or replace it with --overwrite")
    'it holds a run already; continue it with resume=True or replace it with overwrite=True'
    >>> name_arguments("--data duke needs --root, its folder; -o data.root=/d")
    "data_name duke needs root, its folder; overrides=['data.root=/d']"
    """

    def argument(match: re.Match[str]) -> str:
        if match["command"]:
            return f"{match['command']} (in a shell)"
        name = _ARGUMENTS.get(match["name"], match["name"].replace("-", "_"))
        if match["name"] in _FLAGS:
            return f"{name}=True{match['value'] or ''}"
        value = (match["value"] or "")[1:]
        return name if not value else f'{name}="{value}"' if value == "last" else f"{name}={value}"

    return _SETTING.sub(r"overrides=['\g<item>']", _OPTION.sub(argument, line))
