"""What commands show: progress bars, tables, log lines. All but results goes to standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dcs_nas.processes import is_first

_running: list[Any] = []
_SHORT = 16  # characters


def say(text: str) -> None:
    """Write a line to standard error, in the first process only."""
    if is_first():
        print(text, file=sys.stderr, flush=True)


def progress(label: str) -> Callable[[int, int], None]:
    """Return a progress bar, shown from its first step to its last: call it with (done, total)."""
    bar: list[Any] = []

    def update(done: int, total: int) -> None:
        if not (sys.stderr.isatty() and is_first()):
            return
        if not bar:
            bar.extend(_start(label, total))
        bar[0].update(bar[1], completed=done)
        if done >= total:
            bar[0].stop()
            _running.remove(bar[0])

    return update


def stop_bars() -> None:
    """Take down whatever bars an error has left."""
    while _running:
        _running.pop().stop()


def show_log() -> None:
    """Show what dcs_nas logs, a line for every epoch, above any bar; of several processes all of the first's."""
    handler = _AboveBars()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO if is_first() else logging.ERROR)
    logger = logging.getLogger("dcs_nas")
    logger.handlers = [h for h in logger.handlers if not isinstance(h, logging.StreamHandler)] + [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False, whole: int = 0
) -> None:
    """Print a table on standard output; numbers are right-aligned, ``words`` left-aligned.

    A narrow terminal folds cells, except short ones of the first ``whole`` columns.
    """
    if not is_first():
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [[str(cell) for cell in row] for row in rows]
    drawn = Table(title=Text(title), title_justify="left")
    for i, column in enumerate(columns):
        kept = i < whole and all(len(row[i]) <= _SHORT for row in rows)
        drawn.add_column(column, justify="left" if i == 0 or words else "right", overflow="fold", no_wrap=kept)
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console().print(drawn)


class _AboveBars(logging.StreamHandler):
    """Lines to what is standard error when they come: while a bar is drawn, that is a stand-in which keeps it below."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        pass


def _start(label: str, total: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    _running.append(bar)
    return bar, bar.add_task(label, total=total)
