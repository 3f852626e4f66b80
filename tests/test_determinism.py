"""The same seed gives the same bits: in another process, under other hash seeds, with other numbers of workers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader

from dcs_nas.config import Config, load_config
from dcs_nas.data.augment import build_augment
from dcs_nas.data.datamodule import Batch, Images, ReidData
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.seeds import seed_everything
from dcs_nas.strategies.job import run_search
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.retrain_job import run_retraining
from dcs_nas.training.trainer import make_trainer

SPACE = """
cells: 2
channels: 4
nodes: 1
reductions: [1]
stem: stride2
operations: [none, skip_connect, max_pool_3x3, sep_conv_3x3, dcs]
attention: [none, dcs, harmonious]
"""
JOB = """
name: same
seed: 5
data: {name: market1501, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 4}
augment: {pad: 2, color_jitter: 0.5}
loss: {ib_kind: ibb, ib_weight: 0.1, ib_grid: [4, 2], ib_temperature: auto}
search: {strategy: bilevel, epochs: 2, arch_lr: 0.1, validation: 0.25}
retrain: {epochs: 1, warmup_epochs: 0}
trainer: {accelerator: cpu, threads: 1}
"""
COMMANDS = """
import sys

from dcs_nas.cli import _run

job, search, retrain = sys.argv[1:]
sys.exit(
    _run(["search", job, "--out", search], True)
    or _run(["retrain", job, "--genotype", f"{search}/genotype.yaml", "--out", retrain], True)
)
"""


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file beside its space."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["search"]["space"] = str(folder / "space.yaml")
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


def _digests(run: Path) -> dict[str, str]:
    """SHA-256 of all that a run computed: the tensors of its last checkpoint, genotype, alphas, means but the times."""
    tensors = load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    contents = {name: value.contiguous().numpy().tobytes() for name, value in tensors.items()}
    files = [run / "genotype.yaml", *sorted((run / "architecture").glob("*.yaml"))]
    contents |= {str(file.relative_to(run)): file.read_bytes() for file in files}
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(run / "metrics.csv")]
    contents["metrics"] = repr(rows).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def test_another_process_with_another_hash_seed_gives_the_same_bits(job: Path, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    other = {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    line = [sys.executable, "-c", COMMANDS, str(job), str(there / "search"), str(there / "retrain")]
    done = subprocess.run(line, env={**os.environ, **other}, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    run_search(load_config(job), here / "search")
    run_retraining(load_config(job), here / "retrain", genotype=here / "search" / "genotype.yaml")
    for name in ("search", "retrain"):
        expected, found = _digests(there / name), _digests(here / name)
        assert len(expected) > 30
        assert [key for key in expected | found if expected.get(key) != found.get(key)] == []


def test_batches_and_their_augmentation_do_not_depend_on_the_number_of_loader_workers(job: Path) -> None:
    config = load_config(job)
    data = ReidData(config)
    loader = data.make_identity_loader(data.train(), stream=0)
    expected = list(_augmented(loader, config))
    assert len(expected) > 1
    for workers in (1, 2):
        assert loader.sampler is not None
        other = DataLoader(loader.dataset, sampler=loader.sampler, batch_size=None, num_workers=workers)
        for ours, theirs in zip(expected, _augmented(other, config), strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)


def _augmented(loader: DataLoader, config: Config) -> Iterator[Batch]:
    """Two epochs of batches, augmented as a step does it."""
    augment = build_augment(config)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for step, batch in enumerate(loader):
            seed_everything(config.seed, epoch, step, 0)
            yield {**batch, "augmented": augment(batch["images"])}


def test_decoded_images_do_not_depend_on_the_number_of_threads(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for threads in (1, 5):
        monkeypatch.setattr("dcs_nas.data.images.count_cores", lambda threads=threads: threads)
        images: Images = ReidData(load_config(job, [f"data.cache={tmp_path / str(threads)}"])).train()
        found.append(hashlib.sha256(images.pixels[:].tobytes()).hexdigest())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("accelerator", "asked", "expected"),
    [("cpu", None, True), ("cpu", False, False), ("auto", None, False), ("auto", True, True), ("gpu", None, False)],
)
def test_deterministic_algorithms_are_the_default_on_a_cpu_and_asked_for_on_a_gpu(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerator: str, asked: bool | None, expected: bool
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(pl, "Trainer", lambda **options: given.update(options))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    changes = [f"trainer.accelerator={accelerator}", "trainer.devices=1"]
    changes += [] if asked is None else [f"trainer.deterministic={str(asked).lower()}"]
    config = load_config(job, changes)
    make_trainer(config, RunFolder(tmp_path), epochs=1)
    assert given["deterministic"] is expected
