"""Files that options name as outputs: none replaces an input of its command, another output or the record of a run.

The images in a folder that a command takes, and below it, are inputs; those in a run folder are pictures of the run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from dcs_nas.data.datasets.listing import is_image_name
from dcs_nas.errors import InputError
from dcs_nas.runs import RunFolder

_C = TypeVar("_C", bound=Callable[..., None])


OUTPUT = object()
"""Marks, in its annotation, an option that names a file to write."""


def protect_files(command: _C) -> _C:
    """Return the command with a check of its output files before anything else."""
    signature = inspect.signature(command, eval_str=True)
    marked = [p.name for p in signature.parameters.values() if OUTPUT in getattr(p.annotation, "__metadata__", ())]
    if not marked:
        return command

    @functools.wraps(command)
    def check_first(**values: Any) -> None:
        outputs = {name: values[name] for name in marked if values[name] is not None}
        inputs = [path for name, value in values.items() if name not in marked for path in _list_paths(value)]
        for name, path in outputs.items():
            _check(name, path, inputs, [other for key, other in outputs.items() if key != name])
        command(**values)

    return check_first  # type: ignore[return-value]


def _check(name: str, path: Path, inputs: list[Path], rest: list[Path]) -> None:
    option = f"--{name.replace('_', '-')} {path}"
    if any(path.absolute() == other.absolute() for other in rest):
        raise InputError(f"{option} is named for two outputs; expected a file for each: name another")
    if not path.exists():
        return
    if any(_is_within(path, one) for one in inputs):
        raise InputError(f"{option} is an input of this command, which writing would destroy; name another file")
    if path in RunFolder(path.parent).records():
        raise InputError(f"{option} belongs to the run in {path.parent}, which writing would damage; name another file")


def _is_within(path: Path, one: Path) -> bool:
    """Return whether a file is an input: the input itself, or an image in an input folder that is no run's."""
    if path.samefile(one):
        return True
    return is_image_name(path.name) and one.resolve() in path.resolve().parents and not RunFolder(one).is_run()


def _list_paths(value: Any) -> Iterator[Path]:
    """Yield the paths that a value of an option names: itself, in a list, or after the sign of KEY=VALUE."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _list_paths(item)
    elif isinstance(value, str | Path):
        for text in (str(value), str(value).partition("=")[2]):
            if text and "\0" not in text and len(text) < 4096 and Path(text).exists():
                yield Path(text)
