"""``dcs-nas weights``: the content of a weights file and the backbones that it fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcs_nas.cli.console import show_log, table
from dcs_nas.cli.options import Extension, load_extension_files, parse_options
from dcs_nas.errors import InputError

if TYPE_CHECKING:
    from dcs_nas.models.weights_survey import Fit

_MOST_NAMES = 20


def weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A weights file of any project.")],
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Report which tensors fit this backbone and which do not.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("-o", "--set", metavar="KEY=VALUE", help="An option of --backbone, e.g. registers=4. Repeatable."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network to load from a file with several, e.g. student.")
    ] = None,
    height: Annotated[int, typer.Option(min=1, max=4096, help="Height of the images, pixels.")] = 256,
    width: Annotated[int, typer.Option(min=1, max=4096, help="Width of the images, pixels.")] = 128,
    extension: Extension = None,
) -> None:
    """Describe a weights file and the registered backbones that it fits; no code in it is run.

    A backbone is listed if retrain.weights would accept the file for it: the first layer, all position embeddings and
    at least nine tenths of its numbers are loaded.
    """
    show_log()
    from dcs_nas.models.weights_survey import fit_backbone, fitting_backbones, read_weights_file
    from dcs_nas.training.checkpoints import weights_file

    load_extension_files(extension)
    if option and backbone is None:
        raise InputError(f"-o {option[0]} is an option of a backbone; name it by --backbone")
    content = read_weights_file(weights_file(file))
    print(f"{file}: {content.describe()}")
    if content.networks:
        print(
            f"several networks: {', '.join(content.networks)}; {content.networks[0]} is loaded, --key chooses another"
        )
    if backbone is not None:
        _report(fit_backbone(content, backbone, height=height, width=width, key=key, options=parse_options(option)))
        return
    fits = fitting_backbones(content, height=height, width=width, key=key)
    for fit in fits:
        print(f"{fit.backbone}{_options(fit)}: {100 * fit.share:.1f} % of its numbers, {_verdict(fit)}")
    if not fits:
        print("fits no registered backbone; dcs-nas weights FILE --backbone NAME says why")


def _verdict(fit: Fit) -> str:
    if fit.problem is not None:
        return "does not fit; --backbone says why"
    assert fit.match is not None
    sizes = [f", {name} interpolated from {size}" for name, size in fit.match.report.interpolated.items()]
    return f"fits{''.join(sizes)}"


def _options(fit: Fit) -> str:
    return f" with {', '.join(f'{name}={value}' for name, value in fit.options.items())}" if fit.options else ""


def _report(fit: Fit) -> None:
    """Print the whole report of one backbone; a file of another kind is an error."""
    if fit.match is None:
        raise InputError(fit.problem or "nothing fits")
    report = fit.match.report
    table(
        f"{fit.backbone}{_options(fit)}: {report.supplied:,} of {report.numbers:,} numbers",
        ["tensors", "number", "such as"],
        [[what, f"{count:,}", names] for what, count, names in report.rows()],
        words=True,
    )
    for name in report.missing[:_MOST_NAMES]:
        print(f"left random: {name}")
    if len(report.missing) > _MOST_NAMES:
        print(f"and {len(report.missing) - _MOST_NAMES} more")
    print(f"does not fit: {fit.problem}" if fit.problem else "fits")
