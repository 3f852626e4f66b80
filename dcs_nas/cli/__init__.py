"""The command line: ``dcs-nas COMMAND``. Exit code 0 done, 1 bad input or failure, 2 interrupted."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from dcs_nas.cli import (
    artifacts,
    bench,
    config,
    datasets,
    demo,
    evaluate,
    find,
    profile,
    rank,
    runs,
    train,
    tune,
    weights,
)
from dcs_nas.cli.console import stop_bars
from dcs_nas.cli.examples import epilog
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.files import in_words
from dcs_nas.processes import first_to_fail, launch
from dcs_nas.threads import limit_spinning

# typer brings its own click, or the installed one: either way this is the base of its usage errors.
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

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
    found = launch()
    if found is not None and found.world > 1 and context.invoked_subcommand not in _DISTRIBUTED:
        raise InputError(
            f"dcs-nas {context.invoked_subcommand} runs as one process, but {found.launcher} has started "
            f"{found.world}; start it without {found.launcher} ({', '.join(_DISTRIBUTED)} run on several)"
        )


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
    tune.tune,
    demo.demo,
):
    app.command(epilog=epilog(command.__name__))(command)
app.add_typer(runs.app, name="runs")

_AGAIN_SECONDS = 0.2
_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit; an error is one line that says what was found, what was expected and how to mend it."""
    limit_spinning()
    given = sys.argv[1:] if arguments is None else arguments
    verbose = any(a in ("-v", "--verbose") for a in given)
    code = 2
    with contextlib.suppress(KeyboardInterrupt), _ended_by_signals():
        code = _run([a for a in given if a not in ("-v", "--verbose")], verbose)
    sys.exit(code)


def _run(arguments: list[str], verbose: bool) -> int:
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
        _fail(in_words(error), verbose)
        return 1
    except Exception as error:  # a defect of ours: still one line
        _fail(f"unexpected {type(error).__name__}: {error}; run again with -v for the traceback and report it", verbose)
        return 1
    _fail("interrupted; what was saved stays: search, pretrain, retrain and tune go on with --resume", False)
    return 2


class _Ended(KeyboardInterrupt):
    """What a signal raises. Of a plain KeyboardInterrupt that leaves code made from a string, such as a dataclass's,
    CPython remembers that it was there, and ends by SIGINT instead of with our exit code."""


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within it, SIGTERM ends a command as Ctrl-C does: what is half written goes, and the exit code is 2.

    Lightning has a handler of its own while it trains, which ends the step first and calls ours too. An interruption
    that Python drops, since it fell into a destructor or the callback of a weak reference, is repeated.
    """
    again: list[threading.Timer] = []

    def end(number: int, frame: Any) -> None:
        if signal.getsignal(number) is end:
            raise _Ended

    def repeat(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook(dropped)
            return
        again.append(threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (threading.get_ident(), signal.SIGTERM)))
        again[-1].daemon = True
        again[-1].start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook, sys.unraisablehook = sys.unraisablehook, repeat
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for timer in again:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def _fail(message: str, verbose: bool) -> None:
    """Say why; of several processes the first to fail says so, whatever the others make of its end."""
    stop_bars()
    if not first_to_fail():
        return
    if verbose:
        traceback.print_exc()
    found = launch()
    who = f", process {found.rank} of {found.world}" if found is not None and found.rank else ""
    print(f"dcs-nas{who}: {' '.join(message.split())}", file=sys.stderr, flush=True)
