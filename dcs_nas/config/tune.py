"""Section ``tune``: settings to try by NNI's tuners."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings


class PortalConfig(Settings):
    """NNI's web portal, which has no password: its port, and whether other machines may reach it."""

    port: int = Field(default=8080, ge=1024, le=65534)
    everywhere: bool = False


class TuneConfig(Settings):
    """``dcs-nas tune``: settings to try, as ``space: {retrain.lr: {loguniform: [1e-5, 1e-2]}}``; see docs/tune.md.

    ``metric`` is a column of a trial's metrics.csv, of its last epoch or of its best one (``take``); without it,
    validation/mAP is maximized by retrain and architecture/loss minimized by search. No trial begins once ``hours`` are
    spent. ``gpus`` lists the devices that trials take turns on. ``mode`` portal starts NNI's own experiment manager,
    which takes ``training_service`` as it is.
    """

    command: Literal["search", "retrain"] = "retrain"
    space: dict[str, dict[str, list[Any]]] = Field(min_length=1)
    trials: int = Field(default=20, ge=1, le=100_000)
    concurrency: int = Field(default=1, ge=1, le=1024)
    hours: float | None = Field(default=None, gt=0)
    metric: str | None = None
    goal: Literal["maximize", "minimize"] | None = None
    take: Literal["last", "best"] = "last"
    tuner: str = "TPE"
    tuner_options: dict[str, Any] = {}
    gpus: tuple[int, ...] = ()
    mode: Literal["plain", "portal"] = "plain"
    portal: PortalConfig = PortalConfig()
    training_service: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> TuneConfig:
        if (self.metric is None) != (self.goal is None):
            raise ValueError("metric and goal go together; give both, e.g. metric: validation/mAP, goal: maximize")
        if self.mode == "plain" and self.training_service is not None:
            raise ValueError("training_service is NNI's own; it needs mode: portal (or dcs-nas tune --portal)")
        if self.gpus and self.mode == "portal":
            raise ValueError("gpus is for mode plain; with the portal, set trialGpuNumber in training_service")
        if self.gpus and self.concurrency > len(self.gpus):
            raise ValueError(f"concurrency {self.concurrency} is more than the {len(self.gpus)} devices of gpus")
        return self

    @property
    def objective(self) -> tuple[str, Literal["maximize", "minimize"]]:
        """The metric's name, and which way is better."""
        if self.metric is not None and self.goal is not None:
            return self.metric, self.goal
        return ("validation/mAP", "maximize") if self.command == "retrain" else ("architecture/loss", "minimize")
