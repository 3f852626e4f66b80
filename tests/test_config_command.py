"""``dcs-nas config``: settings explained, as YAML that loads back equal, one by one, and as a JSON schema."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dcs_nas.config import Config, load_config
from dcs_nas.config.describe import comment_yaml, keys
from dcs_nas.settings import parse_yaml, read_yaml
from tests.command_line import refused, run_command

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_configurations_with_comments_load_back_equal(tmp_path: Path) -> None:
    for file in CONFIGS:
        settings = load_config(file)
        text = comment_yaml(settings)
        (tmp_path / "again.yaml").write_text(text)
        assert load_config(tmp_path / "again.yaml") == settings, file
        assert max(len(line) for line in text.splitlines() if line.lstrip().startswith("#")) <= 102


def test_the_command_prints_all_a_section_or_the_defaults(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for words in (["demo"], []):
        code, out, _ = run_command(capsys, "config", *words)
        assert code == 0
        (tmp_path / "job.yaml").write_text(out)
        load_config(tmp_path / "job.yaml")
    out = run_command(capsys, "config", "demo", "--section", "search", "-o", "search.epochs=7")[1]
    assert parse_yaml(out, source="out") == {
        "search": load_config(ROOT / "configs" / "demo.yaml", ["search.epochs=7"]).search.model_dump(mode="json")
    }
    out = run_command(capsys, "config", "--section", "search.guard")[1]
    assert list(parse_yaml(out, source="out")["search"]["guard"])[:2] == ["action", "max_skips"]
    assert "has no section tune" in refused(capsys, "config", "demo", "--section", "tune")
    assert "did you mean search" in refused(capsys, "config", "demo", "--section", "serch")
    assert "is a setting, not a section" in refused(capsys, "config", "demo", "--section", "seed")


def test_one_setting_is_explained(capsys: pytest.CaptureFixture) -> None:
    out = run_command(capsys, "config", "search.epochs")[1]
    assert out.splitlines()[0] == "search.epochs"
    assert out.splitlines()[-3:] == ["type: whole number", "bounds: at least 1", "default: 50"]
    assert "settings: action, max_skips" in run_command(capsys, "config", "search.guard")[1]
    assert "unknown setting 'search.epoch'; did you mean search.epochs?" in refused(capsys, "config", "search.epoch")
    assert "leave --section and -o out" in refused(capsys, "config", "search.epochs", "--section", "search")
    assert "there is no file" in refused(capsys, "config", "nowhere")


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys; from dcs_nas.cli import _run; _run(['config', 'demo'], False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_schema_accepts_the_shipped_configurations_and_refuses_unknown_keys(capsys: pytest.CaptureFixture) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="comes with the extra 'docs'")
    schema = json.loads(run_command(capsys, "config", "--schema")[1])
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.check_schema(schema)
    for file in CONFIGS:
        validator.validate(read_yaml(file))
    for wrong in ({"search": {"space": "demo_cells", "epoch": 3}}, {"seed": "one"}, {"data": {"height": 1}}):
        assert not validator.is_valid(wrong)
    assert "leave the rest out" in refused(capsys, "config", "demo", "--schema")


def test_every_setting_says_what_it_does() -> None:
    """By a docstring below the field: a sentence on what it does, its unit, when to change it."""
    descriptions = {key.name: key.field.description or "" for key in keys()}
    assert [name for name, description in descriptions.items() if not description.rstrip().endswith(".")] == []


def test_the_committed_reference_is_up_to_date() -> None:
    folder = ROOT / "scripts" / "docs"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("references", folder / "references.py")
        assert spec is not None
        assert spec.loader is not None
        references = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(references)
    finally:
        sys.path.remove(str(folder))
    for name, make in references.PAGES.items():
        written = (references.FOLDER / name).read_text(encoding="utf-8")
        assert written == make(), f"docs/reference/{name} is old: python scripts/docs/references.py"


def test_the_class_of_settings_is_the_root_of_all_keys() -> None:
    assert {key.name for key in keys() if "." not in key.name} == set(Config.model_fields)
