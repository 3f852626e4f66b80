"""``results/index.html``: the list of runs as a page that works from disk, with links to what each run holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from dcs_nas.cli.run_facts import RunFacts
from dcs_nas.files import write_text

_LINKS = ("report.html", "evaluation.json", "genotype.yaml", "config.yaml", "log.txt")
_COLUMNS = ("run", "command", "state", "changed", "data", "seed", "epochs", "mAP", "files")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #8885; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
"""


def write_index(path: Path, root: Path, runs: Sequence[RunFacts]) -> None:
    """Write the page; its links are relative to it."""
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    rows = "\n".join(_row(run, root, path.parent) for run in runs)
    title = escape(f"Runs in {root}")
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n'
        f'<h1>{title}</h1>\n<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>\n</html>\n',
    )


def _row(run: RunFacts, root: Path, page: Path) -> str:
    texts = [str(run.path.relative_to(root)), run.command, run.state, f"{run.changed:%Y-%m-%d %H:%M}", run.data]
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    numbers = ["-" if run.seed is None else str(run.seed), run.progress, shown_score(run)]
    cells += "".join(f'<td class="number">{escape(text)}</td>' for text in numbers)
    links = (f'<a href="{_link(run.path / name, page)}">{name}</a>' for name in _LINKS if (run.path / name).is_file())
    return f"<tr>{cells}<td>{' '.join(links)}</td></tr>"


def shown_score(run: RunFacts) -> str:
    """The mAP in percent, with the evaluation that it is of where that is not the plain one."""
    if run.mAP is None:
        return "-"
    return f"{100 * run.mAP:.2f} %{f' ({run.mAP_of})' if run.mAP_of else ''}"


def _link(file: Path, page: Path) -> str:
    return escape(quote(Path(os.path.relpath(file, page)).as_posix()), quote=True)
