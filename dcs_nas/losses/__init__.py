"""Losses: named terms, and the objective that adds them up."""

from dcs_nas.losses.cost import cost_term
from dcs_nas.losses.information import (
    class_conditional,
    entropy,
    ibb,
    ibb_tight,
    log_assignments,
    marginal_entropy,
    mutual_information,
    plugin,
)
from dcs_nas.losses.information_bottleneck import ClassMeans, InformationBottleneck, input_features
from dcs_nas.losses.objective import Objective, first_nonfinite
from dcs_nas.losses.reid import CenterLoss, PrototypeMemory, batch_hard, identity_loss, triplet_loss

__all__ = [
    "CenterLoss",
    "ClassMeans",
    "InformationBottleneck",
    "Objective",
    "PrototypeMemory",
    "batch_hard",
    "class_conditional",
    "cost_term",
    "entropy",
    "first_nonfinite",
    "ibb",
    "ibb_tight",
    "identity_loss",
    "input_features",
    "log_assignments",
    "marginal_entropy",
    "mutual_information",
    "plugin",
    "triplet_loss",
]
