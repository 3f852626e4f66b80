"""Two processes train what one trains on the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dcs_nas.data.samplers import IdentitySampler
from dcs_nas.errors import InputError
from tests.test_jobs import JOB
from tests.two_processes import run_together

SPACE = """
cells: 2
channels: 4
nodes: 1
reductions: [1]
operations: [none, skip_connect, max_pool_3x3, sep_conv_3x3]
"""


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search without random draws beyond those of its batches."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache"), "images_per_identity": 4}
    data["augment"] = {"pad": 0, "flip": 0, "erase": 0}
    data["loss"] |= {"ib_weight": 0.05, "center_weight": 0.001}
    data["search"] |= {
        "strategy": "bilevel",
        "space": str(folder / "space.yaml"),
        "epochs": 2,
        "lr": 0.01,
        "arch_lr": 0.02,
    }
    data["search"] |= {"relaxation": {"kind": "dirichlet", "anchor": 0.01}, "order": 2, "identity_overlap": 0.5}
    data["search"] |= {"cost": {"kind": "flops", "form": "multiplicative"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


def _alphas(folder: Path, processes: int) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"alphas.{rank}", weights_only=True) for rank in range(processes)]


def _together(job: Path, folder: Path, *, processes: int) -> list[dict[str, torch.Tensor]]:
    folder.mkdir()
    arguments = ["search", str(job), "--out", str(folder / "run")]
    ended = run_together(arguments, folder, processes=processes, PLAIN="1", ALPHAS=str(folder / "alphas"))
    assert not any(ended.codes), ended.said
    return _alphas(folder, processes)


def test_lightnings_two_processes_have_the_same_alphas(job: Path, tmp_path: Path) -> None:
    arguments = ["search", str(job), "--out", str(tmp_path / "run"), "-o", "trainer.devices=2"]
    arguments += ["-o", "search.epochs=1"]
    unset = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    done = subprocess.run(
        [sys.executable, "-m", "tests.two_processes", *arguments],
        env={**environment, "OMP_NUM_THREADS": "1", "ALPHAS": str(tmp_path / "alphas")},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = _alphas(tmp_path, 2)
    assert first.keys() == second.keys()
    assert all(torch.equal(alpha, second[name]) for name, alpha in first.items())
    assert (tmp_path / "run" / "genotype.yaml").is_file()


def test_without_batch_norm_two_processes_find_the_alphas_of_one(job: Path, tmp_path: Path) -> None:
    (alone,) = _together(job, tmp_path / "one", processes=1)
    first, second = _together(job, tmp_path / "two", processes=2)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(alpha, second[name]) for name, alpha in first.items())


def test_processes_share_every_batch_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [person for person in range(12) for _ in range(4)]
    whole = list(IdentitySampler(labels, identities_per_batch=4, images_per_identity=2, seed=0))
    parts = []
    for rank in range(2):
        monkeypatch.setattr("dcs_nas.data.samplers.get_world_size", lambda: 2)
        monkeypatch.setattr("dcs_nas.data.samplers.get_rank", lambda r=rank: r)
        parts.append(list(IdentitySampler(labels, identities_per_batch=4, images_per_identity=2, seed=0)))
    assert [a + b for a, b in zip(*parts)] == whole


def test_a_batch_that_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcs_nas.data.samplers.get_world_size", lambda: 3)
    sampler = IdentitySampler([0, 0, 1, 1, 2, 2, 3, 3], identities_per_batch=4, images_per_identity=2, seed=0)
    with pytest.raises(
        InputError, match="4 identities does not divide among 3 processes; set data.identities_per_batch"
    ):
        next(iter(sampler))
