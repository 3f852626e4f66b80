"""``dcs-nas tune``: settings tried by Optuna. Heavy imports wait until the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcs_nas.cli.console import progress, say, show_log, table
from dcs_nas.cli.options import ConfigFile, Folder, Overrides, Overwrite
from dcs_nas.errors import command
from dcs_nas.runs import RunFolder


def tune(
    config: ConfigFile,
    override: Overrides = None,
    genotype: Annotated[
        Path | None, typer.Option(help="For retrain: genotype file; by default that of the search of the same name.")
    ] = None,
    out: Folder = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume, or join from another process or machine.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Try settings of a search or a retraining; ends with best.yaml and trials.csv."""
    from dcs_nas import api
    from dcs_nas.cli.train import free_folder
    from dcs_nas.tune.study import get_state, name_trial
    from dcs_nas.tune.tuning import format_value, run_tuning

    settings = api.load_settings(config, override or [])
    tuned = settings.section("tune")
    run = RunFolder(out) if out else RunFolder.default(settings, "tune")
    folder = run.path
    show_log()
    trials = run_tuning(
        settings, folder, genotype=genotype, resume=resume, overwrite=overwrite, progress=progress("trials")
    )
    best = [(trial, values) for trial, values in trials if get_state(trial) == "finished"][:5]
    rows = [[name_trial(trial), f"{trial.value:.5g}", *map(format_value, values.values())] for trial, values in best]
    table(f"{folder}: the best of {len(trials)} trials", ["trial", tuned.objective[0], *tuned.space], rows)
    say(f"all trials: {run.trials_file}")
    if best:
        chosen = ["--genotype", run.genotype_file] if run.genotype_file.is_file() else []
        place = free_folder(folder.parent / "best")
        say(f"best: {run.best_file}")
        say(f"next: {command(tuned.command, run.best_file, *chosen, '--out', place)}")
