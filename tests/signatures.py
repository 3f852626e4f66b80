"""The public functions as mypy sees them; ``make test`` checks this file, it is never run.

An error that mypy no longer finds is one too: its ``type: ignore`` is unused then.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np

import dcs_nas


def use() -> None:
    run = dcs_nas.search("demo", ["search.epochs=1"])
    trained = dcs_nas.retrain("demo", genotype=run.genotype)
    assert_type(trained.evaluate(flip=True).mAP, float)
    assert_type(trained.features("people"), np.ndarray)
    assert_type(dcs_nas.load("run").features("people"), np.ndarray)
    assert_type(dcs_nas.distances(np.zeros((1, 2)), np.zeros((1, 2)), "cosine"), np.ndarray)
    assert_type(run.genotype.save("a.yaml"), Path)
    dcs_nas.search("demo", epochs=3)  # type: ignore[call-arg]
    dcs_nas.distances(np.zeros((1, 2)), np.zeros((1, 2)), metric="manhattan")  # type: ignore[arg-type]
    run.genotpye  # type: ignore[attr-defined]  # noqa: B018
