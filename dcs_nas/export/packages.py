"""Packages that only exporting needs."""

from __future__ import annotations

import importlib

from dcs_nas.errors import InputError


def require(*packages: str, purpose: str) -> None:
    """Import the packages; ``InputError`` that names those which are not installed."""
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise InputError(f"{purpose} needs {', '.join(missing)}, not installed here; pip install 'dcs-nas[export]'")
