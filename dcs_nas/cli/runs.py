"""``dcs-nas runs``: list, compare and delete runs. Loads no torch."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dcs_nas.cli.console import say, table
from dcs_nas.cli.run_facts import RunFacts, find_runs, read_facts, scores_of, settings_of
from dcs_nas.cli.run_index import shown_score, write_index
from dcs_nas.errors import InputError
from dcs_nas.runs.lock import lock_folder, require_free

_UNSET = "-"


class _ListFirst(TyperGroup):
    """Without the name of a command, ``list`` is meant: ``dcs-nas runs results/demo``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ListFirst,
    help="The runs in a folder: dcs-nas runs [DIR] lists them, compare and delete act on some.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
def list_runs(
    root: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path("results"),
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the list as a page, e.g. results/index.html.")
    ] = None,
) -> None:
    """List the runs in a folder and below it, the latest first."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; name the one that holds your runs")
    runs = sorted((read_facts(folder) for folder in find_runs(root)), key=lambda run: run.changed, reverse=True)
    if not runs:
        raise InputError(f"{root} holds no runs; they are folders with config.yaml, such as dcs-nas search makes")
    rows = [
        [
            _name(run, root),
            run.command,
            run.state,
            _when(run.changed),
            run.data,
            _UNSET if run.seed is None else str(run.seed),
            run.progress,
            shown_score(run),
        ]
        for run in runs
    ]
    columns = ["run", "command", "state", "changed", "data", "seed", "epochs", "mAP"]
    table(f"runs in {root}", columns, rows, words=True, whole=3)
    if html is not None:
        write_index(html, root, runs)
        say(f"page: {html}")


def _when(moment: datetime) -> str:
    """A time of this year without the year, as narrow terminals like it."""
    return f"{moment:%m-%d %H:%M}" if moment.year == datetime.now().year else f"{moment:%Y-%m-%d}"


@app.command()
def compare(
    run: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two or more run folders.")],
) -> None:
    """The settings in which runs differ, and their scores side by side."""
    if len(run) < 2:
        raise InputError(f"one run is given, {run[0]}; expected two or more to compare")
    facts = [read_facts(folder) for folder in run]
    columns = ["", *(str(folder) for folder in run)]
    settings = [settings_of(one) for one in facts]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    rows = [[key, *(_text(one.get(key)) for one in settings)] for key in keys]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    head = [
        ["command", *(one.command for one in facts)],
        ["state", *(one.state for one in facts)],
        ["epochs", *(one.progress for one in facts)],
        ["trained on", *(one.data for one in facts)],
    ]
    table("settings that differ" if differing else "no setting differs", columns, [*head, *differing], words=True)
    scores = [scores_of(folder) for folder in run]
    names = [name for name in dict.fromkeys(n for one in scores for n in one) if name != "epoch"]
    if names:
        table("scores", columns, [[name, *(_number(one.get(name)) for one in scores)] for name in names])


@app.command()
def delete(
    run: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete runs with all that is in their folders; asks first, and refuses runs in use."""
    facts = [read_facts(folder) for folder in run]
    for one in facts:
        if one.path.is_symlink():
            raise InputError(f"{one.path} is a link, expected a run folder; name the folder that it leads to")
    if not yes and not sys.stdin.isatty():
        raise InputError(f"deleting {run[0]} needs a yes, and nobody can be asked here; give --yes")
    for one in facts:
        if not yes and not typer.confirm(f"delete {_described(one)}?", err=True):
            say(f"kept: {one.path}")
            continue
        for inner in find_runs(one.path):
            require_free(inner)
        with lock_folder(one.path):
            shutil.rmtree(one.path)
        say(f"deleted: {one.path}")


def _described(run: RunFacts) -> str:
    files = [file for file in run.path.rglob("*") if file.is_file() and not file.is_symlink()]
    size = sum(file.stat().st_size for file in files) / 2**20
    ago = (datetime.now() - run.changed).total_seconds() / 60
    inner = sum(1 for _ in find_runs(run.path)) - 1
    also = f" and {inner} runs in it" if inner else ""
    return (
        f"{run.path} ({run.command}, {run.state}, epochs {run.progress}, last changed {ago:,.0f} min ago{also}; "
        f"{len(files)} files, {size:,.1f} MiB)"
    )


def _name(run: RunFacts, root: Path) -> str:
    return str(run.path if run.path == root else run.path.relative_to(root))


def _text(value: Any) -> str:
    return _UNSET if value is None else str(value)


def _number(value: float | None) -> str:
    return _UNSET if value is None else f"{value:.4f}"
