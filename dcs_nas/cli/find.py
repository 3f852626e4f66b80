"""``dcs-nas extract`` and ``dcs-nas find``: features of any images, and the nearest to one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli.console import progress, say, table
from dcs_nas.cli.options import Extension, Overrides, load_extension_files
from dcs_nas.cli.outputs import OUTPUT
from dcs_nas.cli.tables import list_nearest
from dcs_nas.errors import InputError

Model = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a retraining run, or MODEL.onnx of dcs-nas export.")
]
Checkpoint = Annotated[str, typer.Option(help="last, or best if identities were held out.")]


def extract(
    run: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Folders of images, and image files.")],
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="File of the features."), OUTPUT] = Path("features.npz"),
    override: Overrides = None,
    checkpoint: Checkpoint = "last",
    extension: Extension = None,
) -> None:
    """Write the features of any number of images, with their paths and the metric to compare them by.

    Folders include their subfolders. After an interruption the same command resumes.
    """
    from dcs_nas.evaluation.gallery import require_npz
    from dcs_nas.export.extraction import extract as write
    from dcs_nas.export.extraction import list_image_files
    from dcs_nas.export.run_model import open_model

    load_extension_files(extension)
    require_npz(out)
    paths = list_image_files(images)
    model = open_model(run, checkpoint=checkpoint, overrides=override or [])
    before = write(model, paths, out, progress=progress("features"))
    again = f"; {before:,} were there from an interrupted run" if before else ""
    say(f"{len(paths):,} images, {model.info.features} features each, to be compared by {model.info.metric}{again}")
    print(out)


def find(
    run: Model,
    query: Annotated[Path, typer.Argument(metavar="QUERY", help="An image.")],
    gallery: Annotated[
        Path, typer.Argument(metavar="GALLERY", help="A folder of images, or the FILE.npz of dcs-nas extract.")
    ],
    top: Annotated[int, typer.Option(min=1, max=1000, help="Number of images to find.")] = 10,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="The picture; by default nearest_QUERY.png, here."), OUTPUT
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the list as CSV."), OUTPUT] = None,
    index: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Search FILE.npz by a faiss index in this file, built if it is missing."),
        OUTPUT,
    ] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="With --index: a graph, for millions of images; it may miss some.")
    ] = False,
    override: Overrides = None,
    checkpoint: Checkpoint = "last",
    extension: Extension = None,
) -> None:
    """Find the gallery images nearest to one image; write a list and a picture."""
    from dcs_nas.export.finding import find as search
    from dcs_nas.export.run_model import open_model
    from dcs_nas.files import write_text
    from dcs_nas.report.ranked_pictures import draw_nearest

    load_extension_files(extension)
    picture = out or Path(f"nearest_{query.stem}.png")
    if picture.suffix.lower() != ".png":
        raise InputError(f"--out {picture} should be a picture named *.png")
    if approximate and index is None:
        raise InputError("--approximate is a kind of index; name its file by --index FILE")
    model = open_model(run, checkpoint=checkpoint, overrides=override or [])
    result = search(model, query, gallery, top=top, index=index, approximate=approximate, progress=progress)
    for note in result.notes:
        say(note)
    if not result.images:
        raise InputError(f"{gallery} holds no image but {query} itself; name a folder with others")
    rows = [[str(one.rank), f"{one.distance:.4f}", str(one.path)] for one in result.images]
    table(f"nearest to {query}", ["rank", f"{result.metric} distance", "image"], rows, words=True)
    if csv is not None:
        write_text(csv, list_nearest((query, one.rank, one.path, one.distance) for one in result.images))
        say(f"list: {csv}")
    info = model.info
    draw_nearest(
        picture,
        query,
        [(one.path, one.distance) for one in result.images],
        aspect=info.width / info.height,
        subtitle=f"{result.searched:,} images of {gallery}, {result.metric} distance, {info.network} of {info.run}",
    )
    print(picture)
