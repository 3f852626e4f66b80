"""NNI, imported once without the warnings that its import is known to give. NNI 3.0 is archived upstream."""

from __future__ import annotations

import logging
import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module", category=RuntimeWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("nni").setLevel(logging.WARNING)
    import nni.nas.nn.pytorch as nas_nn
    from nni.mutable import frozen_context
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
    from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule

Cell = nas_nn.Cell
LayerChoice = nas_nn.LayerChoice
ModelSpace = nas_nn.ModelSpace

__all__ = ["BaseSuperNetModule", "Cell", "LayerChoice", "ModelSpace", "OneShotStrategy", "frozen_context"]
