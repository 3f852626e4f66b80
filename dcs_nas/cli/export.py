"""``dcs-nas export``: a trained run as files that run without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli import own_code
from dcs_nas.cli.console import say, table


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a retraining run.")],
    format: Annotated[str, typer.Option(help="Some of onnx,pt2.")] = "onnx,pt2",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder; by default export/ in RUN.")] = None,
    checkpoint: Annotated[str, typer.Option(help="last, or best where people were held out.")] = "last",
    extension: own_code.Extension = None,
) -> None:
    """Write the feature extractor of a trained run as model.onnx and model.pt2.

    Input: uint8 RGB images (batch, 3, height, width), any batch; the graph normalises them itself. Output: features.
    Each file is read back and compared with the trained network before it takes its place.
    """
    from dcs_nas.deploy.export import export_run

    own_code.load(extension)
    formats = [name.strip() for name in format.split(",") if name.strip()]
    files, source = export_run(run, out or run / "export", formats=formats, checkpoint=checkpoint)
    info = source.info
    for note in source.notes:
        say(note)
    say(f"images {info.height} x {info.width}, {info.features} features, to be compared by {info.metric} distance")
    rows = [
        [f.path.name, f"{f.path.stat().st_size / 2**20:.2f}", f"{f.error:.1e}", f"{f.tolerance:.0e}"] for f in files
    ]
    table(f"{run}, checked on {files[0].images} images", ["file", "MiB", "largest error", "allowed"], rows)
    if files[0].at_a_step:
        worst = max(file.error_at_a_step for file in files)
        say(f"{files[0].at_a_step} images lie at a step of DCS-Attention and are apart: largest error {worst:.1e}")
    for file in files:
        print(file.path)
