"""Section ``evaluate``: how features are compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dcs_nas.settings import Settings


class EvaluateConfig(Settings):
    """How features are compared; the options of ``dcs-nas evaluate`` replace these.

    ``protocol`` is the data set's own unless given; validation leaves out the query's own camera where it does, and
    otherwise the query's own image alone. ``expand`` is the number of neighbours of average query expansion
    (0: none), each weighted by its similarity to the power ``expand_alpha``. ``confidence`` is the number of bootstrap
    resamples of the queries for 95 % intervals (0: none).
    """

    metric: Literal["cosine", "euclidean"] = "cosine"
    max_rank: int = Field(default=50, ge=1)
    protocol: Literal["cross_camera", "single_gallery_shot", "no_camera_filter"] | None = None
    average_precision: Literal["hits", "trapezoid"] = "hits"
    flip: bool = False
    expand: int = Field(default=0, ge=0)
    expand_alpha: float = Field(default=0.0, ge=0)
    rerank: bool = False
    rerank_k1: int = Field(default=20, ge=1)
    rerank_k2: int = Field(default=6, ge=1)
    rerank_lambda: float = Field(default=0.3, ge=0, le=1)
    confidence: int = Field(default=0, ge=0)
