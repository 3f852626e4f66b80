"""Threads that wait for each other sleep soon, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcs_nas.environment import OPENMP_VARIABLES
from dcs_nas.runs import workers
from dcs_nas.runs.workers import ChildProcess

LOADED = "from dcs_nas.environment import *; limit_spinning(); import torch; print(describe_waiting())"
LATE = "import torch; from dcs_nas.environment import *; limit_spinning(); print(describe_waiting())"


def _run(code: str, **own: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in OPENMP_VARIABLES}
    variables = {**clean, "OMP_DISPLAY_ENV": "verbose", **own}
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)


def test_the_library_of_torch_reads_the_limit() -> None:
    done = _run(LOADED)
    assert "GOMP_SPINCOUNT = '2000'" in done.stderr
    assert done.stdout == "GOMP_SPINCOUNT=2000\n"


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_has_set_stays(own: dict[str, str]) -> None:
    (name, value), said = next(iter(own.items())), _run(LOADED, **own)
    assert said.stdout == f"{name}={value}\n"
    assert "GOMP_SPINCOUNT = '2000'" not in said.stderr


def test_nothing_is_said_to_a_library_that_is_loaded() -> None:
    assert _run(LATE).stdout == "waiting as OpenMP sets it\n"


@pytest.mark.parametrize(
    ("allotted", "device", "seen"), [(None, 1, "1"), ("2,3", 1, "3"), ("5", 0, "5"), ("GPU-a,GPU-b", 0, "GPU-a")]
)
def test_a_process_gets_one_of_the_gpus_that_were_allotted(
    allotted: str | None, device: int, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allotted:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allotted)
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    child = ChildProcess([sys.executable, "-c", code], tmp_path / "log.txt", device=device)
    child._process.wait()
    assert (tmp_path / "log.txt").read_text() == f"{seen}\n"


@pytest.mark.parametrize(("processes", "own", "threads"), [(1, "", None), (2, "", 3), (8, "", 1), (2, "5", 5)])
def test_processes_side_by_side_share_the_cores(
    processes: int, own: str, threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    monkeypatch.setattr(workers, "count_cores", lambda: 6)
    code = "import os; print(os.environ.get('OMP_NUM_THREADS'))"
    child = ChildProcess([sys.executable, "-c", code], tmp_path / "log.txt", processes=processes)
    child._process.wait()
    assert (tmp_path / "log.txt").read_text() == f"{threads}\n"
