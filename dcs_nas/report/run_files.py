"""The runs that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcs_nas.errors import InputError
from dcs_nas.runs import EpochRecord as Epoch
from dcs_nas.runs import Evaluation as Evaluated
from dcs_nas.runs import RunContents as RunFiles
from dcs_nas.runs import RunFolder
from dcs_nas.settings import read_yaml

__all__ = ["Epoch", "Evaluated", "RunFiles", "find_runs", "labels", "read_run"]


def find_runs(path: Path) -> list[Path]:
    """Return the run folders that ``path`` stands for: itself, or those in it, searches first.

    Raises:
        InputError: there is no such folder, or no run in it.
    """
    if not path.is_dir():
        raise InputError(f"there is no folder {path}; name the folder of a run, such as results/NAME/search")
    if RunFolder(path).config_file.is_file():
        return [path]
    found = [run for p in path.iterdir() if (run := RunFolder(p)).config_file.is_file()]
    if not found:
        raise InputError(
            f"{path} holds no run: neither it nor a folder in it has a config.yaml; name results/NAME, "
            "or the folder that dcs-nas search or retrain wrote"
        )
    return [run.path for run in sorted(found, key=lambda run: (not run.contents().searched, run.path.name))]


def read_run(path: Path) -> RunFiles:
    """All of a run folder that a report shows; ``InputError`` where its ``config.yaml`` is missing or damaged."""
    run = RunFolder(path.resolve())
    read_yaml(run.config_file)
    return run.contents().read_all()


def labels(runs: Sequence[RunFiles]) -> list[str]:
    """A name for each run, different for each: the folder's, behind as many folders as that takes."""
    for depth in range(2, 12):
        names = ["/".join(run.path.parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]
