"""Checkpoints: whole or known to be damaged, and then the one before is there."""

from __future__ import annotations

import errno
import logging
import random
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from dcs_nas.config import load_config
from dcs_nas.errors import InputError
from dcs_nas.export.run_model import RunModel
from dcs_nas.runs import read_metrics
from dcs_nas.training.checkpoints import _try_read, is_damaged, load_checkpoint, save_checkpoint, whole_checkpoint
from dcs_nas.training.evaluate import evaluate_run, load_trained
from dcs_nas.training.retrain_job import run_retraining
from tests.run_folders import genotypes
from tests.test_jobs import JOB

pytestmark = pytest.mark.usefixtures("plain_log")


def _trainer(epoch: int) -> Any:
    """As much of a trainer as a checkpoint needs; its state is ``epoch`` in every entry."""
    state = {"state_dict": {"network.weight": torch.full((400, 10), float(epoch))}, "epoch": epoch}
    connector = SimpleNamespace(dump_checkpoint=lambda **_: state)
    strategy = SimpleNamespace(barrier=lambda _: None)
    return SimpleNamespace(_checkpoint_connector=connector, strategy=strategy, is_global_zero=True)


def _saved(folder: Path, epochs: int) -> Path:
    for epoch in range(epochs):
        save_checkpoint(_trainer(epoch), folder / "last.ckpt")
    return folder / "last.ckpt"


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _damage(path: Path) -> None:
    _flip(path, 4 * path.stat().st_size)


def test_a_checkpoint_is_read_by_torch_and_zip(tmp_path: Path) -> None:
    path = _saved(tmp_path, 1)
    assert torch.load(path, weights_only=True)["epoch"] == load_checkpoint(path)["epoch"] == 0
    assert zipfile.ZipFile(path).testzip() is None


def test_a_checkpoint_with_the_checksum_of_earlier_versions_behind_it_is_read(tmp_path: Path) -> None:
    path = _saved(tmp_path, 1)
    comment = b"sha256:" + 64 * b"0"
    path.write_bytes(path.read_bytes()[:-2] + len(comment).to_bytes(2, "little") + comment)
    assert load_checkpoint(path)["epoch"] == 0


def test_the_one_before_is_kept_and_nothing_else_is_left(tmp_path: Path) -> None:
    _saved(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert [load_checkpoint(tmp_path / f"{name}.ckpt")["epoch"] for name in ("last", "previous")] == [2, 1]


def test_a_flip_of_any_bit_is_found_or_harmless(tmp_path: Path) -> None:
    path, draw = _saved(tmp_path, 4), random.Random(0)
    whole = path.read_bytes()
    path = tmp_path / "best.ckpt"
    bits = 8 * len(whole)
    harmless = 0
    for bit in [*draw.sample(range(bits), 200), *range(bits - 8 * 22, bits, 5)]:
        path.write_bytes(whole)
        _flip(path, bit)
        if not is_damaged(path):
            found = load_checkpoint(path)["state_dict"]["network.weight"]
            assert bool((found == 3).all())
            harmless += 1
    assert harmless < 40


def test_a_save_never_keeps_a_damaged_checkpoint_as_the_one_before(tmp_path: Path) -> None:
    """Whatever of it is damaged, also what Python's ZIP reader takes no account of or stumbles over."""
    path = _saved(tmp_path, 2)
    whole, before, draw = path.read_bytes(), path.with_name("previous.ckpt").read_bytes(), random.Random(1)
    bits = 8 * len(whole)
    for bit in [*draw.sample(range(bits), 60), *range(bits - 8 * 400, bits, 41)]:
        path.with_name("previous.ckpt").write_bytes(before)
        path.write_bytes(whole)
        _flip(path, bit)
        damaged = is_damaged(path)
        save_checkpoint(_trainer(2), path)
        assert load_checkpoint(path)["epoch"] == 2
        assert load_checkpoint(path.with_name("previous.ckpt"))["epoch"] == (0 if damaged else 1)


def test_a_file_cut_off_anywhere_is_damaged(tmp_path: Path) -> None:
    path = _saved(tmp_path, 1)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 22, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert is_damaged(path)
        with pytest.raises(InputError, match=r"last\.ckpt is damaged"):
            load_checkpoint(path)


def test_instead_of_a_damaged_last_the_one_before_is_used_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _saved(tmp_path, 3)
    _damage(path)
    with caplog.at_level(logging.WARNING, "dcs_nas"):
        assert load_checkpoint(path)["epoch"] == 1
    word = f"{path} is damaged or was not written by dcs-nas (BadZipFile); using previous.ckpt of epoch 2 instead"
    assert [record.getMessage() for record in caplog.records] == [word]


def test_where_both_are_damaged_one_line_says_so(tmp_path: Path) -> None:
    path = _saved(tmp_path, 2)
    _damage(path)
    path.with_name("previous.ckpt").write_bytes(b"")
    with pytest.raises(InputError) as refused:
        load_checkpoint(path)
    assert str(refused.value) == (
        f"{path} is damaged or was not written by dcs-nas (BadZipFile), and {tmp_path / 'previous.ckpt'} is "
        "damaged or was not written by dcs-nas (EOFError); train again with --overwrite"
    )


def test_a_last_that_is_gone_while_the_one_before_is_there_is_replaced_too(tmp_path: Path) -> None:
    path = _saved(tmp_path, 2)
    path.unlink()
    assert whole_checkpoint(path).name == "previous.ckpt"
    path.with_name("previous.ckpt").unlink()
    with pytest.raises(InputError, match="there is no checkpoint .*the run must finish an epoch first"):
        whole_checkpoint(path)


def test_a_damaged_last_does_not_take_the_place_of_the_whole_one_before(tmp_path: Path) -> None:
    path = _saved(tmp_path, 2)
    _damage(path)
    save_checkpoint(_trainer(7), path)
    assert [load_checkpoint(tmp_path / f"{name}.ckpt")["epoch"] for name in ("last", "previous")] == [7, 0]


def test_other_checkpoints_have_none_before_them_and_are_named_with_a_way_out(tmp_path: Path) -> None:
    save_checkpoint(_trainer(0), tmp_path / "best.ckpt")
    save_checkpoint(_trainer(1), tmp_path / "best.ckpt")
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]
    _damage(tmp_path / "best.ckpt")
    _saved(tmp_path, 2)
    with pytest.raises(InputError, match=r"best\.ckpt is damaged .*; use --checkpoint last, or train again"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_files_of_others_without_a_checksum_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "last.ckpt")
    assert not is_damaged(tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path / "last.ckpt")["state_dict"]["a"].sum() == 2


