"""Differentiable neural architecture search for person re-identification.

The commands from Python, see ``dcs_nas.api``:

    import dcs_nas

    run = dcs_nas.search("configs/demo.yaml", ["data.root=/data/market1501"])
    trained = dcs_nas.retrain("configs/demo.yaml", ["data.root=/data/market1501"], genotype=run.genotype)
    dcs_nas.evaluate(trained)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcs_nas.api import (
        ExportedModel,
        SearchRun,
        TrainedRun,
        evaluate,
        load,
        load_extensions,
        load_genotype,
        load_published,
        load_run,
        pretrain,
        retrain,
        search,
        tabular,
    )
    from dcs_nas.api_features import distances, image_files

__version__ = "0.1.0"
__all__ = [
    "ExportedModel",
    "SearchRun",
    "TrainedRun",
    "__version__",
    "distances",
    "evaluate",
    "image_files",
    "load",
    "load_extensions",
    "load_genotype",
    "load_published",
    "load_run",
    "pretrain",
    "retrain",
    "search",
    "tabular",
]


def __getattr__(name: str) -> Any:
    """Return a name of ``dcs_nas.api`` or ``dcs_nas.api_features``, which are imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'dcs_nas' has no attribute '{name}'")
    from dcs_nas import api, api_features

    return getattr(api if hasattr(api, name) else api_features, name)
