"""SIGTERM and Ctrl-C end a command with exit code 2 and one line, wherever they fall."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

# A command that tells when it has begun and then works; in "a destructor", the signal falls into one, which drops it.
COMMAND = """
    import os, signal, sys, time
    import dcs_nas.cli as cli

    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), int(sys.argv[1]))
            time.sleep(0.1)

    def work(*_, **__):
        if sys.argv[2] == "a destructor":
            Dropping()
        print("begun", flush=True)
        time.sleep(60)

    cli.app = work
    cli.main([])
"""


@pytest.mark.parametrize("where", ["the command", "a destructor"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_in_one_line_with_exit_code_2(number: signal.Signals, where: str) -> None:
    line = [sys.executable, "-c", textwrap.dedent(COMMAND), str(int(number)), where]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        if where == "the command":
            process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 2
    assert (
        said == "dcs-nas: interrupted; what was saved stays: search, pretrain, retrain and tune go on with --resume\n"
    )
