"""A module imports its own folder and lower layers alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dcs_nas"
LAYERS = {
    "errors": 0, "registry": 0, "files": 0, "settings": 0, "former_keys": 0, "processes": 0, "extensions": 0,
    "seeds": 0, "environment": 0, "threads": 0, "config": 0,
    "space": 1, "data": 1, "losses": 1, "evaluation": 1,
    "runs": 2, "models": 2,
    "training": 3,
    "strategies": 4,
    "report": 5, "export": 5, "tune": 5,
    "api_errors": 5, "api_views": 6, "api_features": 6, "api": 7, "__init__": 8, "cli": 8, "__main__": 9,
}  # fmt: skip
NNI_MAY_BE_IMPORTED_IN = {"models/nni_imports.py"}
MODULES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py"))


def _imports(module: str) -> list[str]:
    """All modules that a module imports: at its top, inside functions, and for type checkers alone."""
    names = []
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; name the module in full"
            assert node.module is not None
            from_package = node.module == "dcs_nas"
            names += [f"dcs_nas.{a.name}" for a in node.names if a.name in LAYERS] if from_package else [node.module]
    return names


def _part(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_folder_and_lower_layers(module: str) -> None:
    own = _part(module)
    for name in _imports(module):
        if name.startswith("dcs_nas."):
            other = name.split(".")[1]
            assert other == own or LAYERS[other] < LAYERS[own] or LAYERS[own] == 0 == LAYERS[other], (
                f"{module} imports {name}"
            )


def test_an_import_inside_a_function_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "low.py").write_text("def f():\n    from dcs_nas import api\n    import dcs_nas.cli.console\n")
    monkeypatch.setattr("tests.test_layers.PACKAGE", tmp_path)
    assert _imports("low.py") == ["dcs_nas.api", "dcs_nas.cli.console"]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_of_ours_is_imported_by_a_string(module: str) -> None:
    text = (PACKAGE / module).read_text(encoding="utf-8")
    assert not re.search(r"(import_module|__import__)\(f?[\"']dcs_nas", text)
    assert "sys.modules[__name__]" not in text


@pytest.mark.parametrize("module", MODULES)
def test_nni_is_imported_where_it_may_be_and_nowhere_else(module: str) -> None:
    if module not in NNI_MAY_BE_IMPORTED_IN:
        assert not any(name == "nni" or name.startswith("nni.") for name in _imports(module))


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("space/")])
def test_spaces_and_genotypes_are_plain_data_without_torch(module: str) -> None:
    assert not any(name.split(".")[0] == "torch" for name in _imports(module))
