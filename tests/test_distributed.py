"""Search, retraining and evaluation in two processes: as in one, once, and to the end of all where one ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.distributed import TCPStore

from dcs_nas.cli import main
from dcs_nas.config import Config
from dcs_nas.data.samplers import IdentitySampler, SequentialBatches
from dcs_nas.errors import InputError
from dcs_nas.evaluation import load_features
from dcs_nas.processes import (
    Launch,
    PeerError,
    _Job,
    end_with_parent,
    find_launch,
    in_turn,
    is_first,
    is_first_to_fail,
    require_alone,
    signal_done,
    wait_for,
)
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.devices import count_processes, devices_and_machines, require_consistent
from dcs_nas.training.joint_batch import require_equal
from dcs_nas.training.process_group import process_group
from tests.two_processes import Ended, run_together

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "docs" / "samples"
SPACE = """
cells: 1
channels: 4
nodes: 1
reductions: []
stem: stride2
operations: [none, skip_connect, sep_conv_3x3]
"""
JOB: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"name": "market1501", "height": 32, "width": 16, "identities_per_batch": 4, "images_per_identity": 4},
    "augment": {"pad": 0, "flip": 0, "erase": 0},
    "loss": {"ib_kind": "ibb", "ib_weight": 0.05, "ib_grid": [4, 2]},
    "search": {"strategy": "bilevel", "epochs": 2, "lr": 0.01, "arch_lr": 0.02},
    "retrain": {"epochs": 2, "lr": 0.005, "warmup_epochs": 1, "validation": 0.3, "validate_every": 1},
    "trainer": {"accelerator": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job without random draws beyond those of its batches."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "space.yaml").write_text(SPACE)
    data = {**JOB["data"], "root": str(people), "cache": str(folder / "cache"), "test_batch": 5}
    search = {**JOB["search"], "space": str(folder / "space.yaml")}
    (folder / "job.yaml").write_text(yaml.safe_dump({**JOB, "data": data, "search": search}))
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def alone(job: Path) -> Path:
    """The run folder of a search by one process."""
    return _search(job, "alone", processes=1)


@pytest.fixture(scope="module")
def trained(job: Path, alone: Path) -> Path:
    """The run folder of a retraining by two processes."""
    folder = job.parent / "trained"
    arguments = ["retrain", str(job), "--genotype", str(alone / "genotype.yaml"), "--out", str(folder)]
    _done(run_together(arguments, job.parent, PLAIN="1"))
    return folder


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one of torchrun's."""

    def be(rank: int, world: int, *, here: int | None = None) -> None:
        values = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": here or world}
        for name, value in {**values, "TORCHELASTIC_RUN_ID": "test"}.items():
            monkeypatch.setenv(name, str(value))

    return be


def _search(job: Path, name: str, *, processes: int, resume: bool = False) -> Path:
    folder = job.parent / name
    arguments = ["search", str(job), "--out", str(folder), *(["--resume"] if resume else [])]
    _done(run_together(arguments, job.parent, processes=processes, PLAIN="1"))
    return folder


def _fail(job: Path, name: str, fault: str, *more: str, processes: int = 2) -> Ended:
    arguments = ["search", str(job), "--out", str(job.parent / name), *more]
    ended = run_together(arguments, job.parent, processes=processes, PLAIN="1", FAULT=fault)
    assert all(code != 0 for code in ended.codes), ended
    assert ended.seconds < 50
    return ended


def _done(ended: Ended) -> Ended:
    assert not any(ended.codes), ended.said
    return ended


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]


def _same_to_noise(a: Path, b: Path) -> None:
    torch.testing.assert_close(_state(a), _state(b), rtol=1e-5, atol=1e-5, equal_nan=True)


def test_two_processes_search_as_one_and_write_every_file_once(job: Path, alone: Path) -> None:
    folder = job.parent / "two"
    ended = _done(run_together(["search", str(job), "--out", str(folder)], job.parent, PLAIN="1"))
    _same_to_noise(folder, alone)
    first, second = (yaml.safe_load((f / "genotype.yaml").read_text())["cells"] for f in (folder, alone))
    assert first == second
    log = (folder / "log.txt").read_text()
    assert [log.count(f"epoch {epoch}/2") for epoch in (1, 2)] == [1, 1]
    assert len(list((folder / "tensorboard").glob("events*"))) == 1
    assert [row["epoch"] for row in read_metrics(folder / "metrics.csv")] == [0, 1]
    assert "genotype:" in ended.said[0]
    assert ended.said[1] == ""


def test_tasks_of_srun_search_as_one_process(job: Path, alone: Path) -> None:
    folder = job.parent / "srun"
    ended = _done(run_together(["search", str(job), "--out", str(folder)], job.parent, launcher="srun", PLAIN="1"))
    _same_to_noise(folder, alone)
    assert ended.said[1] == ""


