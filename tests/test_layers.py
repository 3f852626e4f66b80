"""A module imports its own folder and lower layers alone."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dcs_nas"
LAYERS = {
    "errors": 0, "registry": 0, "files": 0, "settings": 0, "former_keys": 0, "processes": 0, "extensions": 0,
    "seeds": 0, "environment": 0, "config": 0,
    "space": 1, "data": 1, "losses": 1, "evaluation": 1,
    "runs": 2, "models": 2,
    "training": 3,
    "strategies": 4,
    "report": 5, "export": 5, "tune": 5,
    "api_views": 6, "api_features": 6, "api": 7, "__init__": 8, "cli": 8, "__main__": 9,
}  # fmt: skip
NNI_MAY_BE_IMPORTED_IN = {"models/nni_imports.py"}
MODULES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py"))


@cache
def _imports(file: Path) -> list[str]:
    """All modules that a module imports: at its top, inside functions, and for type checkers alone."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import; name the module in full"
            assert node.module is not None
            from_package = node.module == "dcs_nas"
            names += [f"dcs_nas.{a.name}" for a in node.names if a.name in LAYERS] if from_package else [node.module]
    return names


def _may_import(module: str, name: str) -> bool:
    own, other = (part.split("/")[0].removesuffix(".py") for part in (module, name.split(".")[1]))
    return other == own or LAYERS[other] < LAYERS[own] or LAYERS[own] == 0 == LAYERS[other]


def test_a_module_imports_only_its_own_folder_and_lower_layers() -> None:
    ours = [(m, name) for m in MODULES for name in _imports(PACKAGE / m) if name.startswith("dcs_nas.")]
    assert len(ours) > len(MODULES)
    assert [f"{module} imports {name}" for module, name in ours if not _may_import(module, name)] == []


def test_an_import_inside_a_function_counts(tmp_path: Path) -> None:
    (tmp_path / "low.py").write_text("def f():\n    from dcs_nas import api\n    import dcs_nas.cli.console\n")
    assert _imports(tmp_path / "low.py") == ["dcs_nas.api", "dcs_nas.cli.console"]
    assert not _may_import("files.py", "dcs_nas.api")


def test_no_module_of_ours_is_imported_by_a_string() -> None:
    by_string = re.compile(r"(import_module|__import__)\(f?[\"']dcs_nas|sys\.modules\[__name__\]")
    assert [m for m in MODULES if by_string.search((PACKAGE / m).read_text(encoding="utf-8"))] == []


def test_nni_is_imported_where_it_may_be_and_spaces_and_genotypes_know_no_torch() -> None:
    roots = {module: {name.split(".")[0] for name in _imports(PACKAGE / module)} for module in MODULES}
    assert {module for module, names in roots.items() if "nni" in names} <= NNI_MAY_BE_IMPORTED_IN
    assert [module for module, names in roots.items() if module.startswith("space/") and "torch" in names] == []