@pytest.mark.parametrize("links", [True, False])
def test_a_disk_that_fills_up_leaves_both_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    path = _saved(tmp_path, 2)
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", refuse)
        with pytest.raises(OSError, match="No space left") as stopped:
            save_checkpoint(_trainer(2), path)
    assert stopped.value.filename == str(path)
    assert [load_checkpoint(tmp_path / f"{name}.ckpt")["epoch"] for name in ("last", "previous")] == [1, 0]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture(scope="module")
def trained(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration file, and the run folder of an uninterrupted training by it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    job = yaml.safe_load(JOB)
    job["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    job["retrain"] |= {"channels": 4, "cells": 2, "validation": 0.3}
    del job["search"]
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    (folder / "genotype.yaml").write_text(genotypes(1)[0].to_yaml())
    run_retraining(load_config(folder / "job.yaml"), folder / "run", genotype=folder / "genotype.yaml")
    return folder / "job.yaml", folder / "run"


def _same_bits(a: Path, b: Path, name: str = "last") -> bool:
    first, second = (load_checkpoint(run / "checkpoints" / f"{name}.ckpt")["state_dict"] for run in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_finished_training_with_a_damaged_last_is_made_whole_to_the_bit(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    job, whole = trained
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    _damage(run / "checkpoints" / "last.ckpt")
    rows = read_metrics(run / "metrics.csv")
    run_retraining(load_config(job), run, genotype=whole / "genotype.yaml", resume=True)
    assert not is_damaged(run / "checkpoints" / "last.ckpt")
    assert _same_bits(whole, run)
    assert _same_bits(whole, run, "best")
    assert read_metrics(run / "metrics.csv") == rows
    assert "using previous.ckpt of epoch 2" in (run / "log.txt").read_text()


def test_a_checkpoint_is_read_once(trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def spy(path: Path) -> Any:
        read.append(path)
        return _try_read(path)

    monkeypatch.setattr("dcs_nas.training.checkpoints._try_read", spy)
    for use in (evaluate_run, RunModel):
        use(trained[1])
        assert read == [trained[1] / "checkpoints" / "last.ckpt"]
        read.clear()


def test_an_evaluation_says_which_checkpoint_it_is_of(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[1], run)
    _damage(run / "checkpoints" / "last.ckpt")
    assert evaluate_run(run).report["checkpoint"] == "previous"
    assert evaluate_run(run, checkpoint="best").report["checkpoint"] == "best"
    _damage(run / "checkpoints" / "best.ckpt")
    with pytest.raises(InputError, match=r"best\.ckpt is damaged"):
        load_trained(run, checkpoint="best")
