"""Parts of a benchmark in processes of their own, each within a time of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

Rows = Iterator[dict[str, Any]]
MARK = "row of a section: "


def print_row(row: dict[str, Any]) -> None:
    """Send a row from the process of a section."""
    print(MARK + json.dumps(row), flush=True)


class Section:
    """A section in a process of its own, which has loaded the libraries and waits for a line; a context.

    The process is killed ``seconds`` after it was told to go on, with all that it has started. Of what it prints, the
    lines of ``print_row`` count.
    """

    def __init__(self, name: str, command: Sequence[str], *, seconds: float) -> None:
        self.name, self._limit, self._is_late = name, seconds, False
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
            start_new_session=True,  # so that its loaders end with it
        )

    def __enter__(self) -> Section:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.communicate()
        self._errors.close()

    def rows(self) -> Rows:
        """Yield the section's rows, and one of its failure."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(self._limit, self._end)
        timer.start()
        try:
            with suppress(BrokenPipeError):  # it failed before it could wait
                self._process.stdin.write("go\n")
                self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith(MARK) and line.endswith("\n"):  # a killed process may leave half a line
                    yield json.loads(line.removeprefix(MARK))
            code = self._process.wait()
        finally:
            timer.cancel()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or [""])[-1]
        if self._is_late:
            yield {"name": "", "error": f"not done after {self._limit:g} seconds"}
        elif code:
            yield {"name": "", "error": f"exit code {code}: {last[:300]}"}

    def _end(self) -> None:
        self._is_late = True
        self._kill()

    def _kill(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
