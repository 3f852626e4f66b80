"""Extensions in tests: nothing of one test stays for the next."""

from __future__ import annotations

from dcs_nas import extensions, registry


def new_process() -> None:
    """As at the start of a process: no extension is imported."""
    for path in list(extensions._loaded):
        registry.forget(str(path))
    extensions._loaded.clear()
    extensions._replacements.clear()
