"""Run folders: open, write, list and read them."""

from dcs_nas.runs.contents import EpochRecord, Evaluation, RunContents, flatten, read_metrics
from dcs_nas.runs.folder import RunFolder, find_runs, list_runs
from dcs_nas.runs.log import collect_early_log, log_to
from dcs_nas.runs.opening import open_folder, require_same, resume_if_requeued

__all__ = [
    "EpochRecord",
    "Evaluation",
    "RunContents",
    "RunFolder",
    "collect_early_log",
    "find_runs",
    "flatten",
    "list_runs",
    "log_to",
    "open_folder",
    "read_metrics",
    "require_same",
    "resume_if_requeued",
]
