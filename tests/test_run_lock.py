"""One process at a time on a run folder: who holds it is shown, and what a dead process held is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dcs_nas.cli import main
from dcs_nas.config import Config, DataConfig
from dcs_nas.errors import InputError
from dcs_nas.files import write_json
from dcs_nas.runs import RunFolder
from dcs_nas.runs import folder as runs
from dcs_nas.runs.lock import LOCK, lock_folder, require_free
from dcs_nas.settings import make_paths_absolute
from tests.run_folders import start_run

HOLD = """
import sys
from pathlib import Path
from dcs_nas.runs.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


pytestmark = pytest.mark.usefixtures("plain_log")


def _config(**changes: object) -> Config:
    return Config(name="locked", data=DataConfig(name="market1501"), **changes)


@contextmanager
def _holder(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of ``folder`` until it is killed."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _sign(folder: Path, **changes: object) -> None:
    """A lock file that a process of this machine has left, one that is dead unless ``pid`` is given."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    record = {"pid": ended.pid, "host": socket.gethostname(), "command": "dcs-nas search demo", "since": "2026-01-02"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCK).write_text(json.dumps({**record, **changes}))


def test_a_second_process_is_refused_in_one_line_that_names_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = start_run(tmp_path / "run", _config()).path
    with _holder(run) as holder:
        with pytest.raises(SystemExit) as stopped:
            main(["runs", "delete", str(run), "--yes"])
        (line,) = capsys.readouterr().err.splitlines()
        with pytest.raises(InputError) as refused:
            RunFolder.require_free(run)
    assert stopped.value.code == 1
    assert line == f"dcs-nas: {refused.value}"
    owner = f"-c {run} (process {holder.pid} on {socket.gethostname()}, since 2"
    assert f"{run} is in use by {owner}" in line
    assert line.endswith("; wait for it or end it first")


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_neither_resuming_nor_overwriting_enters_a_run_in_use(tmp_path: Path, options: dict[str, bool]) -> None:
    run = start_run(tmp_path / "run", _config())
    with _holder(run.path), pytest.raises(InputError, match="is in use by"):
        start_run(run.path, _config(), **options)
    assert run.config() == make_paths_absolute(_config())


def test_a_lock_whose_owner_was_killed_is_taken_over_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = start_run(tmp_path / "run", _config())
    with _holder(run.path) as holder:
        pass
    with RunFolder.open(run.path, _config(), resume=True):
        owner = json.loads((run / LOCK).read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    word = f"is taken over from -c {run.path} (process {holder.pid} on"
    assert word in (run / "log.txt").read_text()
    assert word in caplog.text


def test_a_lock_is_let_go_at_the_end_and_after_an_error(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", _config())
    with pytest.raises(RuntimeError), RunFolder.open(run.path, _config(), resume=True):
        raise RuntimeError
    assert (run / LOCK).read_text() == ""
    require_free(run.path)
    start_run(run.path, _config(), resume=True)
    assert not (run / "log.txt").exists()


def test_what_outlives_an_owner_keeps_the_lock_and_is_said_to(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        child = subprocess.Popen(["sleep", "60"], pass_fds=[file.fileno()])
    _sign(tmp_path)
    words = r"in use by child processes of dcs-nas search demo \(process \d+ .*\), which has ended"
    with pytest.raises(InputError, match=words), lock_folder(tmp_path):
        pass
    child.kill()
    child.wait()
    with lock_folder(tmp_path):
        pass


def test_where_there_are_no_locks_a_word_is_said_and_a_living_owner_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    run = start_run(tmp_path / "run", _config())
    assert (
        "has no locks (No locks available): make sure that no other process works on it"
        in (run / "log.txt").read_text()
    )
    _sign(run.path, pid=os.getppid())
    with pytest.raises(InputError, match=rf"in use by dcs-nas search demo \(process {os.getppid()} on"):
        start_run(run.path, _config(), resume=True)
    _sign(run.path)
    with lock_folder(run.path) as notes:
        assert len(notes) == 2
        assert "is taken over from dcs-nas search demo" in notes[0]


def test_an_owner_on_another_machine_is_named_when_its_free_lock_is_taken_over(tmp_path: Path) -> None:
    _sign(tmp_path, host="elsewhere", pid=os.getpid())
    with lock_folder(tmp_path) as notes:
        assert "on elsewhere, since 2026-01-02), which ended without releasing it" in notes[0]


def test_of_several_processes_only_the_first_takes_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with RunFolder.open(tmp_path / "run", _config()):
        monkeypatch.setenv("RANK", "1")
        RunFolder.require_free(tmp_path / "run")
        with RunFolder.open(tmp_path / "run", _config(seed=5), resume=True):
            pass


def test_readers_are_not_held_up(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = start_run(tmp_path / "run", _config())
    with _holder(run.path):
        assert run.config() == make_paths_absolute(_config())
        write_json(run.evaluation_file(), {"mAP": 0.5, "mINP": 0.25, "cmc": [0.75]})
        with pytest.raises(SystemExit) as stopped:
            main(["runs", str(run.path)])
    assert not stopped.value.code
    assert "50.00 %" in capsys.readouterr().out


def test_a_run_in_use_is_not_deleted_nor_a_folder_around_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    outer = start_run(tmp_path / "tune", _config())
    inner = start_run(outer / "trial_000", _config())
    for held in (inner, outer):
        with _holder(held.path), pytest.raises(SystemExit) as stopped:
            main(["runs", "delete", str(outer.path), "--yes"])
        assert stopped.value.code == 1
        assert f"{held.path} is in use by" in capsys.readouterr().err
        assert (inner / "config.yaml").is_file()
    with pytest.raises(SystemExit) as stopped:
        main(["runs", "delete", str(outer.path), "--yes"])
    assert not stopped.value.code
    assert not outer.path.exists()


def test_the_temporary_files_of_living_workers_stay_when_a_search_resumes(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", _config())
    writing = run.path / "trials/000/checkpoints/.writing-x.ckpt"
    writing.parent.mkdir(parents=True)
    writing.touch()
    with _holder(run.path / "workers" / "one"):
        start_run(run.path, _config(), resume=True)
        assert writing.exists()
    start_run(run.path, _config(), resume=True)
    assert not writing.exists()


def test_a_folder_whose_trials_a_worker_trains_is_neither_deleted_nor_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = start_run(tmp_path / "tune", _config())
    with _holder(run.path / "workers" / "one"):
        with pytest.raises(SystemExit) as stopped:
            main(["runs", "delete", str(run.path), "--yes"])
        assert stopped.value.code == 1
        assert "one is in use by" in capsys.readouterr().err
        with pytest.raises(InputError, match="one is in use by"):
            start_run(run.path, _config(), overwrite=True)
    start_run(run.path, _config(), overwrite=True)


def test_a_start_that_was_killed_is_repeated_and_other_content_is_refused(tmp_path: Path) -> None:
    for begun in (True, False):
        folder = tmp_path / str(begun)
        _sign(folder)
        (folder / "environment.json").write_text("{}")
        if begun:
            (folder / ".starting").touch()
            assert start_run(folder, _config()).config() == make_paths_absolute(_config())
        else:
            with pytest.raises(InputError, match="is not empty and holds no run"):
                start_run(folder, _config())
            assert (folder / "environment.json").read_text() == "{}"


def test_what_a_killed_process_was_writing_is_cleared_when_a_run_goes_on(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", _config())
    (run / "checkpoints").mkdir()
    left = [run / ".writing-1.json", run / "checkpoints" / ".writing-2.ckpt"]
    for path in left:
        path.write_text("half")
    start_run(run.path, _config(), resume=True)
    assert not any(path.exists() for path in left)


def test_a_lock_file_that_is_gone_when_its_turn_comes_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.flock, []

    def delete_first(descriptor: int, kind: int) -> None:
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(kind)
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with lock_folder(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / LOCK).is_file()


def test_a_start_that_fails_after_the_folder_was_emptied_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = Config(name="a"), tmp_path / "run"
    with RunFolder.open(folder, config):
        pass

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_text", full)
        with pytest.raises(OSError, match="No space left"), RunFolder.open(folder, config, overwrite=True):
            pass
    assert not (folder / "config.yaml").exists()
    with RunFolder.open(folder, config) as run:
        assert run.config() == make_paths_absolute(config)


def test_a_config_yaml_that_no_run_wrote_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("defaults: []")
    (tmp_path / "thesis.tex").write_text("words")
    said, opened = "holds a config.yaml that is of no run, so it is not replaced", Config(name="a")
    with pytest.raises(InputError, match=said), RunFolder.open(tmp_path, opened, overwrite=True):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "words"


def test_devices_and_patience_may_change_on_resume(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", Config(name="a")):
        pass
    changed = Config.model_validate({"name": "a", "trainer": {"devices": 2, "timeout_minutes": 5}})
    with RunFolder.open(tmp_path / "run", changed, resume=True):
        pass
    other = Config(name="a", seed=1)
    with (
        pytest.raises(InputError, match="began with seed=0, not 1"),
        RunFolder.open(tmp_path / "run", other, resume=True),
    ):
        pass
