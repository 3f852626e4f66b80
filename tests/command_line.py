"""Commands run in this process, and the one line by which they refuse."""

from __future__ import annotations

import pytest

from dcs_nas.cli import main


def run_command(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    """The exit code of ``dcs-nas ARGUMENTS``, and what it wrote to standard output and to standard error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line that a command says before it exits with 1."""
    code, _, err = run_command(capsys, *arguments)
    assert code == 1, err
    (line,) = (line for line in err.splitlines() if line.startswith("dcs-nas: "))
    assert "Traceback" not in err
    return line
