"""A job's settings: one YAML file plus ``-o key=value`` overrides, typed and validated, unknown keys refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from dcs_nas.errors import InputError
from dcs_nas.settings import Settings, parse, parse_yaml, read_yaml

Fraction = Field(ge=0, le=1)


class DataConfig(Settings):
    """Which images, at what size (pixels), in what batches."""

    name: str = "market1501"
    root: Path | None = None
    options: dict[str, Any] = {}
    height: int = Field(default=256, ge=8, le=4096)
    width: int = Field(default=128, ge=8, le=4096)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    people_per_batch: int = Field(default=16, ge=1, le=4096)
    images_per_person: int = Field(default=4, ge=1, le=256)
    test_batch: int = Field(default=256, ge=1, le=65536)
    cache: Path | None = None

    @property
    def batch_size(self) -> int:
        return self.people_per_batch * self.images_per_person


class AugmentConfig(Settings):
    """Augmentation of a training batch; probabilities, and pixels for the pad."""

    flip: float = Field(default=0.5, ge=0, le=1)
    pad: int = Field(default=10, ge=0, le=512)
    erase: float = Field(default=0.5, ge=0, le=1)
    color_jitter: float = Field(default=0.0, ge=0, le=1)


class LossConfig(Settings):
    """The training objective: weights of its terms, and the information bottleneck (IB)."""

    identity_weight: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    triplet_weight: float = Field(default=1.0, ge=0)
    triplet_margin: float | None = Field(default=0.3, ge=0)
    center_weight: float = Field(default=0.0, ge=0)
    ib_kind: Literal["none", "ibb", "ibb_tight", "plugin"] = "none"
    ib_weight: float = Field(default=0.0, ge=0)
    ib_grid: tuple[int, int] = (8, 4)
    ib_temperature: float | Literal["auto"] = 1.0
    ib_normalize: bool = False

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.ib_weight > 0 and self.ib_kind == "none":
            raise ValueError(f"ib_weight is {self.ib_weight:g}, but ib_kind is 'none'; name a kind, e.g. ibb")
        if not self.identity_weight and not self.triplet_weight:
            raise ValueError("identity_weight and triplet_weight are both 0; nothing would tell people apart")
        return self


class DcsConfig(Settings):
    """DCS-Attention: the Gumbel temperature starts at ``tau`` and is multiplied by ``decay`` every epoch."""

    tau: float = Field(default=5.0, gt=0)
    decay: float = Field(default=0.956, gt=0, le=1)


class SearchConfig(Settings):
    """The bilevel search: weights by SGD and a cosine schedule, architecture parameters (alphas) by Adam."""

    space: str
    channels: int | None = Field(default=None, ge=1, le=2048)
    cells: int | None = Field(default=None, ge=1, le=100)
    epochs: int = Field(default=50, ge=1)
    warmup_epochs: int = Field(default=0, ge=0)
    weight_share: float = Field(default=0.5, gt=0, lt=1)
    lr: float = Field(default=0.025, gt=0)
    lr_min: float = Field(default=0.001, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=3e-4, ge=0)
    grad_clip: float = Field(default=5.0, gt=0)
    arch_lr: float = Field(default=3e-4, gt=0)
    arch_betas: tuple[float, float] = (0.5, 0.999)
    arch_weight_decay: float = Field(default=1e-3, ge=0)

    @model_validator(mode="after")
    def _check(self) -> SearchConfig:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves no epoch of {self.epochs} in which alphas would move"
            )
        return self


class RetrainConfig(Settings):
    """Training of a fixed network: a genotype's, or a named backbone."""

    backbone: str | None = None
    backbone_options: dict[str, Any] = {}
    weights: Path | None = None
    channels: int | None = Field(default=None, ge=1, le=2048)
    cells: int | None = Field(default=None, ge=1, le=100)
    epochs: int = Field(default=120, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=3.5e-4, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    grad_clip: float | None = Field(default=None, gt=0)
    schedule: Literal["cosine", "multistep"] = "cosine"
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_factor: float = Field(default=0.01, gt=0, le=1)
    lr_min: float = Field(default=0.0, ge=0)
    milestones: tuple[int, ...] = (40, 70)
    gamma: float = Field(default=0.1, gt=0, le=1)
    center_lr: float = Field(default=0.5, gt=0)
    validation: float = Field(default=0.0, ge=0, lt=1)
    validate_every: int = Field(default=10, ge=1)


class EvaluateConfig(Settings):
    """How features are compared."""

    metric: Literal["cosine", "euclidean"] = "cosine"
    max_rank: int = Field(default=50, ge=1)


class TrainerConfig(Settings):
    """The machine: passed on to Lightning's Trainer."""

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = Field(default=1, ge=1)
    strategy: str = "auto"
    precision: str = "32-true"
    deterministic: bool | None = None
    threads: int | None = Field(default=None, ge=1)


class Config(Settings):
    """One job. ``dcs-nas search`` wants the section ``search``, ``dcs-nas retrain`` the section ``retrain``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    results: Path = Path("results")
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    dcs: DcsConfig = DcsConfig()
    search: SearchConfig | None = None
    retrain: RetrainConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    trainer: TrainerConfig = TrainerConfig()

    def section(self, name: Literal["search", "retrain"]) -> Any:
        """The section a command needs; ``InputError`` where the file has none."""
        section = getattr(self, name)
        if section is None:
            raise InputError(f"the configuration '{self.name}' has no section '{name}'; add one, see configs/")
        return section


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """A configuration file, with ``key.key=value`` overrides whose values are YAML.

    Raises ``InputError`` for a missing or malformed file, an unknown key or a wrong value.
    """
    data = read_yaml(path)
    for override in overrides:
        _apply(data, override)
    return parse(Config, {"name": path.stem, **data}, source=str(path))


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override '{override}' is not of the form key=value, e.g. -o search.epochs=20")
    *path, last = key.strip().split(".")
    place = data
    for part in path:
        if place.get(part) is None:
            place[part] = {}
        if not isinstance(place[part], dict):
            raise InputError(f"override '{override}': '{part}' is a value, not a section")
        place = place[part]
    place[last] = parse_yaml(value, source=f"the value of override '{override}'")
