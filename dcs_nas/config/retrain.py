"""Section ``retrain``: training of a fixed network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings


class RetrainConfig(Settings):
    """Training of a fixed network: a genotype's, or a named backbone.

    It starts from scratch, from a file of ``weights``, or by ``inherit`` from the supernet of a search's run folder.
    Of a file with several networks ``weights_key`` names one. A file that supplies less than ``weights_share`` of the
    network's numbers is refused; below 0.9, tensors of other shapes are skipped.
    """

    backbone: str | None = None
    backbone_options: dict[str, Any] = {}
    weights: Path | None = None
    weights_key: str | None = Field(default=None, min_length=1, max_length=200)
    weights_share: float = Field(default=0.9, ge=0, le=1)
    inherit: Path | None = None
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

    @model_validator(mode="after")
    def _check_start(self) -> RetrainConfig:
        if self.weights is not None and self.inherit is not None:
            raise ValueError("weights and inherit are both given; the network starts from one of them")
        if self.weights_key is not None and self.weights is None:
            raise ValueError("weights_key is given without weights; name the file, or leave it out")
        return self
