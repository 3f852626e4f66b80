"""Run folders: opened, written, listed and read."""

from dcs_nas.runs.contents import EpochRecord, Evaluation, RunContents, flat
from dcs_nas.runs.folder import RunFolder
from dcs_nas.runs.listing import find_runs, list_runs
from dcs_nas.runs.metrics import MetricsFile, read_metrics
from dcs_nas.runs.start import early_log, logging_to

__all__ = [
    "EpochRecord",
    "Evaluation",
    "MetricsFile",
    "RunContents",
    "RunFolder",
    "early_log",
    "find_runs",
    "flat",
    "list_runs",
    "logging_to",
    "read_metrics",
]
