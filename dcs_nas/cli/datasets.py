"""``dcs-nas synth`` and ``dcs-nas datasets``: make a data set, list the known ones, check one on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli.console import progress, table
from dcs_nas.cli.options import Extension, load_extension_files, parse_options, refuse_options


def synth(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to create.")],
    train_identities: Annotated[int, typer.Option(help="Identities to train on.")] = 100,
    test_identities: Annotated[int, typer.Option(help="Other identities, to test on.")] = 60,
    distractor_identities: Annotated[int, typer.Option(help="Identities only in the gallery.")] = 12,
    junk_images: Annotated[int, typer.Option(help="Gallery images of partial or no bodies.")] = 60,
    cameras: Annotated[int, typer.Option(help="Cameras.")] = 5,
    images_per_camera: Annotated[int, typer.Option(help="Images of an identity in each camera.")] = 4,
    height: Annotated[int, typer.Option(help="Pixels.")] = 128,
    width: Annotated[int, typer.Option(help="Pixels.")] = 64,
    occlusion: Annotated[int, typer.Option(help="Percent of images with an occluded body.")] = 22,
    misalignment: Annotated[int, typer.Option(help="Error of the boxes, in percent of the usual.")] = 100,
    subject: Annotated[str, typer.Option(help="people, or tiles: panels of coloured tiles.")] = "people",
    seed: Annotated[int, typer.Option(help="Random seed; equal seeds write equal bytes.")] = 0,
) -> None:
    """Draw a synthetic pedestrian data set in Market-1501 layout."""
    from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic

    settings = SyntheticSettings(**{name: value for name, value in context.params.items() if name != "out"})
    counts = write_synthetic(out, settings=settings, progress=progress("drawing"))
    table(f"{out} (synthetic, seed {seed})", ["part", "images"], [[k, f"{v:,}"] for k, v in counts.items()])


def datasets(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A data set; without one, all are listed.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the data set: check it and print its statistics.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("-o", "--set", metavar="KEY=VALUE", help="An option of the loader.")
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Also decode every image.")] = False,
    extension: Extension = None,
) -> None:
    """List the known data sets, or check one on disk."""
    from dcs_nas.data.check import check_dataset
    from dcs_nas.data.datasets import DATASETS, describe
    from dcs_nas.errors import InputError

    load_extension_files(extension)
    if root is None:
        refuse_options({"set": option, "images": images or None}, "goes with --root DIR, the folder to check; give it")
    if name is None:
        refuse_options({"root": root}, "goes with the NAME of a data set; give it")
        rows = [[known, describe(known).partition("\n")[0]] for known in DATASETS]
        table("data sets", ["name", "what it is"], rows, words=True)
        return
    if root is None:
        print(describe(name))
        return
    options = parse_options(option)
    report = check_dataset(name, root, options=options, images=images, progress=progress("decoding"))
    print("\n".join(report.lines()))
    if not report.ok:
        raise InputError(f"{root} is not fit for use as {name}; see the list above")
