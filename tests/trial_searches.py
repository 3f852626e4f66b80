"""Searches by trials for tests: on a table, or a tiny job that trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dcs_nas.config import Config, load_config
from dcs_nas.space import find_shipped_file
from tests.test_baselines import JOB
from tests.test_search_engine import SPACE

CHAIN = """
kind: chain
stem: 8
stem_stride: 2
features: 16
stages:
- {blocks: 2, stride: 2, widths: [8, 12], kernels: [3, 5], expansions: [1, 2], skip: true, attention: [none, dcs]}
"""
SMALL = [
    "trials.population=4", "trials.sample=2", "trials.local.start=4", "trials.predictor.start=4",
    "trials.predictor.candidates=20",
]  # fmt: skip
Job = Callable[..., Config]


def on_table(table: str, strategy: str, *overrides: str) -> Config:
    settings = [f"trials.table={table}", f"strategy={strategy}", "trials.trials=16", *SMALL, *overrides]
    return load_config(find_shipped_file("configs", table), [f"search.{setting}" for setting in settings])


def trials_of(folder: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("trials/*/trial.yaml"))]


def write_trial_job(folder: Path, people: Path) -> Job:
    """Write a tiny job on cells or on a chain; return its configuration, by strategy and overrides."""
    (folder / "cells.yaml").write_text(SPACE)
    (folder / "chain.yaml").write_text(CHAIN)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["search"]["space"] = ""
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    small = ["local.start=1", "predictor.start=2", "predictor.candidates=6", "proposals.candidates=5", "sample=1"]

    def config(strategy: str, *overrides: str, space: str = "cells") -> Config:
        own = [f"search.strategy={strategy}", f"search.space={folder / space}.yaml", "search.trials.trials=4"]
        own += [f"search.trials.{setting}" for setting in [*small, "epochs=4"]]
        return load_config(folder / "job.yaml", [*own, *overrides])

    return config
