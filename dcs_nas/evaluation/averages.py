"""Several evaluations in one line: the 20 splits of classic CUHK03, or the same job with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcs_nas.errors import InputError

_SCORES = ("mAP", "mINP", "cmc")


def average(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1) of mAP, mINP and the CMC curve of n evaluations.

    Args:
        reports: what ``RankingResult.to_dict`` gives, with the statistics of the data set under ``data``.

    Raises:
        InputError: fewer than two evaluations, or evaluations of different data sets, protocols or CMC lengths.
    """
    if len(reports) < 2:
        raise InputError(f"{len(reports)} evaluations are given; a mean needs two or more")
    for key, of in (("data set", _data_set), ("protocol", _protocol), ("length of the CMC curve", _length)):
        found = {str(of(report)) for report in reports}
        if len(found) > 1:
            raise InputError(f"evaluations of more than one {key} have no mean; found {' and '.join(sorted(found))}")
    scores = {name: np.array([report[name] for report in reports]) for name in _SCORES}
    return {
        **{name: values.mean(axis=0).tolist() for name, values in scores.items()},
        "standard_deviation": {name: values.std(axis=0, ddof=1).tolist() for name, values in scores.items()},
        "protocol": reports[0]["protocol"],
        "evaluations": [dict(report) for report in reports],
    }


def _data_set(report: Mapping[str, Any]) -> str:
    return ", fingerprint ".join([report["data"]["name"], *filter(None, [report["data"].get("fingerprint", "")[:8]])])


def _protocol(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return report["protocol"]


def _length(report: Mapping[str, Any]) -> int:
    return len(report["cmc"])
