"""Searches in a row in one process leave nothing behind: no file, thread, process, network or memory map."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from torch import nn

from dcs_nas.config import load_config
from dcs_nas.errors import TrainingError
from dcs_nas.strategies.job import run_search

SPACE = {
    "cells": 2,
    "channels": 4,
    "nodes": 1,
    "reductions": [1],
    "operations": ["none", "skip_connect", "sep_conv_3x3", "dcs"],
    "attention": ["none", "dcs"],
}
SEARCHES, WARM = 4, 1
_PROC = Path("/proc/self")


class Held(NamedTuple):
    """What this process holds."""

    files: list[str]
    maps: int
    threads: int
    children: int
    handlers: int
    networks: int
    tensors: int


def _held() -> Held:
    gc.collect()
    alive = gc.get_objects()
    return Held(
        files=sorted(_target(entry) for entry in (_PROC / "fd").iterdir()),
        maps=(_PROC / "maps").read_text().count(".uint8"),
        threads=threading.active_count(),
        children=sum(len(task.read_text().split()) for task in (_PROC / "task").glob("*/children")),
        handlers=len(logging.getLogger("dcs_nas").handlers),
        networks=sum(issubclass(type(x), nn.Module) for x in alive),
        tensors=sum(issubclass(type(x), torch.Tensor) for x in alive),
    )


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:  # the listing's own
        return ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_searches_in_a_row_leave_nothing_behind_and_neither_do_those_that_fail(people: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    job = {
        "name": "row",
        "data": {"name": "market1501", "root": str(people), "height": 32, "width": 16, "identities_per_batch": 4},
        "loss": {"ib_kind": "ibb", "ib_weight": 0.1, "ib_temperature": "auto"},
        "search": {"strategy": "bilevel", "space": str(tmp_path / "space.yaml"), "epochs": 1},
        "trainer": {"accelerator": "cpu", "threads": 1},
    }
    job["data"] |= {"images_per_identity": 4, "cache": str(tmp_path / "cache")}  # type: ignore[operator]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    before, after = _held(), []
    for seed in range(SEARCHES):
        run_search(load_config(tmp_path / "job.yaml", [f"seed={seed}"]), tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        after.append(_held())
    assert after[-1] == after[WARM]
    assert after[-1][:5] == before[:5]
    _fail(tmp_path / "job.yaml", tmp_path / "failed")
    assert _held()[:5] == before[:5]


def _fail(job: Path, run: Path) -> None:
    with pytest.raises(TrainingError):
        run_search(load_config(job, ["search.lr=1e30", "search.grad_clip=1e30", "search.epochs=2"]), run)
