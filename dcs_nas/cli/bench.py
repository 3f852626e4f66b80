"""``dcs-nas bench``: the rank of an architecture among all of its space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcs_nas.cli.console import say, table
from dcs_nas.cli.outputs import OUTPUT
from dcs_nas.runs import RunFolder

if TYPE_CHECKING:
    from dcs_nas.space.table import Entry, Table

_SHOWN = 8


def bench(
    target: Annotated[
        list[str] | None,
        typer.Argument(metavar="GENOTYPE_OR_RUN", help="Genotype files, search runs, or texts as a table has them."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="bench_cells or bench_chain; by default the target's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Draw where they stand: .png, .svg or .pdf."), OUTPUT
    ] = None,
) -> None:
    """Rank, regret and distance to the Pareto front of architectures in a tabular benchmark.

    Without a target: the tables, their noise, and their best, median and worst architecture.
    """
    from dcs_nas.errors import InputError
    from dcs_nas.space import load_genotype
    from dcs_nas.space.table import TABLES, Table

    if not target:
        if out is not None:
            raise InputError("--out draws where architectures stand; name at least one genotype or run")
        for each in [name] if name else TABLES:
            _describe(Table.read(each))
        return
    if len(target) > _SHOWN:
        raise InputError(f"{len(target)} architectures are named; expected at most {_SHOWN} at a time")
    lookup = Table.read(name or _find_table(target[0]))
    labels, entries = [_label(text) for text in target], {}
    for label, text in zip(labels, target):
        path = _find_genotype(text)
        entries[label if labels.count(label) == 1 else text] = lookup[text if path is None else load_genotype(path)]
    columns = ["architecture", "mAP", "spread", "rank", "regret", "to the front", "multiply-adds", "parameters"]
    table(f"{lookup.name}: {len(lookup)} architectures, {_format_noise(lookup)}", columns, map(_row, entries.values()))
    if out is not None:
        from dcs_nas.report.charts import draw_standing

        draw_standing(lookup, entries, out)
        print(out)


def _describe(lookup: Table) -> None:
    entries = lookup.entries
    places = {"best": entries[0], "median": entries[len(entries) // 2], "worst": entries[-1]}
    title = f"{lookup.name}: {len(lookup)} architectures{'' if lookup.whole else ' so far'}, {_format_noise(lookup)}"
    rows = [[place, e.architecture, f"{e.score:.2f}", f"{e.multiply_adds:,}"] for place, e in places.items()]
    table(title, ["", "architecture", "mAP", "multiply-adds"], rows)
    if not lookup.whole:
        say(f"{lookup.name} is unfinished: ranks and regrets are among the architectures that are trained")


def _format_noise(lookup: Table) -> str:
    if lookup.noise is None:
        return "noise not measured yet"
    return f"noise {lookup.noise.score:.2f} of a spread of {lookup.noise.between:.2f} points"


def _row(entry: Entry) -> list[str]:
    scores = [f"{entry.score:.2f}", f"{entry.spread:.2f}" if len(entry.trainings) > 1 else "-"]
    distances = [f"{value:.2f}" for value in (entry.regret, entry.front_distance)]
    costs = [f"{value:,}" for value in (entry.multiply_adds, entry.parameters)]
    return [entry.architecture, *scores, str(entry.rank), *distances, *costs]


def _find_table(target: str) -> str:
    """Return the name of the table of a target's space; a text is recognised by the notation of chains."""
    from dcs_nas.errors import InputError
    from dcs_nas.space import load_genotype
    from dcs_nas.space.table import TABLES

    path = _find_genotype(target)
    if path is not None:
        name = load_genotype(path).space.name
        if name not in TABLES:
            raise InputError(f"{path} is of the space {name}, expected one that has a table: {' or '.join(TABLES)}")
        return name
    return "bench_cells" if "~" in target else "bench_chain"


def _find_genotype(target: str) -> Path | None:
    """Return the genotype file of a target, or None for a text such as ``skip_connect~0|sep_conv_3x3~2+dcs``."""
    if "~" in target or "|" in target:
        return None
    path = Path(target)
    return RunFolder(path).genotype_file if path.is_dir() else path


def _label(target: str) -> str:
    path = Path(target)
    in_run = path == RunFolder(path.parent).genotype_file
    return path.parent.name if in_run and path.parent.name else path.name or target
