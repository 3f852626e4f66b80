"""The command line: ``dcs-nas COMMAND``. Exit code 0 done, 1 bad input or failure, 2 interrupted."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from dcs_nas.cli import demo, export, jobs, profile, report, runs, tools, tune
from dcs_nas.cli.console import say, stop_bars
from dcs_nas.errors import InputError, TrainingError

# typer brings its own click, or the installed one: either way this is the base of its usage errors.
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

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
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from dcs_nas import __version__

        print(f"dcs-nas {__version__}")
        raise typer.Exit


for command in (
    tools.synth,
    jobs.search,
    jobs.retrain,
    jobs.evaluate,
    tools.rank,
    tools.visualize,
    tools.datasets,
    report.report,
    profile.profile,
    export.export,
    tune.tune,
    demo.demo,
):
    app.command()(command)
app.add_typer(runs.app, name="runs")

_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit; an error is one line that says what was found, what was expected and how to mend it."""
    given = sys.argv[1:] if arguments is None else arguments
    verbose = any(a in ("-v", "--verbose") for a in given)
    sys.exit(_run([a for a in given if a not in ("-v", "--verbose")], verbose))


def _run(arguments: list[str], verbose: bool) -> int:
    try:
        code = app(arguments, prog_name="dcs-nas", standalone_mode=False)
        if code != _INTERRUPTED:
            return code if isinstance(code, int) else 0
    except typer.Exit as done:
        if done.exit_code != _INTERRUPTED:
            return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        pass
    except _UsageError as error:
        message = getattr(error, "format_message", error.__str__)()
        _fail(f"{message}; see dcs-nas --help", verbose)
        return 1
    except (InputError, TrainingError) as error:
        _fail(str(error), verbose)
        return 1
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), verbose)
        return 1
    except Exception as error:  # a defect of ours: still one line
        _fail(f"unexpected {type(error).__name__}: {error}; run again with -v for the traceback and report it", verbose)
        return 1
    _fail("interrupted; what was saved stays: search and retrain go on with --resume", False)
    return 2


def _fail(message: str, verbose: bool) -> None:
    stop_bars()
    if verbose:
        traceback.print_exc()
    say(f"dcs-nas: {' '.join(message.split())}")
