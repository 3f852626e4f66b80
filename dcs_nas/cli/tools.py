"""Commands on files: synth, rank, visualize, datasets. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli import onnx_rank, own_code, scores
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
    occlusion: Annotated[int, typer.Option(help="Percent of images with something in front.")] = 22,
    misalignment: Annotated[int, typer.Option(help="How far boxes miss the body, in percent of the usual.")] = 100,
    subject: Annotated[str, typer.Option(help="people, or tiles: panels of coloured tiles.")] = "people",
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
        occlusion=occlusion,
        misalignment=misalignment,
        subject=subject,
        seed=seed,
    )
    counts = write_synthetic(out, settings=settings, progress=progress("drawing"))
    table(f"{out} (synthetic, seed {seed})", ["part", "images"], [[k, f"{v:,}"] for k, v in counts.items()])


def rank(
    features: Annotated[
        Path, typer.Argument(metavar="FILE", help="FEATURES.npz with people and cameras, or MODEL.onnx.")
    ],
    query: onnx_rank.Query = None,
    gallery: onnx_rank.Gallery = None,
    root: onnx_rank.Root = None,
    data: onnx_rank.Data = None,
    data_option: onnx_rank.DataOption = None,
    top: onnx_rank.Top = None,
    protocol: scores.Protocol = None,
    metric: Annotated[
        str | None, typer.Option(help="euclidean or cosine; by default the model's or the file's own, else euclidean.")
    ] = None,
    expand: scores.Expand = None,
    expand_alpha: scores.Alpha = None,
    rerank: scores.Rerank = None,
    k1: scores.K1 = None,
    k2: scores.K2 = None,
    weight: scores.Weight = None,
    trapezoid: scores.Trapezoid = None,
    confidence: scores.Confidence = None,
    max_rank: scores.MaxRank = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write the scores.")] = None,
    csv: scores.Csv = None,
) -> None:
    """CMC, mAP and mINP of anyone's features, across cameras unless another protocol or data set is given.

    A file that dcs-nas evaluate --save-features wrote is scored as it was there; options replace single settings.

    FEATURES.npz holds query_features, gallery_features (n, D), query_pids, gallery_pids, query_camids, gallery_camids
    (n), and may hold query_paths, gallery_paths (n). MODEL.onnx, written by dcs-nas export, makes the features of two
    folders of images named PERSON_cCAMERA..., or of a data set (--root, --data); images of other names, or one image
    (--query), are listed with their nearest by --top.
    """
    from dcs_nas.config import EvaluateConfig
    from dcs_nas.environment import environment
    from dcs_nas.evaluation.configured import changed, score_as_configured, settings_of
    from dcs_nas.files import write_json

    given = scores.changes(
        protocol=protocol,
        metric=metric,
        expand=expand,
        alpha=expand_alpha,
        rerank=rerank,
        k1=k1,
        k2=k2,
        weight=weight,
        trapezoid=trapezoid,
        confidence=confidence,
        max_rank=max_rank,
    )
    if features.suffix.lower() == ".onnx":
        changed(EvaluateConfig(), given)  # before all images are computed with
    top = onnx_rank.list_length(query, top)
    if top is not None:
        onnx_rank.refuse(
            top, protocol=protocol, trapezoid=trapezoid, confidence=confidence, max_rank=max_rank, json=json
        )
    options = scores.parse_options(data_option or [])
    read, own_metric, protocol = onnx_rank.read(
        features, query, gallery, root, data=data, options=options, labelled=top is None
    )
    settings = changed(settings_of(read, metric=own_metric), given)
    if top is not None:
        onnx_rank.write_nearest(read, settings, top, csv)
        return
    found = score_as_configured(read, settings, protocol=protocol)
    facts = (read.evaluated or {}).get("facts") or {}
    report = {**facts, **found.report(), **environment()}
    scores.score_table(report, str(features))
    if json is not None:
        write_json(json, report)
        say(f"scores: {json}")
    if csv is not None:
        scores.write_query_csv(csv, found.result, None if read.query_paths is None else read.query_paths.tolist())


def visualize(
    genotype: Annotated[
        list[Path],
        typer.Argument(
            metavar="GENOTYPE", help="A genotype; a second shows what differs. Or a search's folder: all its epochs."
        ),
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder; by default graphs/ beside the file.")] = None,
    format: Annotated[str, typer.Option(help="Some of svg,png,pdf,dot,graphml, and darts: its text.")] = "svg,png",
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
) -> None:
    """Draw the cells or the chain of a genotype as graphs, or the difference of two.

    Of a search's run folder, or the architecture/ in it: a strip of each cell over the epochs, and an animated GIF.
    A genotype may also be the text that DARTS prints, alone, in a log or in a genotypes.py: FILE, FILE:NAME, FILE:LINE.
    """
    from dcs_nas.errors import InputError
    from dcs_nas.report.graphs import draw, draw_difference
    from dcs_nas.report.history import draw_history
    from dcs_nas.space import load_genotype

    if len(genotype) > 2:
        raise InputError(f"{len(genotype)} genotypes are given; expected one, or two to compare")
    formats = tuple(f.strip() for f in format.split(",") if f.strip())
    first, *others = genotype
    if first.is_dir() and not others:
        run = first.parent if first.name == "architecture" else first
        drawing = draw_history(first, out or run / "graphs", formats=formats, theme=theme)
    elif others:
        a, b = (load_genotype(path) for path in genotype)
        drawing = draw_difference(a, b, out or first.parent / "graphs", formats=formats, theme=theme)
    else:
        drawing = draw(load_genotype(first), out or first.parent / "graphs", formats=formats, theme=theme)
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
    extension: own_code.Extension = None,
) -> None:
    """The known data sets; check one on disk."""
    from dcs_nas.data.check import check_dataset
    from dcs_nas.data.datasets import DATASETS, describe
    from dcs_nas.errors import InputError

    own_code.load(extension)
    if name is None:
        rows = [[known, describe(known).splitlines()[0]] for known in DATASETS]
        table("data sets", ["name", "what it is"], rows, words=True)
        return
    if root is None:
        print(describe(name))
        return
    options = scores.parse_options(option or [])
    report = check_dataset(name, root, options=options, images=images, progress=progress("decoding"))
    print("\n".join(report.lines()))
    if not report.ok:
        raise InputError(f"{root} is not fit for use as {name}; see the list above")