def test_a_killed_process_ends_the_others_and_one_goes_on_from_where_two_were(job: Path, alone: Path) -> None:
    ended = _fail(job, "killed", "1:1:kill")
    assert ended.codes == [1, -9]
    (error,) = ended.errors
    assert re.search(r"process 0 of 2 lost another one of its job, .* \(connection .*resume with --resume", error)
    _search(job, "killed", processes=1, resume=True)
    _same_to_noise(job.parent / "killed", alone)
    assert [row["epoch"] for row in read_metrics(job.parent / "killed" / "metrics.csv")] == [0, 1]


def test_two_processes_go_on_from_where_one_was(job: Path, alone: Path) -> None:
    _fail(job, "grown", "0:1:kill", processes=1)
    _search(job, "grown", processes=2, resume=True)
    _same_to_noise(job.parent / "grown", alone)


def test_a_process_that_fails_ends_the_job_with_its_own_error(job: Path) -> None:
    ended = _fail(job, "raised", "1:1:raise")
    assert ended.codes == [1, 1]
    assert ended.errors == ["dcs-nas, process 1 of 2: the test made this process fail"]


def test_processes_that_drift_apart_are_stopped_before_they_save(job: Path) -> None:
    ended = _fail(job, "drifted", "1:1:drift")
    (error,) = ended.errors
    assert re.search(r"after epoch 2, processes 0 and 1 of 2 differ in \d+ of \d+ tensors, such as network\.", error)
    assert load_checkpoint(job.parent / "drifted" / "checkpoints" / "last.ckpt")["epoch"] == 0


def test_a_process_that_does_not_answer_is_given_up(job: Path) -> None:
    ended = run_together(
        ["search", str(job), "--out", str(job.parent / "hung"), "-o", "trainer.timeout_minutes=0.05"],
        job.parent,
        grace=1,
        PLAIN="1",
        FAULT="1:0:hang",
    )
    assert ended.codes == [1, -9]  # the second sleeps on, until torchrun or this test ends it
    assert "no answer within trainer.timeout_minutes=0.05" in ended.errors[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "JOB", "--out", "ALONE"], r"dcs-nas: .*alone holds a run already; continue it with --resume"),
        (["search", "JOB", "-o", "seerch.epochs=1"], r"dcs-nas: .*seerch"),
        (
            ["search", "JOB", "-o", "data.identities_per_batch=5"],
            r"=5 does not divide among 2 processes; set it to a mul",
        ),
        (["search", "JOB", "-o", "trainer.devices=3"], r"asks for 3 processes on a machine, but torchrun has started"),
        (["search", "JOB", "-o", "search.strategy=random"], r"strategy random runs as one process, but torchrun has"),
        (["report", "ALONE"], r"dcs-nas report runs as one process, but torchrun has started 2; start it without"),
    ],
)
def test_what_is_wrong_for_all_is_said_once(job: Path, alone: Path, arguments: list[str], message: str) -> None:
    given = [{"JOB": str(job), "ALONE": str(alone)}.get(a, a) for a in arguments]
    if arguments[0] == "search" and "--out" not in given:
        given += ["--out", str(job.parent / "never")]
    ended = run_together(given, job.parent)
    assert ended.codes == [1, 1]
    (error,) = ended.errors
    assert re.search(message, error)
    assert not (job.parent / "never").exists()


