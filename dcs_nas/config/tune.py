"""Section ``tune``: settings to try by Optuna."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings

_OF_NNI = {"mode": "plain", "portal": {"port": 8080, "everywhere": False}, "training_service": None}
"""Settings of NNI's experiment manager and their values in a recorded tuning without it."""


class TuneConfig(Settings):
    """Settings to try by ``dcs-nas tune``; see docs/tune.md."""

    command: Literal["search", "retrain"] = "retrain"
    """Command of a trial: a retraining or a search."""
    space: dict[str, dict[str, list[Any]]] = Field(min_length=1)
    """Settings to try and their ranges, such as `retrain.lr: {loguniform: [1e-5, 1e-2]}`."""
    trials: int = Field(default=20, ge=1, le=100_000)
    """Total number of trials."""
    concurrency: int = Field(default=1, ge=1, le=1024)
    """Trials at a time."""
    hours: float | None = Field(default=None, gt=0)
    """Hours after which no trial begins; null for no limit."""
    metric: str | None = None
    """Column of a trial's metrics.csv to judge by; null for validation/mAP, of a search by trials best/mAP,
    of one whose alphas learn architecture/loss."""
    goal: Literal["maximize", "minimize"] | None = None
    """Direction of the better metric; set it together with `metric`."""
    take: Literal["last", "best"] = "last"
    """Epoch whose metric counts: the last or the best."""
    tuner: str = "TPE"
    """Optuna's sampler, such as TPE or Random."""
    tuner_options: dict[str, Any] = {}
    """Options of the sampler."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Pruner, which stops bad trials: median, hyperband or none."""
    pruner_options: dict[str, Any] = {}
    """Options of the pruner."""
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Numbers of the GPUs that trials take turns on."""
    storage: str | None = None
    """Address of a database for the trials' record; null for a file in the tuning's folder."""

    @model_validator(mode="before")
    @classmethod
    def _without_nni(cls, data: Any) -> Any:
        """Drop settings of NNI's manager that have no effect; refuse the others."""
        if not isinstance(data, dict):
            return data
        for key, plain in _OF_NNI.items():
            if data.get(key, plain) != plain:
                raise ValueError(
                    f"{key} was for NNI's experiment manager, which is no longer used: leave it out; trials run on "
                    "several machines by the same command with --resume, and optuna-dashboard shows them (docs/tune.md)"
                )
        return {key: value for key, value in data.items() if key not in _OF_NNI}

    @model_validator(mode="after")
    def _check(self) -> TuneConfig:
        if (self.metric is None) != (self.goal is None):
            raise ValueError("metric and goal go together; give both, e.g. metric: validation/mAP, goal: maximize")
        if self.metric is not None and self.metric.startswith("test/"):
            raise ValueError(
                f"metric {self.metric} is measured on the test set, by which nothing may be chosen; use validation/mAP"
            )
        if self.gpus and self.concurrency > len(self.gpus):
            raise ValueError(f"concurrency {self.concurrency} is more than the {len(self.gpus)} devices of gpus")
        if self.pruner_options and self.pruner == "none":
            raise ValueError("pruner_options are given without a pruner; set pruner: median or hyperband")
        return self
