"""SIGTERM and Ctrl-C end a command with exit code 2 and one line, wherever they fall."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

# A command that tells when it has begun and then works. A signal in "a destructor" is dropped by Python, one in
# "careless code" by that.
COMMAND = """
    import contextlib, os, signal, sys, time
    import dcs_nas.cli as cli

    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), int(sys.argv[1]))
            time.sleep(0.1)

    def work(*_, **__):
        if sys.argv[2] == "a destructor":
            Dropping()
        if sys.argv[2] == "careless code":
            with contextlib.suppress(KeyboardInterrupt):
                Dropping().__del__()
        print("begun", flush=True)
        time.sleep(60)

    cli.app = work
    cli.main([])
"""


@pytest.mark.parametrize("where", ["the command", "a destructor", "careless code"])
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
        said == "dcs-nas: interrupted; what was saved stays: search, pretrain, retrain and tune resume with --resume\n"
    )


CLEANING = """
    import os, signal, sys, time
    import dcs_nas.cli as cli

    def work(*_, **__):
        try:
            os.kill(os.getpid(), int(sys.argv[1]))
            time.sleep(60)
        except KeyboardInterrupt:
            raise SystemExit(1)  # as Lightning does
        finally:
            time.sleep(2)
            print("cleaned", flush=True)

    def interrupted(*_, **__):
        try:
            work()
        except SystemExit:
            raise KeyboardInterrupt from None

    cli.app = interrupted
    cli.main([])
"""


def test_signals_that_follow_the_first_change_nothing() -> None:
    line = [sys.executable, "-c", textwrap.dedent(COMMAND), str(int(signal.SIGTERM)), "the command"]
    for pause in (0.0, 0.003, 0.03):
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(50 if pause == 0 else 5):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            time.sleep(pause)
        _, said = process.communicate()
        assert (process.returncode, said.count("\n")) == (2, 1), said


def test_an_interruption_lets_a_command_clean_up_for_as_long_as_it_takes() -> None:
    line = [sys.executable, "-c", textwrap.dedent(CLEANING), str(int(signal.SIGTERM))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "cleaned\n")