def test_two_processes_retrain_and_validate_as_one(job: Path, alone: Path, trained: Path) -> None:
    one = job.parent / "trained_alone"
    arguments = ["retrain", str(job), "--genotype", str(alone / "genotype.yaml"), "--out", str(one)]
    _done(run_together(arguments, job.parent, processes=1, PLAIN="1"))
    _same_to_noise(trained, one)
    scores = [[row["validation/mAP"] for row in read_metrics(f / "metrics.csv")] for f in (trained, one)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert (trained / "finished.yaml").read_bytes() == (one / "finished.yaml").read_bytes()


def test_several_processes_evaluate_every_image_once_and_as_one(trained: Path) -> None:
    found = {}
    for processes in (1, 3):
        features, report = trained.parent / f"f{processes}.npz", trained.parent / f"e{processes}.json"
        arguments = ["evaluate", str(trained), "--flip", "--json", str(report), "--save-features", str(features)]
        ended = _done(run_together(arguments, trained.parent, processes=processes))
        assert not any(ended.said[1:])
        found[processes] = (load_features(features), json.loads(report.read_text()))
    one, facts = found[1]
    assert facts["queries"]["used"] == len(one.query_features) == 12
    other, report = found[3]
    assert {k: v for k, v in report.items() if k != "command"} == {k: v for k, v in facts.items() if k != "command"}
    np.testing.assert_array_equal(other.query_features, one.query_features)
    np.testing.assert_array_equal(other.gallery_features, one.gallery_features)
    assert list(other.gallery_paths) == list(one.gallery_paths)


@pytest.mark.parametrize(("count", "world"), [(0, 2), (1, 2), (9, 2), (10, 2), (64, 3), (7, 4)])
def test_shards_of_the_images_are_all_images_once(count: int, world: int) -> None:
    shards = [SequentialBatches(count, size=3, shard=(i, world)) for i in range(world)]
    batches = [list(shard) for shard in shards]
    assert [len(shard) for shard in shards] == [len(found) for found in batches]
    assert sorted(i for found in batches for batch in found for i in batch) == list(range(count))


def test_processes_share_batches_without_overlap_and_order_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat(np.arange(12), 5).tolist()

    def batches(rank: int, world: int, epoch: int) -> list[list[int]]:
        monkeypatch.setattr("dcs_nas.data.samplers.get_world_size", lambda: world)
        monkeypatch.setattr("dcs_nas.data.samplers.get_rank", lambda: rank)
        sampler = IdentitySampler(labels, identities_per_batch=8, images_per_identity=2, seed=0)
        sampler.set_epoch(epoch)
        return list(sampler)

    for epoch in range(3):
        whole = batches(0, 1, epoch)
        for world in (2, 4, 8):
            parts = [batches(rank, world, epoch) for rank in range(world)]
            assert [[i for share in shares for i in share] for shares in zip(*parts)] == whole
            assert all(len({labels[i] for i in share}) == 8 // world for part in parts for share in part)


def test_launchers_are_told_apart(torchrun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_launch() is None
    assert is_first()
    slurm = {"SLURM_STEP_NUM_TASKS": 8, "SLURM_STEP_NUM_NODES": 2, "SLURM_PROCID": 5, "SLURM_LOCALID": 1}
    for name, value in slurm.items():
        monkeypatch.setenv(name, str(value))
    found = find_launch()
    assert found == Launch("srun", world=8, rank=5, local_world=4, local_rank=1)
    assert found.machines == 2
    assert not is_first()
    torchrun(0, 2)
    assert find_launch() == Launch("torchrun", world=2, rank=0, local_world=2, local_rank=0)
    assert is_first()


def test_the_launcher_decides_what_the_settings_leave_open(torchrun: Any) -> None:
    settings = Config.model_validate({"name": "a", "trainer": {"accelerator": "cpu"}}).trainer
    assert devices_and_machines(settings) == (1, 1)
    assert count_processes(settings) == 1
    assert count_processes(settings.model_copy(update={"devices": 3})) == 3
    torchrun(1, 6, here=3)
    assert devices_and_machines(settings) == (3, 2)
    assert count_processes(settings) == 6


@pytest.mark.parametrize(
    ("world", "here", "trainer", "message"),
    [
        (2, 2, {"devices": 4}, "devices=4 asks for 4 processes on a machine, but torchrun has started 2; leave"),
        (2, 1, {"num_nodes": 3}, "num_nodes=3, but torchrun has started 2 processes, 1 on this machine"),
        (3, 2, {}, "has started 3 processes, 2 on this machine; leave trainer.num_nodes out, and start as many"),
        (3, 3, {}, "identities_per_batch=16 does not divide among 3 processes; set it to a multiple of 3"),
    ],
)
def test_settings_against_the_launcher_are_refused(
    torchrun: Any, world: int, here: int, trainer: dict[str, Any], message: str
) -> None:
    torchrun(0, world, here=here)
    config = Config.model_validate({"name": "a", "trainer": {"accelerator": "cpu", **trainer}})
    with pytest.raises(InputError, match=message):
        require_consistent(config, find_launch())


def test_more_processes_than_gpus_are_refused(torchrun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    torchrun(0, 2)
    with pytest.raises(InputError, match="2 processes on this machine, which shows 1 GPUs; start with --nproc-per-nod"):
        require_consistent(Config.model_validate({"name": "a"}), find_launch())


def test_a_run_folder_that_a_machine_does_not_see_is_refused(
    torchrun: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcs_nas.runs.folder._SHARED_SECONDS", 1)
    torchrun(1, 2)
    with (
        pytest.raises(InputError, match="set results to a folder that all machines share"),
        RunFolder.open(tmp_path / "run", Config.model_validate({"name": "a"})),
    ):
        pass


def test_who_waits_for_the_first_gives_up_in_time_and_where_another_has_failed(
    torchrun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _Job()
    job.store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    job.begin(timeout=0)
    monkeypatch.setattr("dcs_nas.processes._job", job)
    torchrun(1, 2)
    signal_done("this")
    wait_for("this")
    with pytest.raises(TimeoutError, match="timed out before that"):
        wait_for("that")
    assert is_first_to_fail()
    with pytest.raises(PeerError, match="another process failed before that"):
        wait_for("that")


def test_processes_of_one_machine_take_turns(torchrun: Any, tmp_path: Path) -> None:
    torchrun(0, 2)
    order: list[str] = []

    def second() -> None:
        with in_turn(tmp_path / "folder" / ".lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    with in_turn(tmp_path / "folder" / ".lock"):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_process_of_lightning_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    parents = iter([1, 1])
    monkeypatch.setattr("dcs_nas.processes.os.getppid", lambda: next(parents, 2))
    monkeypatch.setattr("dcs_nas.processes.os._exit", lambda code: ended.set())
    end_with_parent()
    assert ended.wait(10)


def test_what_lacks_its_launcher_is_refused(torchrun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"name": "a", "trainer": {"accelerator": "cpu", "num_nodes": 2}})
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match=r"num_nodes=2 needs a launcher that knows the machines: torchrun --nnodes=2"):
        require_consistent(config, None)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(InputError, match=r"allotted 4 tasks, but srun did not start this process; write 'srun dcs-nas"):
        require_consistent(config, None)
    torchrun(0, 2)
    with pytest.raises(InputError, match="x runs as one process, but torchrun has started 2; start it without torchr"):
        require_alone("x")


def test_one_process_meets_nobody_and_speaks_for_itself() -> None:
    with process_group(Config.model_validate({"name": "a"})):
        signal_done("something")
        wait_for("anything")
        require_equal({"a": torch.ones(1)}, where="here")
    assert is_first_to_fail()


@pytest.fixture(scope="module")
def machines() -> Iterator[list[list[str]]]:
    """How to run something on each of two machines: network namespaces with a cable between; skipped without rights."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    names = [f"dcs{os.getpid()}a", f"dcs{os.getpid()}b"]
    try:
        try:
            for i, name in enumerate(names):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
                if i:
                    _ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns", name)
            for i, name in enumerate(names):
                _ip("-n", name, "address", "add", f"10.99.0.{i + 1}/24", "dev", "cable")
                _ip("-n", name, "link", "set", "cable", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def test_two_machines_search_as_one_by_the_sample_script(job: Path, alone: Path, machines: list[list[str]]) -> None:
    folder = job.parent / "machines"
    running = []
    for i, on_machine in enumerate(machines):
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SLURM")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PLAIN": "1",
            "MODULE": "tests.two_processes",
            "GLOO_SOCKET_IFNAME": "cable",
        }
        script = [str(SAMPLES / "torchrun_two_nodes.sh"), str(i), "10.99.0.1", "1"]
        command = [*on_machine, "bash", *script, "search", str(job), "--out", str(folder)]
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    _same_to_noise(folder, alone)
    assert "genotype:" in said[0][1]
    assert "epoch" not in said[1][1]


@pytest.mark.parametrize("script", sorted(p.name for p in SAMPLES.glob("*.s*") if p.suffix in (".sh", ".sbatch")))
def test_sample_scripts_are_sound_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(SAMPLES / script)], check=True)


def test_the_samples_command_lines_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (SAMPLES / "slurm_search.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", text, flags=re.M))
    assert options["signal"] == "SIGUSR1@90"
    assert int(options["ntasks-per-node"]) == int(options["gres"].split(":")[-1])
    stub = tmp_path / "srun"
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$STUB"\n')
    stub.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "STUB": str(tmp_path / "said"), "DATA": "/data/people"}
    given: dict[str, Any] = {}
    for resumed in (False, True):
        if resumed:
            run = tmp_path / "results" / "darts" / "search"
            run.mkdir(parents=True)
            (run / "config.yaml").touch()
        subprocess.run(["bash", str(SAMPLES / "slurm_search.sbatch")], cwd=tmp_path, env=environment, check=True)
        said = (tmp_path / "said").read_text().split("\n")[:-1]
        command = said[said.index("dcs-nas") + 1 :]
        assert ("--resume" in command) == resumed
        given.clear()
        monkeypatch.setattr("dcs_nas.strategies.job.run_search", lambda config, folder, **o: given.update(o, c=config))
        monkeypatch.setattr("dcs_nas.cli.train.is_first", lambda: False)
        with pytest.raises(SystemExit) as done:
            main(command)
        assert not done.value.code
        assert given["resume"] == resumed
        assert given["c"].data.root == Path("/data/people")


def test_the_samples_page_names_every_script() -> None:
    page = (SAMPLES / "README.md").read_text()
    for script in ("torchrun_two_nodes.sh", "slurm_search.sbatch"):
        assert f"({script})" in page
