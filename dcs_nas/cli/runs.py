"""``dcs-nas runs``: list, compare and delete runs, in the terminal or as a page. Loads no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from typer.core import TyperGroup

from dcs_nas.cli.console import say, table
from dcs_nas.cli.examples import epilog
from dcs_nas.cli.outputs import OUTPUT, protect_files
from dcs_nas.errors import InputError
from dcs_nas.files import remove, write_text
from dcs_nas.runs import RunContents, RunFolder, find_runs, flatten, list_runs
from dcs_nas.runs.lock import LOCK, lock_folder, require_unused

_UNSET = "-"
_COLUMNS = ("run", "command", "state", "changed", "data", "seed", "epochs", "mAP")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #8885; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
"""


class _ListFirst(TyperGroup):
    """A group whose default command is ``list``: ``dcs-nas runs results/demo``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ListFirst,
    help="The runs in a folder: dcs-nas runs [DIR] lists them, compare and delete act on some.",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog("runs"),
)


@app.command("list", epilog=epilog("runs list"))
@protect_files
def list_command(
    root: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder to search.")] = Path("results"),
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the list as a page, e.g. results/index.html."),
        OUTPUT,
    ] = None,
) -> None:
    """List the runs in a folder and below it, the latest first."""
    runs = list_runs(root)
    rows = [_row(run, root, _short_time(run.changed)) for run in runs]
    table(f"runs in {root}", list(_COLUMNS), rows, words=True, whole=3)
    if html is not None:
        write_index(html, root, runs)
        say(f"page: {html}")


@app.command(epilog=epilog("runs compare"))
def compare(run: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two or more run folders.")]) -> None:
    """Compare the settings in which runs differ, and their scores."""
    if len(run) < 2:
        raise InputError(f"found one run, {run[0]}; expected two or more to compare")
    runs = [_contents(folder) for folder in run]
    columns = ["", *(str(folder) for folder in run)]
    settings = [flatten(one.config) for one in runs]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    rows = [[key, *(_text(one.get(key)) for one in settings)] for key in keys]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    head = [
        ["command", *(one.kind for one in runs)],
        ["state", *(one.state for one in runs)],
        ["epochs", *(_progress(one) for one in runs)],
        ["trained on", *(one.data_version for one in runs)],
    ]
    table("settings that differ" if differing else "no setting differs", columns, [*head, *differing], words=True)
    scores = [one.scores for one in runs]
    names = [name for name in dict.fromkeys(n for one in scores for n in one) if name != "epoch"]
    if names:
        table("scores", columns, [[name, *(_number(one.get(name)) for one in scores)] for name in names])


@app.command(epilog=epilog("runs delete"))
def delete(
    run: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete runs; asks first, and refuses runs in use. What else lies in their folders stays."""
    runs = [_contents(folder) for folder in run]
    for one in runs:
        if one.path.is_symlink():
            raise InputError(f"{one.path} is a link, expected a run folder; name the folder that it leads to")
    if not yes and not sys.stdin.isatty():
        raise InputError(f"deleting {run[0]} needs confirmation, but standard input is no terminal; give --yes")
    for one in runs:
        if not yes and not typer.confirm(f"delete {_describe(one)}?", err=True):
            say(f"kept: {one.path}")
            continue
        for inner in (one.files, *_inner_runs(one)):
            require_unused(inner.path)
        with lock_folder(one.path):
            for part in one.files.parts():
                remove(part)
            rest = _remove_if_empty(one.path)
        say(f"deleted: {one.path}{rest}")


def _remove_if_empty(folder: Path) -> str:
    """Remove a folder that holds at most a lock; otherwise return words that say what stays in it."""
    rest = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
    if rest:
        return f", except {', '.join(rest[:5])}{', ...' if len(rest) > 5 else ''}, which are not of the run"
    (folder / LOCK).unlink(missing_ok=True)
    folder.rmdir()
    return ""


def write_index(path: Path, root: Path, runs: Sequence[RunContents]) -> None:
    """Write the list as an HTML page with relative links to the files of each run."""
    head = "".join(f"<th>{name}</th>" for name in (*_COLUMNS, "files"))
    rows = "\n".join(_html_row(run, root, path.parent) for run in runs)
    title = escape(f"Runs in {root}")
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n'
        f'<h1>{title}</h1>\n<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>\n</html>\n',
    )


def _row(run: RunContents, root: Path, changed: str) -> list[str]:
    name = str(run.path if run.path == root else run.path.relative_to(root))
    evaluation = run.plainest_evaluation
    score = _UNSET
    if evaluation is not None:
        score = f"{100 * evaluation.scores['mAP']:.2f} %{f' ({evaluation.variant})' if evaluation.variant else ''}"
    return [name, run.kind, run.state, changed, run.data_version, _text(run.seed), _progress(run), score]


def _progress(run: RunContents) -> str:
    return run.progress if run.step == "epoch" else f"{run.progress} {run.step}s"


def _html_row(run: RunContents, root: Path, page: Path) -> str:
    *texts, seed, progress, score = _row(run, root, f"{run.changed:%Y-%m-%d %H:%M}")
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    cells += "".join(f'<td class="number">{escape(text)}</td>' for text in (seed, progress, score))
    here = run.files
    files = (here.report_file, here.evaluation_file(), here.genotype_file, here.config_file, here.log_file)
    targets = {file.name: quote(Path(os.path.relpath(file, page)).as_posix()) for file in files if file.is_file()}
    links = (f'<a href="{escape(target)}">{name}</a>' for name, target in targets.items())
    return f"<tr>{cells}<td>{' '.join(links)}</td></tr>"


def _contents(folder: Path) -> RunContents:
    run = RunFolder(folder)
    if not run.is_run():
        raise InputError(f"{folder} is not a run folder: expected config.yaml and environment.json in it")
    return run.contents()


def _describe(run: RunContents) -> str:
    parts = run.files.parts()
    files = [f for part in parts for f in (part, *part.rglob("*")) if f.is_file() and not f.is_symlink()]
    size = sum(file.stat().st_size for file in files) / 2**20
    ago = (datetime.now() - run.changed).total_seconds() / 60
    inner = len(_inner_runs(run))
    also = f" and {inner} runs in it" if inner else ""
    return (
        f"{run.path} ({run.kind}, {run.state}, {run.step}s {run.progress}, last changed {ago:,.0f} min ago{also}; "
        f"{len(files)} files, {size:,.1f} MiB)"
    )


def _inner_runs(run: RunContents) -> list[RunFolder]:
    """Return the runs that are part of a run, such as the trials of a search."""
    return [inner for part in run.files.parts() if part.is_dir() for inner in find_runs(part)]


def _short_time(moment: datetime) -> str:
    """Format a time; leave out the current year."""
    return f"{moment:%m-%d %H:%M}" if moment.year == datetime.now().year else f"{moment:%Y-%m-%d}"


def _text(value: Any) -> str:
    return _UNSET if value is None else str(value)


def _number(value: float | None) -> str:
    return _UNSET if value is None else f"{value:.4f}"
