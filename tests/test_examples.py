"""Every command's help ends with two examples, which parse and whose settings are accepted."""

from __future__ import annotations

import shlex

import pytest
import typer

from dcs_nas.cli import app
from dcs_nas.cli.examples import EXAMPLES
from tests.command_line import run_command
from tests.docs_blocks import check


def _commands(group: object = None, path: str = "") -> list[str]:
    group = group or typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        found.append(f"{path} {name}".strip())
        if hasattr(command, "commands"):
            found += _commands(command, found[-1])
    return found


def test_every_command_has_two_examples() -> None:
    assert set(_commands()) == set(EXAMPLES)
    for command, examples in EXAMPLES.items():
        assert all(example.startswith(f"dcs-nas {command}") for example in examples)
        assert len(set(examples)) == 2


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_help_ends_with_them(capsys: pytest.CaptureFixture, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run_command(capsys, *command.split(), "--help")
    assert code == 0
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert lines[-3:] == ["Examples:", *EXAMPLES[command]]


@pytest.mark.parametrize("example", [example for examples in EXAMPLES.values() for example in examples])
def test_an_example_parses_and_its_settings_are_accepted(example: str) -> None:
    check(shlex.split(example)[1:])
