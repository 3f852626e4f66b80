"""``dcs-nas report``: one HTML page of a run, or of several side by side. Heavy imports wait for the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli import own_code
from dcs_nas.cli.console import progress, say


def report(
    run: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="A run folder, or one that holds runs; several are compared."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="By default report.html, or comparison.html, in the folder."),
    ] = None,
    maps: Annotated[
        int, typer.Option(metavar="N", min=0, max=64, help="Attention maps over N test images, by the trained network.")
    ] = 0,
    ranked: Annotated[
        int, typer.Option(metavar="N", min=0, max=64, help="Evaluate again and draw the N worst and N best queries.")
    ] = 0,
    extension: own_code.Extension = None,
) -> None:
    """One self-contained HTML page of a run: curves, architecture over the epochs, scores, ranked lists, attention.

    A folder that holds a search and what was trained from it (results/NAME) is shown as one; other runs side by side.
    """
    from dcs_nas.report.page import Options, write_report

    own_code.load(extension)
    page = write_report(run, out, options=Options(maps=maps, ranked=ranked), progress=progress)
    for note in page.notes:
        say(note)
    print(page.file)
