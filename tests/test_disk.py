"""Disks that fill up or are read-only: one line, what was saved stays; nothing is ever written in place."""

from __future__ import annotations

import ast
import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from PIL import Image

from dcs_nas import files
from dcs_nas.cli import main
from dcs_nas.config import load_config
from dcs_nas.data.images import open_image_cache
from dcs_nas.errors import InputError
from dcs_nas.files import LEFTOVER, atomic_folder, describe_os_error, remove_leftovers, write_json, write_text
from dcs_nas.report.page import write_report
from dcs_nas.runs import log_to, read_metrics
from dcs_nas.runs.lock import lock_folder
from dcs_nas.training.checkpoints import is_damaged, load_checkpoint
from dcs_nas.training.evaluate import evaluate_run
from dcs_nas.training.retrain_job import run_retraining
from tests.run_folders import genotypes
from tests.test_jobs import JOB

PACKAGE = Path(files.__file__).parent


pytestmark = pytest.mark.usefixtures("plain_log")


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, list[str]]:
    """The exit code of a command and the lines that it ends with in its own name."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return int(stopped.value.code or 0), [line for line in err.splitlines() if line.startswith("dcs-nas: ")]


def _same_bits(a: Path, b: Path) -> bool:
    first, second = (load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# One file


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])
    for name in ("os.fsync", "pathlib.Path.write_text"):
        with monkeypatch.context() as full:
            full.setattr(name, _full)
            with pytest.raises(OSError, match="No space left on device") as stopped:
                write_json(path, [2])
        assert stopped.value.filename == str(path)
        assert stopped.value.errno == errno.ENOSPC
    assert path.read_text() == "[\n  1\n]\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_file_and_folder_are_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    path = tmp_path / "a.txt"

    def note(descriptor: int) -> None:
        seen.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    write_text(path, "x")
    (file, before), (folder, after) = seen
    assert file.startswith(LEFTOVER)
    assert (before, folder, after) == (False, tmp_path.name, True)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "set") as folder:
            (folder / "a").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    with atomic_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("x")
        assert list((tmp_path / "set").iterdir()) == []
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["a"]
    assert (tmp_path / "set").stat().st_mode & 0o777 == 0o777 & ~files._umask()


def test_what_a_dead_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    dead, locked = tmp_path / f"{LEFTOVER}dead.csv", tmp_path / f"{LEFTOVER}living.csv"
    folder = tmp_path / f"{LEFTOVER}folder"
    folder.mkdir()
    for path in (dead, locked, folder / "a"):
        path.write_text("half")
    with locked.open() as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        write_text(tmp_path / "a.txt", "x")
        assert sorted(p.name for p in tmp_path.iterdir()) == [locked.name, "a.txt"]
    remove_leftovers(tmp_path)
    assert not locked.exists()


def test_without_locks_only_what_is_older_than_a_day_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    new, old = tmp_path / f"{LEFTOVER}new", tmp_path / f"{LEFTOVER}old"
    for path, age in ((new, 1000), (old, 100_000)):
        path.write_text("half")
        os.utime(path, (time.time() - age, time.time() - age))
    write_text(tmp_path / "a.txt", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [new.name, "a.txt"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left on the device; make room there or choose another folder; files saved before"),
        (errno.EROFS, "the file system is read-only; choose another folder or make it writable"),
        (errno.EACCES, "permission is denied; allow it for this user or choose another place"),
        (errno.EFBIG, r"the file is larger than allowed; raise the limit \(ulimit -f\)"),
        (errno.ENOENT, "No such file or directory"),
    ],
)
def test_an_error_of_the_system_is_said_with_its_path_and_a_way_out(number: int, words: str) -> None:
    error = OSError(number, os.strerror(number), "results/a.csv")
    with pytest.raises(AssertionError, match=f"^results/a.csv: {words}"):
        raise AssertionError(describe_os_error(error))
    assert describe_os_error(OSError("encoder error -2")) == "encoder error -2"


def test_a_limit_on_the_size_of_files_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from dcs_nas.cli import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        main(["runs", "list", sys.argv[1], "--html", sys.argv[1] + "/index.html"])
    """
    for i in range(20):
        write_text(tmp_path / f"run{i}" / "config.yaml", "name: x\n")
        write_text(tmp_path / f"run{i}" / "environment.json", "{}\n")
    write_text(tmp_path / "index.html", "before")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    # A coverage measurement cannot write its own file either, and says so.
    (line,) = (said for said in done.stderr.splitlines() if said.startswith("dcs-nas: "))
    assert done.returncode == 1
    assert line.startswith(f"dcs-nas: {tmp_path / 'index.html'}: the file is larger than allowed; raise the limit")
    assert (tmp_path / "index.html").read_text() == "before"
    assert not list(tmp_path.glob(f"{LEFTOVER}*"))


def test_a_log_on_a_full_disk_loses_lines_and_stops_nothing(capsys: pytest.CaptureFixture) -> None:
    with log_to(Path("/dev/full")):
        logging.getLogger("dcs_nas").info("a line")
    assert "Logging error" not in capsys.readouterr().err


def test_a_cache_that_is_cut_off_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (8, 16), "red").save(tmp_path / "a.png")
    (tmp_path / "cache").mkdir()
    for _ in range(2):
        images = open_image_cache(tmp_path, ["a.png"], height=16, width=8, folder=tmp_path / "cache")
        assert images.mean() == 85
        (file,) = (tmp_path / "cache").iterdir()
        os.truncate(file, 100)
    assert "is truncated; decoding its images again" in caplog.text


