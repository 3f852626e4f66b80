"""Commands on files: synth, rank, visualize, datasets. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli.console import progress, say, table


def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    train_people: Annotated[int, typer.Option(help="People to train on.")] = 100,
    test_people: Annotated[int, typer.Option(help="Other people, to test on.")] = 60,
    distractor_people: Annotated[int, typer.Option(help="People in the gallery alone.")] = 12,
    junk_images: Annotated[int, typer.Option(help="Gallery images of partial or no bodies.")] = 60,
    cameras: Annotated[int, typer.Option(help="Cameras.")] = 5,
    images_per_camera: Annotated[int, typer.Option(help="Images of a person in each camera passed.")] = 4,
    height: Annotated[int, typer.Option(help="Pixels.")] = 128,
    width: Annotated[int, typer.Option(help="Pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Draw a synthetic pedestrian data set in Market-1501 layout."""
    from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic

    settings = SyntheticSettings(
        train_people=train_people,
        test_people=test_people,
        distractor_people=distractor_people,
        junk_images=junk_images,
        cameras=cameras,
        images_per_camera=images_per_camera,
        height=height,
        width=width,
        seed=seed,
    )
    counts = write_synthetic(out, settings=settings, progress=progress("drawing"))
    table(f"{out} (synthetic, seed {seed})", ["part", "images"], [[k, f"{v:,}"] for k, v in counts.items()])


def rank(
    features: Annotated[Path, typer.Argument(metavar="FEATURES.npz", help="Features, people and cameras.")],
    protocol: Annotated[
        str, typer.Option(help="cross_camera, single_gallery_shot or no_camera_filter.")
    ] = "cross_camera",
    metric: Annotated[str, typer.Option(help="euclidean or cosine.")] = "euclidean",
    rerank: Annotated[bool, typer.Option("--rerank", help="k-reciprocal re-ranking (arXiv 1701.08398).")] = False,
    max_rank: Annotated[int, typer.Option(help="Length of the CMC curve.")] = 50,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write the scores.")] = None,
) -> None:
    """CMC, mAP and mINP of anyone's features.

    The file holds query_features, gallery_features (n, D), query_pids, gallery_pids, query_camids, gallery_camids (n).
    """
    from dcs_nas.cli.jobs import score_table
    from dcs_nas.evaluation import load_features
    from dcs_nas.evaluation.scoring import score
    from dcs_nas.files import write_json
    from dcs_nas.runs import environment

    found = score(load_features(features), protocol=protocol, metric=metric, rerank=rerank, max_rank=max_rank)
    report = {**found.to_dict(), **environment()}
    score_table(report, str(features))
    if json is not None:
        write_json(json, report)
        say(f"scores: {json}")


def visualize(
    genotype: Annotated[
        list[Path], typer.Argument(metavar="GENOTYPE", help="A genotype; a second shows what differs.")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder; by default graphs/ beside the file.")] = None,
    format: Annotated[str, typer.Option(help="Some of svg,png,pdf,dot,graphml.")] = "svg,png",
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
) -> None:
    """Draw the cells of a genotype as graphs, or the difference of two."""
    from dcs_nas.errors import InputError
    from dcs_nas.report.graphs import draw, draw_difference
    from dcs_nas.space import Genotype

    if len(genotype) > 2:
        raise InputError(f"{len(genotype)} genotypes are given; expected one, or two to compare")
    read = [Genotype.read(path) for path in genotype]
    formats = tuple(f.strip() for f in format.split(",") if f.strip())
    folder = out or genotype[0].parent / "graphs"
    if len(read) == 1:
        drawing = draw(read[0], folder, formats=formats, theme=theme)
    else:
        drawing = draw_difference(read[0], read[1], folder, formats=formats, theme=theme)
    if drawing.note:
        say(drawing.note)
    for file in drawing.files:
        print(file)


def datasets(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A data set; without one, all are listed.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Its folder: check it and print its statistics.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("-o", "--set", metavar="KEY=VALUE", help="An option of the loader.")
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Also decode every image.")] = False,
) -> None:
    """The known data sets; check one on disk."""
    from dcs_nas.data.check import check_dataset
    from dcs_nas.data.datasets import DATASETS, describe
    from dcs_nas.errors import InputError
    from dcs_nas.settings import parse_yaml

    if name is None:
        rows = [[known, describe(known).splitlines()[0]] for known in DATASETS]
        table("data sets", ["name", "what it is"], rows, words=True)
        return
    if root is None:
        print(describe(name))
        return
    options = {}
    for item in option or []:
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"option '{item}' is not of the form key=value")
        options[key] = parse_yaml(value, source=f"the value of option '{item}'")
    report = check_dataset(name, root, options=options, images=images, progress=progress("decoding"))
    print("\n".join(report.lines()))
    if not report.ok:
        raise InputError(f"{root} is not fit for training as {name}; see the list above")
