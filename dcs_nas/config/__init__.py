"""A job's settings: one YAML file plus ``-o key=value`` overrides, typed and validated, unknown keys refused."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dcs_nas.config.bilevel import CostConfig, GuardConfig, MemoryConfig, RelaxationConfig, RetrievalConfig
from dcs_nas.config.data import AugmentConfig, DataConfig, DataSource, EvaluateConfig
from dcs_nas.config.loss import DcsConfig, LossConfig
from dcs_nas.config.retrain import HeadConfig, PretrainConfig, RetrainConfig
from dcs_nas.config.search import SearchConfig
from dcs_nas.config.trainer import TrainerConfig
from dcs_nas.config.trials import TRIAL_STRATEGIES, PredictorConfig, TrialsConfig
from dcs_nas.config.tune import TuneConfig
from dcs_nas.errors import InputError, choices
from dcs_nas.former_keys import current_key, rename_former_keys
from dcs_nas.settings import Settings, make_absolute, parse, parse_yaml, read_yaml

__all__ = [
    "EVALUATION",
    "EXTRACTION",
    "TRIAL_STRATEGIES",
    "AugmentConfig",
    "Config",
    "CostConfig",
    "DataConfig",
    "DataSource",
    "DcsConfig",
    "EvaluateConfig",
    "GuardConfig",
    "HeadConfig",
    "LossConfig",
    "MemoryConfig",
    "PredictorConfig",
    "RelaxationConfig",
    "RetrainConfig",
    "RetrievalConfig",
    "SearchConfig",
    "TrainerConfig",
    "TrialsConfig",
    "TuneConfig",
    "load_config",
    "make_config",
    "rename_config_keys",
    "set_value",
    "split_overrides",
    "with_overrides",
]

_IMAGES = ("data.height", "data.width", "data.mean", "data.std", "data.test_batch")
_MACHINE = ("trainer.accelerator", "trainer.threads")
EXTRACTION = (*_IMAGES, *_MACHINE, "evaluate.flip", "evaluate.metric", "evaluate.neck")
"""Settings that the extraction of features reads."""
EVALUATION = (
    *("data.name", "data.root", "data.options", "data.test", "data.cache", *_IMAGES),
    *(*_MACHINE, "trainer.timeout_minutes"),
    *(f"evaluate.{name}" for name in EvaluateConfig.model_fields),
)
"""Settings that an evaluation reads."""


class Config(Settings):
    """One job. ``dcs-nas search``, ``pretrain`` and ``retrain`` need the section of their name.

    Paths of ``extensions`` are relative to the file that names them, elsewhere to the current folder.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """Name of the job; its runs lie in `results/NAME`. By default the name of the file."""
    results: Path = Path("results")
    """Folder in which all runs are kept."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of all random numbers: the same seed, the same bits. Change it to measure the spread of results."""
    extensions: tuple[Path, ...] = ()
    """Python files that register operations, attention blocks, backbones or data sets, relative to this file."""
    data: DataConfig = DataConfig()
    """Images, their size and batches."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of training images."""
    loss: LossConfig = LossConfig()
    """The training objective: its terms and their weights."""
    dcs: DcsConfig = DcsConfig()
    """DCS-Attention: temperature and scale."""
    search: SearchConfig | None = None
    """The architecture search; `dcs-nas search` needs this section."""
    pretrain: PretrainConfig | None = None
    """Training by the classes of images, for `retrain.weights`; `dcs-nas pretrain` needs this section."""
    retrain: RetrainConfig | None = None
    """The training of a fixed network; `dcs-nas retrain` needs this section."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Comparison of features when a run is evaluated."""
    trainer: TrainerConfig = TrainerConfig()
    """The machine: devices, precision, threads, loggers."""
    tune: TuneConfig | None = None
    """Settings to try by `dcs-nas tune`, which needs this section."""

    @field_validator("extensions", mode="before")
    @classmethod
    def _absolute(cls, paths: Any) -> Any:
        if not isinstance(paths, (list, tuple)) or not all(isinstance(path, (str, Path)) for path in paths):
            raise ValueError("expected a list of Python files, e.g. [my_ops.py]")
        return tuple(dict.fromkeys(make_absolute(Path(path)) for path in paths))

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.retrain is not None and self.retrain.freezes and not self.loss.identity_weight:
            raise ValueError(
                "retrain freezes the backbone, but loss.identity_weight is 0, and the other terms do not train the "
                "head; raise it, or leave retrain.freeze_epochs and retrain.freeze_steps out"
            )
        return self

    @property
    def objective(self) -> tuple[str, Literal["maximize", "minimize"]]:
        """Name and direction of a tuning's metric."""
        tune: TuneConfig = self.section("tune")
        if tune.metric is not None and tune.goal is not None:
            return tune.metric, tune.goal
        if tune.command == "retrain":
            return "validation/mAP", "maximize"
        search: SearchConfig = self.section("search")
        if search.strategy in TRIAL_STRATEGIES:
            return "best/mAP", "maximize"
        return ("architecture/loss", "minimize") if search.weight_share < 1 else ("validation/mAP", "maximize")

    @property
    def training(self) -> RetrainConfig | None:
        """The section ``retrain`` of a fixed network's training, or ``pretrain`` if only that is given."""
        return self.retrain or self.pretrain

    def section(self, name: Literal["search", "pretrain", "retrain", "tune"]) -> Any:
        """Return the section that a command needs; ``InputError`` where the file has none."""
        section = getattr(self, name)
        if section is None:
            raise InputError(f"the configuration '{self.name}' has no section '{name}'; add one, see configs/")
        return section


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the settings of a configuration file, changed by overrides ``key.key=value`` whose values are YAML.

    Raises:
        InputError: a missing or malformed file, an unknown key or a wrong value.
    """
    data = read_yaml(path)
    if isinstance(data.get("extensions"), list):
        data["extensions"] = [
            path.parent / os.path.expanduser(e) if isinstance(e, str) else e for e in data["extensions"]
        ]
    return make_config({"name": path.stem, **data}, overrides, source=str(path))


def make_config(data: dict[str, Any], overrides: Sequence[str] = (), *, source: str) -> Config:
    """Return the settings ``data``, changed by overrides; errors name ``source``. Raises as ``load_config``."""
    data = rename_config_keys(data, source)
    sources = {_apply(data, override): f"-o {override}" for override in overrides}
    return parse(Config, rename_config_keys(data, source), source=source, sources=sources)


def with_overrides(config: Config, overrides: Sequence[str], allowed: Sequence[str]) -> Config:
    """Return a run's settings with ``overrides`` such as ``data.test_batch=64``, all of them among ``allowed``.

    Raises:
        InputError: a setting that is not read here, or a wrong value.
    """
    for item in overrides:
        key = item.partition("=")[0].strip()
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise InputError(
                f"-o {item} has no effect on a trained run, which keeps the settings it began with; "
                f"{choices(key, allowed)}"
            )
    if not overrides:
        return config
    values = config.model_dump(mode="json", by_alias=True)
    return make_config(values, overrides, source="settings of the run with -o")


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the overrides that are not of the section ``evaluate``, and the values of those that are, by name.

    >>> split_overrides(["data.test_batch=64", "evaluate.flip=true"])
    (['data.test_batch=64'], {'flip': True})
    """
    remaining, own = [], {}
    for item in overrides:
        key, equals, value = item.partition("=")
        section, _, name = key.strip().partition(".")
        if equals and section == "evaluate" and name in EvaluateConfig.model_fields:
            own[name] = parse_yaml(value, source=f"the value of override '{item}'")
        else:
            remaining.append(item)
    return remaining, own