def test_a_killed_synth_leaves_no_process_and_the_next_clears_up(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "dcs_nas", "synth", str(tmp_path / "people"), "--height", "256", "--width", "128"]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(f"{LEFTOVER}*/*/*.jpg")):
        assert process.poll() is None
        time.sleep(0.02)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(below, timeout=20)[1] == []
    assert [p.name[: len(LEFTOVER)] for p in tmp_path.iterdir()] == [LEFTOVER]
    files._cleaned.clear()
    write_text(tmp_path / "a.txt", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


# Whole jobs


@pytest.fixture(scope="module")
def trained(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with job.yaml, genotype.yaml, and run/, trained without a disturbance."""
    folder = tmp_path_factory.mktemp("disk")
    job = yaml.safe_load(JOB)
    job["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    job["retrain"] |= {"channels": 4, "cells": 2}
    del job["search"]
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    (folder / "genotype.yaml").write_text(genotypes(1)[0].to_yaml())
    run_retraining(load_config(folder / "job.yaml"), folder / "run", genotype=folder / "genotype.yaml")
    return folder


@pytest.fixture
def disk(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """A file system of its own, with room for two and a half checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    size = (trained / "run" / "checkpoints" / "last.ckpt").stat().st_size
    options = f"size={size * 5 // 2 + 40_000}"
    found = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {found.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def test_a_disk_that_fills_up_or_is_read_only_ends_a_training_in_one_line_and_it_resumes(
    trained: Path, disk: Path, capsys: pytest.CaptureFixture
) -> None:
    line = ["retrain", trained / "job.yaml", "--genotype", trained / "genotype.yaml", "--out", disk / "run"]
    folder = disk / "run" / "checkpoints"
    code, said = _run(capsys, *line)
    assert (code, len(said)) == (1, 1)
    assert f"{folder / 'last.ckpt'}: no space is left on the device; make room there" in said[0]
    assert not any(is_damaged(folder / f"{name}.ckpt") for name in ("last", "previous"))
    assert sorted(p.name for p in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    _remount(disk, "ro")
    for arguments in ([*line, "--resume"], ["retrain", *line[1:-1], disk / "other"]):
        code, said = _run(capsys, *arguments)
        assert (code, len(said)) == (1, 1)
        assert f"{disk}/" in said[0]
        assert "the file system is read-only; choose another folder or make it writable" in said[0]
    code, said = _run(capsys, "evaluate", disk / "run")
    assert code == 1
    assert said == [f"dcs-nas: {disk / 'run' / 'evaluation.json'}: {describe_os_error(OSError(errno.EROFS, ''))}"]
    _remount(disk, "rw,size=20m")
    assert _run(capsys, *line, "--resume") == (0, [])
    assert _same_bits(trained / "run", disk / "run")
    assert read_metrics(disk / "run" / "metrics.csv") == read_metrics(trained / "run" / "metrics.csv")


def test_a_checkpoint_that_cannot_be_written_keeps_the_last_good_one(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, saved = load_config(trained / "job.yaml"), []
    real = Path.write_bytes

    def full_at_the_second(path: Path, content: bytes) -> int:
        saved.append(path)
        return _full() if len(saved) == 2 else real(path, content)  # type: ignore[return-value]

    options = {"genotype": trained / "genotype.yaml"}
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", full_at_the_second)
        with pytest.raises(OSError, match=r"No space left on device: '.*/last\.ckpt'"):
            run_retraining(config, tmp_path / "run", **options)
    run_retraining(config, tmp_path / "run", resume=True, **options)
    assert _same_bits(trained / "run", tmp_path / "run")


def test_a_job_refuses_a_folder_in_use_before_it_reads_data_and_readers_go_on(
    trained: Path, capsys: pytest.CaptureFixture
) -> None:
    run = trained / "run"
    with lock_folder(run):
        line = ["retrain", trained / "job.yaml", "--genotype", trained / "genotype.yaml", "--out", run]
        code, said = _run(capsys, *line, "--resume", "-o", "data.root=/nowhere")
        assert (code, len(said)) == (1, 1)
        assert f"{run} is in use by" in said[0]
        assert f"(process {os.getpid()} on " in said[0]
        assert evaluate_run(run).report["checkpoint"] == "last"
        assert write_report([run], run / "page.html").file.is_file()
    with pytest.raises(InputError, match="holds a run already"):
        run_retraining(load_config(trained / "job.yaml"), run, genotype=trained / "genotype.yaml")


# All of the package

_WRITERS = {"write_text", "write_bytes", "save", "savez", "savez_compressed", "savefig", "tofile", "imwrite", "to_csv"}
_ALLOWED = {"a function", "logger.save"}  # write_text of dcs_nas.files; TensorBoard's own files
_TO_STREAMS = {  # they write into memory, and by a method that is atomic, or append
    "export/extraction.py",  # rows are appended before their names; a row without a name is cut off
    "report/charts.py",
    "report/embedded.py",
    "runs/workers.py",
    "runs/lock.py",
    "runs/opening.py",
}


def _writing_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of the calls that write a file: by a method's name, or ``open`` with a mode of writing."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if name in _WRITERS or (name == "open" and any(set(m) <= set("wax+bt") and m != "b" for m in modes)):
            yield node.lineno, "a function" if isinstance(node.func, ast.Name) else ast.unparse(node.func)


def test_every_file_is_written_through_the_module_that_does_it_atomically() -> None:
    places = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        source = path.read_text(encoding="utf-8")
        if module == "files.py" or module in _TO_STREAMS or "with atomic_" in source or "), atomic_" in source:
            continue
        calls = [(line, name) for line, name in _writing_calls(ast.parse(source)) if name not in _ALLOWED]
        places += [f"{module}:{line} {name}" for line, name in calls]
    assert places == []
