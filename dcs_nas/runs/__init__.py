"""Run folders: opened, written, listed and read."""

from dcs_nas.runs.contents import EpochRecord, Evaluation, RunContents, flat, read_metrics
from dcs_nas.runs.folder import RunFolder, find_runs, list_runs
from dcs_nas.runs.log import early_log, logging_to
from dcs_nas.runs.opening import open_folder, require_same, resume_if_requeued

__all__ = [
    "EpochRecord",
    "Evaluation",
    "RunContents",
    "RunFolder",
    "early_log",
    "find_runs",
    "flat",
    "list_runs",
    "logging_to",
    "open_folder",
    "read_metrics",
    "require_same",
    "resume_if_requeued",
]
