"""The command line: ``dcs-nas COMMAND``. Exit code 0 done, 1 bad input or failure, 2 interrupted."""

from __future__ import annotations

import contextlib
import sys
import traceback
from typing import Annotated

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
from dcs_nas.cli.interruption import end_by_signals
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.files import describe_os_error
from dcs_nas.former_keys import current_key
from dcs_nas.processes import find_launch, is_first_to_fail
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
    launched = find_launch()
    if launched is not None and launched.world > 1 and context.invoked_subcommand not in _DISTRIBUTED:
        raise InputError(
            f"dcs-nas {context.invoked_subcommand} runs as one process, but {launched.launcher} has started "
            f"{launched.world}; start it without {launched.launcher} ({', '.join(_DISTRIBUTED)} run on several)"
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

_INTERRUPTED = 130  # what typer makes of Ctrl-C


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
    return f"{current_key(option, source='the command line')}{equals}{value}" if word.startswith("--") else word


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
    """Say why; of several processes the first to fail says so, whatever the others make of its end."""
    stop_bars()
    if not is_first_to_fail():
        return
    if verbose:
        traceback.print_exc()
    launched = find_launch()
    who = f", process {launched.rank} of {launched.world}" if launched is not None and launched.rank else ""
    print(f"dcs-nas{who}: {' '.join(message.split())}", file=sys.stderr, flush=True)
