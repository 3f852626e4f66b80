"""NNI, imported once without the warnings that its import is known to give. NNI 3.0 is archived upstream."""

# ruff: noqa: F401
from __future__ import annotations

import logging
import warnings
from typing import Any

from torch import nn

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from nni import choice, report_final_result
    from nni.mutable import Mutable, MutableExpression, ensure_frozen
    from nni.nas.evaluator import Evaluator
    from nni.nas.evaluator.pytorch import LightningModule
    from nni.nas.execution import SequentialExecutionEngine
    from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace, MutableModule
    from nni.nas.oneshot.pytorch.strategy import DARTS, GumbelDARTS, OneShotStrategy
    from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
    from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell, DifferentiableMixedLayer
    from nni.nas.space import ExecutableModelSpace, SimplifiedModelSpace
    from nni.nas.strategy import Random, RegularizedEvolution, Strategy


def freeze_in_place(module: nn.Module, sample: dict[str, Any]) -> None:
    """Replace every choice inside ``module`` by the chosen module, as NNI's ``freeze`` does.

    NNI's own copies each container with all its candidates first; the networks are equal.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, Mutable):
            setattr(module, name, child.freeze(sample))
        else:
            freeze_in_place(child, sample)


logging.getLogger("nni").setLevel(logging.WARNING)  # its import sets another level
