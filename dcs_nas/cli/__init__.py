"""The command line: ``dcs-nas COMMAND``. Exit code 0 done, 1 bad input or failure, 2 interrupted.

Commands import torch and other large modules when they run.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from dcs_nas.cli import artifacts, bench, config, datasets, demo, evaluate, find, profile, rank, runs, train, weights
from dcs_nas.cli.console import stop_bars
from dcs_nas.cli.examples import epilog
from dcs_nas.cli.outputs import protect_files
from dcs_nas.environment import limit_spinning
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.files import describe_os_error
from dcs_nas.former_keys import current_key
from dcs_nas.processes import find_launch, is_first_to_fail, require_alone

# typer brings its own click, or the installed one: either way this is the base of its usage errors.
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

_SHORT_OPTIONS = {
    "--k1": "--rerank-k1",
    "--k2": "--rerank-k2",
    "--lambda": "--rerank-lambda",
    "--trapezoid": "--average-precision=trapezoid",
    "--hits": "--average-precision=hits",
}
_DISTRIBUTED = ("search", "pretrain", "retrain", "evaluate")

app = typer.Typer(
    name="dcs-nas",
    help="Differentiable neural architecture search for person re-identification.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Everywhere: -v shows the traceback of an error. A first look: dcs-nas demo",
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from dcs_nas import __version__

        print(f"dcs-nas {__version__}")
        raise typer.Exit
    if context.invoked_subcommand not in _DISTRIBUTED:
        require_alone(f"dcs-nas {context.invoked_subcommand}")


for command in (
    datasets.synth,
    train.search,
    train.pretrain,
    train.retrain,
    evaluate.evaluate,
    rank.rank,
    find.extract,
    find.find,
    artifacts.visualize,
    datasets.datasets,
    config.config,
    artifacts.report,
    profile.profile,
    bench.bench,
    artifacts.export,
    weights.weights,
    train.tune,
    demo.demo,
):
    app.command(epilog=epilog(command.__name__))(protect_files(command))
app.add_typer(runs.app, name="runs")

_INTERRUPTED = 130  # what typer makes of Ctrl-C
_REPEAT_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit; an error is one line: what was found, what was expected, how to fix it."""
    limit_spinning()
    words = sys.argv[1:] if arguments is None else arguments
    verbose = any(a in ("-v", "--verbose") for a in words)
    code = None
    with contextlib.suppress(KeyboardInterrupt), end_by_signals():
        code = _run([_rename_option(a) for a in words if a not in ("-v", "--verbose")], verbose)
    if code is None:
        _fail("interrupted; what was saved stays: search, pretrain, retrain and tune resume with --resume", False)
    sys.exit(2 if code is None else code)


def _rename_option(word: str) -> str:
    """Return a word of the command line with the present name of an option."""
    option, equals, value = word.partition("=")
    if not option.startswith("--"):
        return word
    return f"{_SHORT_OPTIONS.get(option) or current_key(option, source='the command line')}{equals}{value}"


def _run(arguments: list[str], verbose: bool) -> int | None:
    """Return the exit code of a command, or None if it was interrupted."""
    try:
        code = app(arguments or ["--help"], prog_name="dcs-nas", standalone_mode=False)
        if code != _INTERRUPTED:
            return code if isinstance(code, int) else 0
    except typer.Exit as done:
        if done.exit_code != _INTERRUPTED:
            return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        pass
    except _UsageError as error:
        message = getattr(error, "format_message", error.__str__)().rstrip(".")
        asked = getattr(getattr(error, "ctx", None), "command_path", "dcs-nas")
        if message.endswith("No such option: -o"):
            message = f"-o is for settings (-o KEY=VALUE), and {asked} has none; what it writes is named by --out"
        _fail(f"{message}{' See' if message.endswith('?') else '; see'} {asked} --help", verbose)
        return 1
    except (InputError, TrainingError) as error:
        _fail(getattr(error, "shell", str(error)), verbose)  # of the API: as it was for the shell
        return 1
    except OSError as error:
        _fail(describe_os_error(error), verbose)
        return 1
    except Exception as error:  # a defect of ours: still one line
        _fail(f"unexpected {type(error).__name__}: {error}; run again with -v for the traceback and report it", verbose)
        return 1
    return None


def _fail(message: str, verbose: bool) -> None:
    """Print why the command failed; of several processes only the first to fail prints."""
    stop_bars()
    if not is_first_to_fail():
        return
    if verbose:
        traceback.print_exc()
    launched = find_launch()
    who = f", process {launched.rank} of {launched.world}" if launched is not None and launched.rank else ""
    print(f"dcs-nas{who}: {' '.join(message.split())}", file=sys.stderr, flush=True)


class _Ended(KeyboardInterrupt):
    """Raised by a signal. Of a plain KeyboardInterrupt that leaves code made from a string, such as a dataclass's,
    CPython remembers it and ends by SIGINT instead of with our exit code."""


@contextlib.contextmanager
def end_by_signals() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: partial files are removed, and the exit code is 2.

    An interruption can be lost: Python drops it in a destructor or the callback of a weak reference, and so do
    libraries that read an attribute from C. A thread therefore checks every half second whether the main thread
    handles it, and repeats the signal if not. Lightning has a handler of SIGTERM while it trains, which ends the
    step first and then calls ours.
    """
    main, left = threading.get_ident(), threading.Event()
    watch = threading.Thread(target=_repeat_if_lost, args=(main, left), daemon=True)
    last: float | None = None  # when a signal was obeyed

    def end(number: int, frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if left.is_set() or (last is not None and now - last < _REPEAT_SECONDS / 2):  # it ends, or has just begun to
            return
        first, last = last is None, now
        if first:
            watch.start()
        if signal.getsignal(number) is end:
            raise _Ended

    def unraisable(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook(dropped)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        left.set()
        for number, handler in before.items():  # further signals do not disturb the end
            signal.signal(number, handler if last is None else signal.SIG_IGN)
        sys.unraisablehook = hook


def _repeat_if_lost(main: int, left: threading.Event) -> None:
    """Send SIGTERM to the thread ``main`` whenever it handles no interruption, until ``left`` is set."""
    while not left.wait(_REPEAT_SECONDS):
        if not _is_ending(sys._current_exceptions().get(main)):
            signal.pthread_kill(main, signal.SIGTERM)


def _is_ending(handled: Any) -> bool:
    """Return whether an exception is an interruption or follows from one.

    It is a triple (type, value, traceback) in Python 3.10 and 3.11."""
    error = handled[1] if isinstance(handled, tuple) else handled
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
