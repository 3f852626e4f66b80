"""``metrics.csv`` as an object of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dcs_nas.runs.folder import RunFolder


class MetricsFile:
    """Appends rows to the ``metrics.csv`` of a run folder."""

    def __init__(self, path: Path, *, first_epoch: int = 0) -> None:
        self._run = RunFolder(path.parent)

    def append(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add a row."""
        self._run.write_metrics(epoch, values)
