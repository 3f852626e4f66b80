"""The table ``metrics.csv`` of a run: one row per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcs_nas.files import write_text


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``metrics.csv`` as numbers; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def write_rows(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write rows as a table whose columns are those of any row, in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class MetricsFile:
    """``metrics.csv``: one row per epoch, kept whole across interruptions.

    Rows at or after the epoch that a run resumes from are dropped, since that run writes them again.
    """

    def __init__(self, path: Path, *, first_epoch: int = 0) -> None:
        self.path = path
        self.rows = [r for r in read_metrics(path) if r["epoch"] < first_epoch] if path.is_file() else []

    def append(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add a row."""
        self.rows.append({"epoch": epoch, **values})
        write_rows(self.path, self.rows)