def rename_config_keys(data: Mapping[str, Any], source: str | None = None) -> dict[str, Any]:
    """Return the settings under their present names, with a remark on each former one where ``source`` is given."""
    sections = {key: rename_former_keys(key, value, source) for key, value in data.items() if isinstance(value, dict)}
    return {**data, **sections}


def set_value(data: dict[str, Any], key: str, value: Any) -> None:
    """Set one setting, such as ``search.guard.ratio``, in nested settings; add the sections that are missing.

    Raises:
        InputError: a part of the key names a value, not a section.
    """
    *path, last = current_key(key).split(".")
    for depth, part in enumerate(path, start=1):
        if data.get(part) is None:
            data[part] = {}
        data = data[part]
        if not isinstance(data, dict):
            raise InputError(f"'{'.'.join(path[:depth])}' is a value, not a section")
    data[last] = value


def _apply(data: dict[str, Any], override: str) -> str:
    """Set the setting of an override; return its key."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override '{override}' is not of the form key=value, e.g. -o search.epochs=20")
    parsed = parse_yaml(value, source=f"the value of override '{override}'")
    try:
        present = current_key(key.strip(), source="-o")
        set_value(data, present, parsed)
        return present
    except InputError as error:
        raise InputError(f"override '{override}': {error}") from None
