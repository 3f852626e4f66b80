"""A process that a job starts, and stops together with its descendants."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_STOP_SECONDS = 10.0


class ChildProcess:
    """A command in its own process group that writes to the file ``log``, on GPU ``device`` if one is set."""

    def __init__(self, command: Sequence[str], log: Path, *, device: int | None = None) -> None:
        self.device, self._log = device, log
        environment = dict(os.environ) | ({} if device is None else {"CUDA_VISIBLE_DEVICES": str(device)})
        log.parent.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.monotonic() - self._began

    def is_running(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def describe_failure(self) -> str:
        """Return in one line why the process failed; empty if it succeeded."""
        code = self._process.returncode
        if code == 0:
            return ""
        how = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        return f"{how}: {_last_line(self._log)}"

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process group."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop the process group: by SIGTERM, after ten seconds by SIGKILL."""
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _last_line(path: Path) -> str:
    """Return the last nonempty line of a log, at most 300 characters."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    written = [line.strip() for line in lines if line.strip()]
    return written[-1][:300] if written else "it wrote nothing"
