"""Output of commands: results on standard output; progress bars and log lines on standard error."""

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
    """Return a progress bar, shown from its first step until it is complete or stopped: call it with (done, total)."""
    bar: list[Any] = []

    def update(done: int, total: int) -> None:
        if not (sys.stderr.isatty() and is_first()):
            return
        if not bar:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            bar.append(Progress(*columns, console=Console(stderr=True), transient=True))
            bar[0].add_task(label, total=total)
            bar[0].start()
            _running.append(bar[0])
        if bar[0] not in _running:
            return
        bar[0].update(bar[0].task_ids[0], completed=done)
        if done >= total:
            bar[0].stop()
            _running.remove(bar[0])

    return update


def stop_bars() -> None:
    """Remove the bars that a job has left before their end."""
    while _running:
        _running.pop().stop()


def show_log() -> None:
    """Show the log of dcs_nas above any bar; of the processes other than the first, only errors."""
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
    """A handler that writes to the present ``sys.stderr``, which rich replaces while a bar is drawn."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        pass
