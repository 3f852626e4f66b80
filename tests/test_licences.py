"""What is installed beside the package has a licence that is known and allowed; the lock files have its hashes."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-torch.lock", "requirements-cuda.lock")


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    return _script("licences")


def _declared() -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requires("dcs-nas") or []}


def test_every_runtime_dependency_has_an_allowed_licence(licences: ModuleType) -> None:
    found = [licences.licence_of(package) for package in licences.dependencies("dcs-nas", ("export",))]
    assert len(found) > 50
    assert {"torch", "nni", "aiohttp", "onnx"} <= {licence.package for licence in found}
    assert [licence.fault for licence in found if licence.fault] == []


def test_an_unknown_or_refused_licence_is_a_fault(licences: ModuleType) -> None:
    def fault(name: str, *stated: str) -> str | None:
        return licences.Licence(name, "1.0", stated).fault

    assert fault("good", "BSD-3-Clause AND MIT") is None
    assert fault("choice", "GPL-2.0-only OR MIT") is None
    assert fault("nested", "(MIT OR GPL-2.0-only) AND BSD-3-Clause") is None
    assert fault("silent") == "silent 1.0 states no licence"
    assert fault("strong", "GPL-3.0-only") == (
        "strong 1.0 is under GPL-3.0-only, which is not on the list of those allowed"
    )
    assert "is under" in str(fault("both", "MIT AND AGPL-3.0-only"))
    assert "is under" in str(fault("double", "MIT", "GNU General Public License v3 (GPLv3)"))
    assert fault("nvidia-cublas", "LicenseRef-NVIDIA-Proprietary") is None


def test_the_page_of_licences_names_every_declared_dependency(licences: ModuleType) -> None:
    page = (ROOT / "docs" / "licences.md").read_text()
    listed = set(re.findall(r"(?:\| |, )([a-z0-9.-]+) \d[^ ,]*(?=,| \|)", page))
    runtime = {
        canonicalize_name(r.name)
        for r in map(Requirement, requires("dcs-nas") or [])
        if r.marker is None or r.marker.evaluate({"extra": "export"})
    }
    assert runtime <= listed


def test_the_lock_files_pin_all_that_is_declared_by_hash_and_name_no_index() -> None:
    split = _script("split_lock").split
    pinned = set()
    for name in LOCKS:
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert "--index-url" not in text
        for entry in split(text):
            assert re.match(r"[a-z0-9.-]+==[^\s;]+( ; [^\\]+)? \\\n", entry), entry[:80]
            assert len(re.findall(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$", entry, re.MULTILINE)) >= 1
            pinned.add(entry.partition("==")[0])
    assert _declared() <= pinned
    assert {"hatchling", "editables"} <= pinned


def test_constraints_hold_the_versions_of_the_lock_files() -> None:
    split = _script("split_lock").split
    locked = {entry.splitlines()[0].rstrip(" \\") for name in LOCKS for entry in split((ROOT / name).read_text())}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == locked
