"""A job that SLURM preempts is queued again and goes on to the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from dcs_nas.config import load_config
from dcs_nas.processes import get_job_id
from dcs_nas.runs import resume_if_requeued
from dcs_nas.strategies.job import run_search
from dcs_nas.training.checkpoints import load_checkpoint
from tests.test_jobs import JOB
from tests.test_search_engine import SPACE
from tests.two_processes import start, wait_for


def test_outside_slurm_and_at_its_first_start_a_job_does_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").touch()
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert resume_if_requeued(tmp_path, resume=False, overwrite=True) == (False, True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert resume_if_requeued(tmp_path, resume=False, overwrite=True) == (False, True)


def test_a_job_started_again_goes_on_where_it_had_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert resume_if_requeued(tmp_path, resume=False, overwrite=True) == (False, True)
    (tmp_path / "config.yaml").touch()
    assert resume_if_requeued(tmp_path, resume=False, overwrite=True) == (True, False)


def test_a_task_of_an_array_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert get_job_id() == "5_3"


def test_a_preempted_search_is_queued_again_and_ends_in_the_same_bits(people: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(tmp_path / "cache")}
    data["search"]["space"] = str(tmp_path / "space.yaml")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(data))
    asked = tmp_path / "asked.txt"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{asked}"\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "reid", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    variables = slurm | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    words = ["search", str(tmp_path / "job.yaml"), "--out", str(tmp_path / "a")]
    first = start(words, tmp_path / "first.txt", **variables)
    wait_for(tmp_path / "a" / "checkpoints" / "last.ckpt", first)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGUSR1)
    first.join(120)
    said = (tmp_path / "first.txt").read_text()
    assert first.exitcode == 2, said
    assert "SLURM ends job 7; it is queued again" in said
    assert asked.read_text() == "requeue 7\n"
    second = start(words, tmp_path / "second.txt", **variables, SLURM_RESTART_COUNT="1")
    second.join(240)
    assert second.exitcode == 0, (tmp_path / "second.txt").read_text()
    run_search(load_config(tmp_path / "job.yaml"), tmp_path / "b")
    a, b = (load_checkpoint(tmp_path / n / "checkpoints" / "last.ckpt")["state_dict"] for n in "ab")
    assert all(torch.equal(value, b[key]) for key, value in a.items())
    assert (tmp_path / "a" / "genotype.yaml").read_text() == (tmp_path / "b" / "genotype.yaml").read_text()
