"""The check of a GPU runs whole on a CPU, and keeps what it has measured where a section fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECK = ROOT / "scripts" / "gpu_check.sh"


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(CHECK), *words], env=environment, capture_output=True, text=True, cwd=ROOT)


def test_sections_of_the_check_measure_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    run = _run("--tiny", "--device", "cpu", "--json", str(out), "--only", "ranking", "configurations")
    assert run.returncode == 0, run.stderr
    result = json.loads(out.read_text())
    assert (result["device"], result["tiny"]) == ("CPU", True)
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {"ranking, small", "re-ranking, small", "demo", "osnet"}
    for name in ("ranking, small", "re-ranking, small"):
        assert rows[name]["mAP"] == rows[name]["mAP on the CPU"]
        assert rows[name]["seconds"] > 0
    for name in ("demo", "osnet"):
        assert rows[name].get("error") is None
        assert rows[name]["seconds a step"] > 0


def test_figures_of_a_cpu_stay_out_of_the_reference_results(tmp_path: Path) -> None:
    run = _run("--tiny", "--device", "cpu")
    assert run.returncode == 2
    assert "name another file by --json" in run.stderr
