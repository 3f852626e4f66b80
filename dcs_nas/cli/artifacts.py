"""``dcs-nas report``, ``visualize`` and ``export``: pages, pictures and models of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli.console import progress, say, table
from dcs_nas.cli.options import Extension, load_extension_files
from dcs_nas.cli.outputs import OUTPUT


def report(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="A run folder, or one that holds runs; several are compared.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="By default report.html, or comparison.html, in the folder."),
        OUTPUT,
    ] = None,
    maps: Annotated[
        int, typer.Option(metavar="N", min=0, max=64, help="Attention maps over N test images, by the trained network.")
    ] = 0,
    ranked: Annotated[
        int, typer.Option(metavar="N", min=0, max=64, help="Evaluate again and draw the N worst and N best queries.")
    ] = 0,
    extension: Extension = None,
) -> None:
    """Write one self-contained HTML page of a run: curves, architecture over the epochs, scores, ranked lists, maps.

    A folder with a search and its training (results/NAME) is shown as one run, other runs side by side.
    """
    from dcs_nas.report.page import Options, write_report

    load_extension_files(extension)
    page = write_report(run, out, options=Options(maps=maps, ranked=ranked), progress=progress)
    for note in page.notes:
        say(note)
    print(page.file)


def visualize(
    genotype: Annotated[
        list[Path],
        typer.Argument(
            metavar="GENOTYPE",
            help="A genotype, or the name of a published one; a second shows what differs. Or a search's folder: all "
            "its epochs.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder; by default graphs/ beside the file.")] = None,
    format: Annotated[
        str, typer.Option(help="Formats among svg,png,pdf,dot,graphml,tikz (LaTeX) and darts (its text).")
    ] = "svg,png",
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
) -> None:
    """Draw the cells or the chain of a genotype as graphs, or the difference of two.

    Of a search's run folder, or the architecture/ in it: a strip of each cell over the epochs, and an animated GIF.
    A genotype may also be the text that DARTS prints, alone, in a log or in a genotypes.py: FILE, FILE:NAME, FILE:LINE.
    """
    from dcs_nas.errors import InputError
    from dcs_nas.report.graphs import draw, draw_difference, draw_history
    from dcs_nas.runs import RunFolder
    from dcs_nas.space import load_genotype

    if len(genotype) > 2:
        raise InputError(f"found {len(genotype)} genotypes; expected one, or two to compare")
    formats = tuple(f.strip() for f in format.split(",") if f.strip())
    first, *rest = genotype
    if first.is_dir() and not rest:
        run = RunFolder(first.parent if first == RunFolder(first.parent).architecture else first)
        drawing = draw_history(first, out or run.graphs, formats=formats, theme=theme)
    elif rest:
        a, b = (load_genotype(path) for path in genotype)
        drawing = draw_difference(a, b, out or RunFolder(first.parent).graphs, formats=formats, theme=theme)
    else:
        drawing = draw(load_genotype(first), out or RunFolder(first.parent).graphs, formats=formats, theme=theme)
    if drawing.note:
        say(drawing.note)
    for file in drawing.files:
        print(file)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a retraining run.")],
    format: Annotated[str, typer.Option(help="Formats among onnx,pt2.")] = "onnx,pt2",
    out: Annotated[Path | None, typer.Option("--out", help="Folder; by default export/ in RUN.")] = None,
    checkpoint: Annotated[str, typer.Option(help="last, or best if identities were held out.")] = "last",
    extension: Extension = None,
) -> None:
    """Write the feature extractor of a trained run as model.onnx and model.pt2.

    Input: uint8 RGB images (batch, 3, height, width), any batch; the graph normalises them itself. Output: features.
    Each file is read back and compared with the trained network before it takes its place.
    """
    from dcs_nas import api

    load_extension_files(extension)
    formats = [name.strip() for name in format.split(",") if name.strip()]
    files, source = api.export(run, formats, out=out, checkpoint=checkpoint)
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
