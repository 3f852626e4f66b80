"""Run folders: opened, written, listed and read."""

from dcs_nas.runs.folder import RunFolder
from dcs_nas.runs.metrics import MetricsFile, read_metrics
from dcs_nas.runs.start import early_log, logging_to

__all__ = ["MetricsFile", "RunFolder", "early_log", "logging_to", "read_metrics"]
