"""The runs in a folder and below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dcs_nas.errors import InputError
from dcs_nas.runs.contents import RunContents
from dcs_nas.runs.folder import RunFolder

_INSIDE = frozenset({"architecture", "checkpoints", "export", "graphs", "ranked", "tensorboard"})
_DEPTH = 5


def find_runs(root: Path, depth: int = _DEPTH) -> Iterator[RunFolder]:
    """Yield the run folders in and below ``root``, in order of names; links and hidden folders are not followed."""
    run = RunFolder(root)
    if run.is_run():
        yield run
    if depth == 0:
        return
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in _INSIDE:
            yield from find_runs(Path(entry.path), depth - 1)


def list_runs(root: Path) -> list[RunContents]:
    """Return the runs in and below ``root``, the latest first; ``InputError`` where there are none."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; name the one that holds your runs")
    runs = sorted((run.contents() for run in find_runs(root)), key=lambda run: run.changed, reverse=True)
    if not runs:
        raise InputError(f"{root} holds no runs; they are folders with config.yaml, such as dcs-nas search makes")
    return runs
