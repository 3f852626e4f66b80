"""Zip archives of arrays (.npz, .pth) from anywhere, judged by their table of contents before they are unpacked."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

from dcs_nas.errors import InputError

ALWAYS_FINE = 2**28
"""Bytes that any archive may unpack to."""
LARGEST_GROWTH = 50
"""How many times its own size an archive may unpack to beyond that."""


def require_file(path: Path, *, what: str) -> None:
    """``InputError`` unless there is a plain file; a pipe is not waited for."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist; expected a file: check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{what} {path} cannot be read: {reason}; check the path") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "is a folder" if stat.S_ISDIR(found.st_mode) else "is a pipe, socket or device"
        raise InputError(f"{what} {path} {kind}, so it cannot be read; expected a file: check the path")


def require_moderate_growth(path: Path, *, what: str) -> None:
    """``InputError`` where a zip archive says that it unpacks to far more than its own size.

    Readers of archives never go beyond the sizes that these state. Files that are no archives pass.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # a damaged table of contents leads its parser to exceptions of any kind
        raise InputError(f"{what} {path} cannot be read: {error}; fetch it again") from None
    packed = path.stat().st_size
    if total > max(ALWAYS_FINE, LARGEST_GROWTH * packed):
        raise InputError(
            f"{what} {path} has {packed:,} bytes and unpacks to {total:,}, expected at most {LARGEST_GROWTH} times as "
            "many; no real arrays compress so well: do not trust it"
        )
