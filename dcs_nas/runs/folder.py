"""Run folders. Nothing is overwritten silently, nothing by two at a time."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcs_nas.config import Config
from dcs_nas.config.machine import PRECISION_NAMES
from dcs_nas.environment import environment
from dcs_nas.errors import InputError
from dcs_nas.extensions import require_recorded, to_record
from dcs_nas.files import write_json, write_text
from dcs_nas.processes import hear, is_first, tell
from dcs_nas.runs.lock import require_free
from dcs_nas.runs.start import BEGAN, LOG, logging_to, opened, require_same
from dcs_nas.settings import parse, read_yaml, to_yaml, with_absolute_paths

log = logging.getLogger(__name__)
_BITS = {"versions": ("torch", "numpy", "python"), "machine": ("processor", "threads")}
_MAY_CHANGE: Any = {  # where data lie is checked by their fingerprint (dcs_nas.data.fingerprint), extensions by content
    "trainer": {"devices", "num_nodes", "timeout_minutes"},
    "data": {"root": True, "cache": True, "also": {"__all__": {"root"}}, "test": {"root"}},
    "results": True,
    "extensions": True,
}
_SHARED_SECONDS = 60  # a network file system may show what another machine has written as late as that


class RunFolder:
    """The folder of one run: ``config.yaml``, ``environment.json``, ``log.txt``, ``metrics.csv``, results."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextmanager
    def open(cls, path: Path, config: Config, *, resume: bool = False, overwrite: bool = False) -> Iterator[RunFolder]:
        """Make, continue or replace a run folder, and hold its lock while the job works in it.

        Raises ``InputError`` where another process works in the folder, where it holds another run and neither
        ``resume`` nor ``overwrite`` is given, where there is nothing to resume, or where the settings to resume with
        differ from those it began with. Of several processes the first alone does all this.
        """
        run = cls(path)
        if not is_first():
            hear(f"{path} is open")
            run._require_shared()
            yield run
            return
        with opened(path, what="run", resume=resume, overwrite=overwrite):
            now = environment(config.trainer.threads)
            if resume:
                require_same(path, _settings(run.config()), _settings(config))
                require_recorded(path, config.extensions)
                run._tell_changes(now)
            else:
                own = {"extensions": to_record(config.extensions)} if config.extensions else {}
                write_json(path / "environment.json", {**now, **own})
                write_text(path / BEGAN, to_yaml(with_absolute_paths(config)))
            tell(f"{path} is open")
            yield run

    @classmethod
    def start(cls, path: Path, config: Config, *, resume: bool = False, overwrite: bool = False) -> RunFolder:
        """As ``open``, without keeping the lock: for folders that no job works in."""
        with cls.open(path, config, resume=resume, overwrite=overwrite) as run:
            return run

    @staticmethod
    def require_free(path: Path) -> None:
        """Raise ``InputError`` where another process works in the folder; before long preparations for ``open``."""
        if is_first():
            require_free(path)

    def config(self) -> Config:
        """The resolved settings that the run began with."""
        path = self.path / BEGAN
        if not path.is_file():
            raise InputError(f"{self.path} is not a run folder: it has no config.yaml")
        return parse(Config, _as_now(read_yaml(path)), source=str(path))

    def _tell_changes(self, now: Mapping[str, Any]) -> None:
        """Warn of what keeps a resumed run from giving the bits of an uninterrupted one."""
        stamp = self.path / "environment.json"
        began = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {}
        changes = []
        for part, names in _BITS.items():
            then = began.get(part)
            if not isinstance(then, dict):
                continue
            pairs = [(name, then[name], now[part][name]) for name in names if name in then and name in now[part]]
            changes += [f"{name} {old} then, {new} now" for name, old, new in pairs if old != new]
        if changes:
            with logging_to(self.path / LOG):
                log.warning(
                    "%s goes on under other conditions, so results may differ in their last bits: %s",
                    self.path, "; ".join(changes),
                )  # fmt: skip

    def _require_shared(self) -> None:
        """Raise ``InputError`` where this process does not see the folder that the first has opened."""
        for _ in range(_SHARED_SECONDS):
            if (self.path / BEGAN).is_file():
                return
            time.sleep(1)
        raise InputError(
            f"{socket.gethostname()} does not see {self.path}, where the first process works; "
            "set results to a folder that all machines share"
        )

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def _as_now(data: dict[str, Any]) -> dict[str, Any]:
    """Return recorded settings with the defaults of the version that did not record them, and names as they are now."""
    data["dcs"] = {"tau_min": 0.0, "scale": "sqrt", **(data.get("dcs") or {})}
    trainer = data.get("trainer") or {}
    if trainer.get("precision") in PRECISION_NAMES:
        data["trainer"] = {**trainer, "precision": PRECISION_NAMES[trainer["precision"]]}
    return data


def _settings(config: Config) -> dict[str, Any]:
    """Return those that a resumed run has to have again."""
    return _flat(with_absolute_paths(config).model_dump(mode="json", exclude=_MAY_CHANGE))


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
