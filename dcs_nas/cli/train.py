"""``dcs-nas search``, ``pretrain``, ``retrain`` and ``tune``, and the next command after them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dcs_nas import api
from dcs_nas.cli.console import progress, say, show_log, stop_bars, table
from dcs_nas.cli.options import ConfigFile, Folder, GenotypeFile, Overrides, Overwrite, Resume
from dcs_nas.cli.tables import show_genotype, show_trained
from dcs_nas.errors import InputError, command
from dcs_nas.processes import is_first
from dcs_nas.runs import RunFolder
from dcs_nas.settings import read_yaml
from dcs_nas.space import find_shipped_file

if TYPE_CHECKING:
    from dcs_nas.api import SearchRun
    from dcs_nas.config import Config

_SECTIONS = ("search", "pretrain", "retrain", "tune")
_LEAST = {"search": "search.space=demo_cells", "pretrain": "pretrain.epochs=120", "retrain": "retrain.epochs=120"}
"""The setting by which a configuration without the section has one, all others at their defaults."""


def search(
    config: ConfigFile,
    override: Overrides = None,
    out: Folder = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Search an architecture; ends with genotype.yaml in the run folder."""
    overrides = override or []
    settings = _load_job(config, overrides, "search", out=out)
    run = api.search(settings, out=out, resume=resume, overwrite=overwrite, progress=progress)
    if is_first():
        show_genotype(run.genotype.genotype)
        say(f"genotype: {RunFolder(run.folder).genotype_file}")
        say(f"next: {_after_search(config, overrides, settings, run, out)}")


def pretrain(
    config: ConfigFile,
    genotype: GenotypeFile = None,
    override: Overrides = None,
    out: Folder = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a genotype or a backbone on image classification; retrain.weights then takes the run folder."""
    settings = _load_job(config, override or [], "pretrain", genotype=genotype, out=out)
    run = api.pretrain(settings, genotype=genotype, out=out, resume=resume, overwrite=overwrite, progress=progress)
    if is_first():
        show_trained(run)
        say(f"pretrained: {run.folder}")
        say(f"next: train the same network for re-identification with -o retrain.weights={run.folder}")


def retrain(
    config: ConfigFile,
    genotype: GenotypeFile = None,
    override: Overrides = None,
    out: Folder = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a genotype, or the backbone that retrain.backbone names."""
    settings = _load_job(config, override or [], "retrain", genotype=genotype, out=out)
    run = api.retrain(settings, genotype=genotype, out=out, resume=resume, overwrite=overwrite, progress=progress)
    if is_first():
        show_trained(run)
        say(f"trained: {run.folder}")
        say(f"next: {_after_training(settings, run.folder)}")


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
    stop_bars()
    best = [(trial, values) for trial, values in trials if get_state(trial) == "finished"][:5]
    rows = [[name_trial(trial), f"{trial.value:.5g}", *map(format_value, values.values())] for trial, values in best]
    table(f"{folder}: the best of {len(trials)} trials", ["trial", settings.objective[0], *tuned.space], rows)
    say(f"all trials: {run.trials_file}")
    if best:
        chosen = ["--genotype", run.genotype_file] if run.genotype_file.is_file() else []
        place = free_folder(folder.parent / "best")
        say(f"best: {run.best_file}")
        if tuned.command == "retrain" and settings.section("retrain").validation:
            chosen = ["-o", "retrain.validation=0", *chosen]  # on all identities
        say(f"next: {command(tuned.command, run.best_file, *chosen, '--out', place)}")


def _load_job(
    config: Path,
    overrides: Sequence[str],
    section: Literal["search", "pretrain", "retrain"],
    *,
    genotype: Path | None = None,
    out: Path | None = None,
) -> Config:
    """Return the settings of a job that needs a section, and show its log from here on.

    Raises:
        InputError: the section is missing; the line ends with a command that has it.
    """
    settings = api.load_settings(config, overrides)
    if getattr(settings, section) is None:
        options = [
            word for name, value in (("--genotype", genotype), ("--out", out)) if value for word in (name, value)
        ]
        instead = command(section, *_with_section(config, overrides, section), *options)
        raise InputError(f"the configuration '{config}' has no section '{section}'; use another or add it: {instead}")
    show_log()
    return settings


def _after_search(config: Path, overrides: Sequence[str], settings: Config, run: SearchRun, out: Path | None) -> str:
    """Return the command that trains the genotype of the search."""
    words = _with_section(config, overrides, "retrain")
    default = RunFolder.default(settings, "retrain").path
    target = free_folder(default if out is None else run.folder.parent / "retrain")
    place = [] if out is None and target == default else ["--out", target]
    unfit = ["channels", "cells"] if "channels" not in run.genotype.supports else []
    retrain = settings.retrain or api.load_settings(words[0], words[2::2]).retrain
    unset = [f"retrain.{name}=null" for name in ("backbone", *unfit) if getattr(retrain, name, None) is not None]
    genotype = RunFolder(run.folder).genotype_file
    return command("retrain", *words, *_as_options(unset), "--genotype", genotype, *place)


def _after_training(settings: Config, folder: Path) -> str:
    """Return the command that evaluates the run in ``folder``, or exports it if its data have no test images."""
    data = settings.data
    tested = RunFolder(folder).contents().data["query"]["images"] > 0
    tested = data.test is not None or (not data.combine_all and (tested or bool(data.also)))
    return command("evaluate" if tested else "export", folder)


def free_folder(path: Path) -> Path:
    """Return ``path``, or if it exists the first of ``path-2``, ``path-3``, ... that does not."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([path], numbered) if not folder.exists())


def _with_section(config: Path, overrides: Sequence[str], section: str) -> list[Any]:
    """Return configuration and overrides that have the section: of the same name, or with one more override."""
    file = find_shipped_file("configs", config)
    if section in (*_read_sections(file), *map(_get_section, overrides)):
        return [config, *_as_options(overrides)]
    name = read_yaml(file).get("name", file.stem)
    fitting = [other for other in sorted(file.parent.glob("*.yaml")) if section in _read_sections(other, name)]
    if not fitting:
        return [config, *_as_options([*overrides, _LEAST[section]])]
    other = min(fitting, key=lambda f: "backbone" in read_yaml(f)[section])  # one for genotypes, if there is one
    beside = config.with_name(other.name if config.suffix else other.stem)
    return [beside, *_as_options([item for item in overrides if _get_section(item) not in _SECTIONS])]


def _read_sections(file: Path, name: str | None = None) -> list[str]:
    """Return the sections of a configuration file; none for other files, and for another ``name``."""
    try:
        data = read_yaml(file)
    except (InputError, OSError):
        return []
    named = name is None or data.get("name", file.stem) == name
    return [section for section in _SECTIONS if isinstance(data.get(section), dict) and named]


def _get_section(override: str) -> str:
    return re.split("[.=]", override.strip())[0]


def _as_options(overrides: Sequence[str]) -> list[str]:
    return [word for item in overrides for word in ("-o", item)]
