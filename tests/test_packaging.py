"""What a user installs: the wheel with its metadata, and the Dockerfile as far as it runs without Docker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ").splitlines()
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES if line.strip()]
RUNS = [words for instruction, words in STEPS if instruction == "RUN"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from what the Dockerfile copies, and from nothing else."""
    context, out = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("wheel")
    for words in (words for instruction, words in STEPS if instruction == "COPY"):
        *sources, target = words.split()
        for source in sources:
            place = context / target if (ROOT / source).is_dir() else context / target / source
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, place)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*command, "-w", str(out), str(context)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(out.glob("dcs_nas-*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))))


def test_the_wheel_says_what_it_is_and_where_its_methods_are_published(metadata: Message) -> None:
    assert {"person re-identification", "neural architecture search"} <= set(metadata["Keywords"].split(","))
    classifiers = metadata.get_all("Classifier") or []
    minors = [c.rpartition(".")[2] for c in classifiers if c.startswith("Programming Language :: Python :: 3.")]
    assert minors == ["11", "12", "13"]
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL") or [])
    assert urls["DCS-Attention"] == "https://arxiv.org/abs/2505.08961"
    text = (ROOT / "README.md").read_text()
    assert all(url in text for url in urls.values())


def test_no_dependency_but_nnis_release_is_capped(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert any(line.startswith("torch>=") for line in required)
    assert [line for line in required if "<" in line or "==" in line] == ["nni<4,>=3.0"]


def test_the_wheel_holds_each_configuration_space_genotype_and_table(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    for folder in ("configs", "search_spaces", "genotypes"):
        files = {f"dcs_nas/_shipped/{folder}/{path.name}" for path in (ROOT / folder).glob("*.yaml")}
        assert files
        assert files <= held
    assert {f"dcs_nas/_shipped/tables/bench_{name}.csv" for name in ("cells", "chain")} <= held
    assert "dcs_nas/report/templates/run.html.j2" in held


def test_an_installed_package_reads_its_tables(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "from dcs_nas.space.table import TABLES, Table; print(*(Table.read(name).name for name in TABLES))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["bench_cells", "bench_chain"]


def test_the_image_starts_from_the_base_of_the_build_argument() -> None:
    assert STEPS[0][0] == "ARG"
    assert STEPS[0][1].startswith("BASE=")
    assert STEPS[1] == ("FROM", "${BASE}")
    given = {words.partition("=")[0] for instruction, words in STEPS if instruction == "ARG"}
    named = set(re.findall(r"--build-arg (\w+)=", (ROOT / "Dockerfile").read_text() + (ROOT / "README.md").read_text()))
    assert named == given


def test_the_image_installs_as_the_readme_does() -> None:
    (line,) = [words for words in RUNS if "constraints.txt '" in words]
    assert f"\n{line}\n" in (ROOT / "README.md").read_text()


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="the image is a Debian, this machine is not")
@pytest.mark.parametrize("run", RUNS)
def test_every_command_of_the_image_exists_and_its_lines_parse(run: str) -> None:
    subprocess.run(["sh", "-n", "-c", run], check=True)
    for command in run.split("&&"):
        assert shutil.which(shlex.split(command)[0]), command


def test_the_image_asks_for_the_torch_of_the_constraints() -> None:
    (command,) = [found for run in RUNS for found in re.findall(r"\$\((sed [^)]*\).*/\\1/p' [^)]*)\)", run)]
    found = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", found)
    assert f"torch=={found}" in (ROOT / "constraints.txt").read_text()
