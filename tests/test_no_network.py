"""Nothing reaches for the network unless it is asked to: from drawn people to the report, without sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

GUARD = """
import os
import socket

_NETWORK = (socket.AF_INET, socket.AF_INET6)


def _refuse(*arguments, **options):
    with open(os.environ["TRIED"], "a") as file:
        file.write(f"{arguments[:2]!r}\\n")
    raise OSError("the network is off")


def _guarded(name):
    method = getattr(socket.socket, name)

    def call(self, *arguments):
        return _refuse(name, *arguments) if self.family in _NETWORK else method(self, *arguments)

    return call


for _name in ("connect", "connect_ex", "sendto", "sendmsg", "listen"):  # urllib3 binds ::1 once, to see if it can
    setattr(socket.socket, _name, _guarded(_name))
for _name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, _name, _refuse)
"""
"""sitecustomize.py of every process: a use of the network raises, and is noted in the file TRIED."""

CHAIN = """
import sys
from pathlib import Path

from dcs_nas.cli import _run

out, job, code = Path(sys.argv[1]), sys.argv[2], 0
cell = str(out / "search" / "genotype.yaml")
small = "--train-identities 8 --test-identities 6 --distractor-identities 0 --junk-images 0 --cameras 2"
small += " --images-per-camera 2"
for command in (
    ["synth", str(out / "people"), *small.split()],
    ["search", job, "--out", str(out / "search")],
    ["retrain", job, "--genotype", cell, "--out", str(out / "retrain")],
    ["evaluate", str(out / "retrain"), "--rerank"],
    ["visualize", cell, "--out", str(out / "cells")],
    ["profile", cell],
    ["report", str(out)],
):
    code = _run(command, True)
    if code:
        sys.exit(f"{command[0]} ended with {code}")
"""
SPACE = """
cells: 2
channels: 4
nodes: 2
reductions: [1]
stem: stride2
operations: [none, skip_connect, sep_conv_3x3]
attention: [none, dcs]
"""


def _environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join(filter(None, (str(tmp_path / "guard"), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "TRIED": str(tmp_path / "tried"), "OMP_NUM_THREADS": "1"}


def _job(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    job = {
        "name": "offline",
        "data": {"name": "synthetic", "root": str(tmp_path / "out" / "people"), "height": 32, "width": 16},
        "search": {"strategy": "bilevel", "space": str(tmp_path / "space.yaml"), "epochs": 1},
        "retrain": {"epochs": 1, "warmup_epochs": 0},
        "trainer": {"accelerator": "cpu", "threads": 1},
    }
    job["data"] |= {"identities_per_batch": 4, "images_per_identity": 2, "cache": str(tmp_path / "cache")}  # type: ignore[operator]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    return tmp_path / "job.yaml"


def test_no_command_from_drawing_to_the_report_uses_the_network(tmp_path: Path) -> None:
    environment, job = _environment(tmp_path), _job(tmp_path)
    line = [sys.executable, "-c", CHAIN, str(tmp_path / "out"), str(job)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (tmp_path / "tried").exists(), (tmp_path / "tried").read_text()


@pytest.mark.parametrize(
    "use", ["s.connect(('127.0.0.1', 9))", "s.sendto(b'', ('::1', 9))", "socket.getaddrinfo('a', 1)"]
)
def test_the_guard_of_the_test_above_catches_a_use_of_the_network(tmp_path: Path, use: str) -> None:
    environment = _environment(tmp_path)
    family = "AF_INET6" if "::1" in use else "AF_INET"
    program = f"import socket; s = socket.socket(socket.{family}, socket.SOCK_DGRAM); {use}"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the network is off" in done.stderr
    assert (tmp_path / "tried").is_file()
