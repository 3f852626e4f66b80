"""Differentiable neural architecture search for person re-identification.

From Python the commands are the functions of ``dcs_nas.api``:

    from dcs_nas import api

    run = api.search("configs/demo.yaml", ["data.root=/data/people"])
    trained = api.retrain("configs/demo.yaml", ["data.root=/data/people"], genotype=run.genotype)
    api.evaluate(trained)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__version__ = "0.1.0"


def load_published(name: str, state: Mapping[str, Tensor], **options: Any) -> nn.Module:
    """Return the network of a published state dict, in evaluation mode, see ``dcs_nas.api.load_published``."""
    from dcs_nas import api

    return api.load_published(name, state, **options)
