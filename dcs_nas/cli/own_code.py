"""The option ``--extension``: Python files of the user's own, for commands that read no configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Extension = Annotated[
    list[Path] | None,
    typer.Option("--extension", metavar="FILE", help="A Python file of your own operations or data sets. Repeatable."),
]


def load(files: list[Path] | None) -> None:
    """Import what the user names; it stands for what a run folder recorded under the same file name."""
    if files:
        from dcs_nas.extensions import load_extensions

        load_extensions(files, given=True)
