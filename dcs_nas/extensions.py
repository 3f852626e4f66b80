"""User-supplied Python files that register operations, attention blocks, backbones or data sets.

They are code, so one rule decides which of them run. A file runs if the user names it in a configuration or on the
command line. A file that a run folder names runs if this user has named a file of the same content (SHA-256) before;
otherwise an error asks for it. A genotype names operations, never a file. direnv and Jupyter's notebook trust have the
same rule.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dcs_nas.errors import InputError
from dcs_nas.files import write_text
from dcs_nas.processes import is_first
from dcs_nas.registry import forget, list_entries

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extension:
    """An imported file, its content's SHA-256, and the (what, name) of each name that it registers."""

    path: Path
    sha256: str
    names: tuple[tuple[str, str], ...] = ()


_loaded: dict[Path, Extension] = {}
_replacements: set[str] = set()  # names of files that replace those recorded by run folders


def load_extensions(paths: Sequence[Path | str], *, replace_recorded: bool = False) -> list[Extension]:
    """Import files that the user has named, unless a file of the same content is imported already.

    A file that has changed since its import is imported again. With ``replace_recorded``, the files replace those of
    the same names that run folders recorded.

    Raises:
        InputError: no such file, a name that is taken, or an error in the file, with its line.
    """
    imported = [_load(Path(os.path.abspath(Path(path).expanduser()))) for path in paths]
    if replace_recorded:
        _replacements.update(extension.path.name for extension in imported)
    if is_first():
        _trust(imported)
    return imported


def load_recorded(recorded: Sequence[Extension], folder: Path) -> None:
    """Import the extensions of the run in ``folder``, if this user has named them before.

    Raises:
        InputError: a recorded file is missing, has changed, or was never named by this user.
    """
    for extension in recorded:
        path, digest = extension.path, extension.sha256
        if any(known.sha256 == digest for known in _loaded.values()):
            continue
        if path.name in _replacements:
            log.warning("%s was made with another %s than the one in use", folder, path.name)
            continue
        name = f"{folder} was made with the extension {path}"
        if not path.is_file():
            raise InputError(f"{name}, which no longer exists; name the file by --extension FILE")
        now = _digest(_content(path))
        if now != digest:
            raise InputError(
                f"{name}, which has changed since (SHA-256 {digest[:12]} then, {now[:12]} now); "
                "restore it, or name the file to use by --extension FILE"
            )
        if digest not in _read_trusted():
            raise InputError(f"{name}, which you have never run here; read it, then allow it by --extension {path}")
        _load(path)


def to_record(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return path, SHA-256 and names of imported files, for a run folder."""
    imported = [(path, _loaded.get(path) or _load(path)) for path in paths]
    return [{"path": str(path), "sha256": e.sha256, "names": [list(n) for n in e.names]} for path, e in imported]


def from_record(entries: Any) -> list[Extension]:
    """Return the extensions of a record that ``to_record`` wrote; ``ValueError`` for anything else."""
    if not isinstance(entries, list):
        raise ValueError("its extensions are not a list")
    try:
        recorded = [Extension(Path(entry["path"]), entry["sha256"]) for entry in entries]
    except (TypeError, KeyError):
        recorded = []
    if len(recorded) != len(entries) or not all(isinstance(e.sha256, str) for e in recorded):
        raise ValueError("its extensions are not a list of path and sha256")
    return recorded


def require_recorded(recorded: Sequence[Extension], folder: Path, paths: Sequence[Path]) -> None:
    """Raise ``InputError`` unless the files have the contents that the run in ``folder`` began with, at any path."""
    then = {e.sha256: e.path for e in recorded}
    now = {_digest(_content(path)): path for path in paths}
    for digest, path in now.items():
        if digest not in then:
            how = "has changed since" if path.name in {p.name for p in then.values()} else "was no extension of"
            raise InputError(f"{path} {how} the run in {folder} began; restore the extensions, or use --overwrite")
    missing = [path for digest, path in then.items() if digest not in now]
    if missing:
        raise InputError(f"{folder} began with the extension {missing[0]}; name it in extensions, or use --overwrite")


def _load(path: Path) -> Extension:
    content = _content(path)
    digest = _digest(content)
    for known in _loaded.values():
        if known.sha256 == digest:
            return known
    if path in _loaded:
        del _loaded[path]
        forget(str(path))
    module = ModuleType(f"extension_{path.stem}_{digest[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickles look there
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
        names = tuple(list_entries(str(path)))
        for what, name in names:
            if not name.isidentifier():
                raise InputError(f"{what} '{name}': expected letters, digits and _, beginning with a letter; rename it")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() too
        forget(str(path))
        del sys.modules[module.__name__]
        raise InputError(f"extension {path}{_locate(error, path)}: {_describe(error)}") from error
    _loaded[path] = Extension(path, digest, names)
    if names:
        log.info("extension %s: %s", path, ", ".join(f"{what} {name}" for what, name in names))
    else:
        log.warning("extension %s registers nothing", path)
    return _loaded[path]


def _content(path: Path) -> bytes:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"extension {path} {what}; expected a Python file, check the path")
    return path.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _locate(error: BaseException, path: Path) -> str:
    """Return the last line of the extension in the traceback."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {numbers[-1]}" if numbers else ""


def _describe(error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    words = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _trust_file() -> Path:
    """Return the file with SHA-256 and path of the extensions that this user has run, in XDG's state folder."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "dcs_nas" / "extensions.txt"


def _read_trusted() -> dict[str, str]:
    """Return the lines of ``_trust_file`` by SHA-256."""
    try:
        rows = _trust_file().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {row.split()[0]: row for row in rows if row.strip()}


def _trust(extensions: Sequence[Extension]) -> None:
    known = _read_trusted()
    new = {e.sha256: f"{e.sha256}  {e.path}" for e in extensions if e.sha256 not in known}
    if not new:
        return
    try:
        write_text(_trust_file(), "".join(f"{row}\n" for row in {**known, **new}.values()))
    except OSError as error:
        log.info("%s cannot be written (%s): run folders will ask for --extension", _trust_file(), error.strerror)
