"""Shared by all tests: one seed, one thread, golden values, a tiny data set."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# The same cases in every run, and no deadline: a busy machine is not a failure.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="session")
def _unsynced() -> Iterator[None]:
    """Skip fsync: temporary folders need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def device() -> torch.device:
    """Where tests with the mark ``device`` compute: DCS_NAS_TEST_DEVICE, by default the CPU."""
    return torch.device(os.environ.get("DCS_NAS_TEST_DEVICE", "cpu"))


@pytest.fixture
def plain_log() -> Iterator[None]:
    """Without the handlers that commands leave on the log, which would keep lines from those that look for them."""
    logger = logging.getLogger("dcs_nas")
    logger.handlers, logger.propagate = [], True
    yield
    logger.handlers, logger.propagate = [], True


@pytest.fixture
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """The arrays of one file of reference values, by name."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set of 8 + 6 people in Market-1501 layout."""
    from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic

    out = tmp_path_factory.mktemp("data") / "people"
    settings = SyntheticSettings(
        train_identities=8, test_identities=6, distractor_identities=1, junk_images=2, cameras=2, width=24, height=48
    )
    write_synthetic(out, settings=settings, workers=1)
    return out


@pytest.fixture(scope="session")
def made_up_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up tables, one for each that the package has."""
    from dcs_nas.space.table import TABLES
    from tests.test_tabular import written

    folder = tmp_path_factory.mktemp("tables")
    for name in TABLES:
        written(folder / f"{name}.csv", name)
    return folder


@pytest.fixture
def tables(made_up_tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up tables in place of the shipped ones, in a folder for runs."""
    shutil.copytree(made_up_tables, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("dcs_nas.space.table._find_shipped", lambda name: tmp_path / f"{name}.csv")
    return tmp_path


@pytest.fixture(scope="session")
def trial_job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A tiny job on cells or on a chain (``space``), by strategy and overrides."""
    from tests.trial_searches import write_trial_job

    return write_trial_job(tmp_path_factory.mktemp("job"), people)
