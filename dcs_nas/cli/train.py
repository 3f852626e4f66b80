"""``dcs-nas search``, ``pretrain`` and ``retrain``, and the next command after them.

Heavy imports wait until a command runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dcs_nas.cli.console import progress, say, show_log
from dcs_nas.cli.options import ConfigFile, Folder, GenotypeFile, Overrides, Overwrite, Resume
from dcs_nas.cli.tables import show_genotype, show_trained
from dcs_nas.errors import InputError, command
from dcs_nas.processes import is_first
from dcs_nas.runs import RunFolder
from dcs_nas.settings import read_yaml

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
    from dcs_nas import api

    overrides = override or []
    settings = _load_job(config, overrides, "search", ("--out", out))
    show_log()
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
    """Train a genotype or a backbone by classes of images; retrain.weights then takes the run folder."""
    from dcs_nas import api

    settings = _load_job(config, override or [], "pretrain", ("--genotype", genotype), ("--out", out))
    show_log()
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
    from dcs_nas import api

    settings = _load_job(config, override or [], "retrain", ("--genotype", genotype), ("--out", out))
    show_log()
    run = api.retrain(settings, genotype=genotype, out=out, resume=resume, overwrite=overwrite, progress=progress)
    if is_first():
        show_trained(run)
        say(f"trained: {run.folder}")
        say(f"next: {_after_training(settings, run.folder)}")


def _load_job(
    config: Path, overrides: Sequence[str], section: Literal["search", "pretrain", "retrain"], *options: Any
) -> Config:
    """Return the settings of a job that needs a section.

    Raises:
        InputError: the section is missing; the line ends with a command that has it, with ``options``.
    """
    from dcs_nas.api import load_settings

    settings = load_settings(config, overrides)
    if getattr(settings, section) is None:
        instead = command(section, *_with_section(config, overrides, section), *_format_options(options))
        raise InputError(f"the configuration '{config}' has no section '{section}'; use another or add it: {instead}")
    return settings


def _after_search(config: Path, overrides: Sequence[str], settings: Config, run: SearchRun, out: Path | None) -> str:
    """Return the command that trains the genotype of the search."""
    from dcs_nas.api import default_folder, load_settings

    words = _with_section(config, overrides, "retrain")
    default = default_folder(settings, "retrain")
    target = free_folder(default if out is None else run.folder.parent / "retrain")
    place = [] if out is None and target == default else ["--out", target]
    unfit = ["channels", "cells"] if "channels" not in run.genotype.supports else []
    retrain = settings.retrain or load_settings(words[0], words[2::2]).retrain
    unset = [f"retrain.{name}=null" for name in ("backbone", *unfit) if getattr(retrain, name, None) is not None]
    return command(
        "retrain",
        *words,
        *_format_options([("-o", item) for item in unset]),
        "--genotype",
        RunFolder(run.folder).genotype_file,
        *place,
    )


def _after_training(settings: Config, folder: Path) -> str:
    """Return the command that evaluates the run in ``folder``, or exports it where its data have no test images."""
    data = settings.data
    tested = json.loads(RunFolder(folder).data_file.read_text(encoding="utf-8"))["query"]["images"] > 0
    tested = data.test is not None or (not data.combine_all and (tested or bool(data.also)))
    return command("evaluate" if tested else "export", folder)


def free_folder(path: Path) -> Path:
    """Return ``path``, or where that exists the same with the lowest number from 2 for which there is nothing."""
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def _with_section(config: Path, overrides: Sequence[str], section: str) -> list[Any]:
    """Return configuration and overrides that have the section: of the same name, or with one more override."""
    from dcs_nas.space import find_shipped_file

    file = find_shipped_file("configs", config)
    if section in (*_read_sections(file), *map(_get_section, overrides)):
        return [config, *_format_options([("-o", item) for item in overrides])]
    name = read_yaml(file).get("name", file.stem)
    fitting = [other for other in sorted(file.parent.glob("*.yaml")) if section in _read_sections(other, name)]
    if fitting:
        other = min(fitting, key=lambda f: "backbone" in read_yaml(f)[section])  # one for genotypes, if there is one
        rest = [item for item in overrides if _get_section(item) not in _SECTIONS]
        beside = config.with_name(other.name if config.suffix else other.stem)
        return [beside, *_format_options([("-o", item) for item in rest])]
    return [config, *_format_options([("-o", item) for item in (*overrides, _LEAST[section])])]


def _read_sections(file: Path, name: str | None = None) -> list[str]:
    """Return the sections of a configuration file; none for other files and other values of ``name``."""
    try:
        data = read_yaml(file)
    except (InputError, OSError):
        return []
    named = name is None or data.get("name", file.stem) == name
    return [section for section in _SECTIONS if isinstance(data.get(section), dict) and named]


def _get_section(override: str) -> str:
    return re.split("[.=]", override.strip())[0]


def _format_options(pairs: Sequence[Any]) -> list[Any]:
    """Return the words of (option, value) pairs, without pairs whose value is unset."""
    return [word for option, value in pairs if value is not None for word in (option, value)]
