"""Cost of an architecture as a term of the loss.

Symbols: L loss, c > 0 cost (multiply-adds, parameters or microseconds), t its target, w weight, b exponent.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dcs_nas.errors import InputError, TrainingError

Form = Literal["additive", "multiplicative", "logarithmic"]
_WITH_TARGET, _WITHOUT_TARGET, _OF_DCS = 0.07, 0.6, 0.5  # the exponents of MnasNet, FBNet and DCS


def cost_term(
    loss: Tensor,
    cost: Tensor,
    *,
    form: Form,
    weight: float = 1.0,
    target: float | None = None,
    beta: float | None = None,
) -> Tensor:
    """Return the scalar to add to the scalar ``loss``, in its type; ``cost`` is a scalar above 0.

    ``additive``: w max(0, c / t - 1). Above the target this is ProxylessNAS' lambda E[c] (arXiv 1812.00332, section
    3.2) with lambda = w / t, so that w has no unit; at the target and below, nothing pulls. Gradient by c: w / t or 0.

    ``multiplicative``: L (f(c) - 1), so that the sum is L f(c).
    With a target f = w (c / t)^b, MnasNet's product (arXiv 1807.11626, eq. 2, there a reward and b = -0.07) for a loss;
    b is 0.07 by default. Without one f = w log(c)^b, FBNet's (arXiv 1812.03443, eq. 2, with w = 0.2, b = 0.6, and
    microseconds); b is 0.6 by default. Gradient by c: L f'(c), by what L depends on: f times L's own.

    ``logarithmic``: the same product with f = w log(c^b) = w b log(c), as in the code of DCS (imageNetDA/search.py of
    Statistical-Deep-Learning/DCS-Attention at 73573cd, w = 0.2, b = 0.5); b is 0.5 by default.

    Raises:
        InputError: an unknown form; an additive one without target or with an exponent; a logarithmic one with a
            target.
        TrainingError: a product with a loss below 0, which would reward cost, or log(c) of c <= 1.
    """
    if form == "additive":
        if target is None or beta is not None:
            raise InputError(f"an additive cost term has target={target} and beta={beta}; expected a target, no beta")
        return (weight * torch.relu(cost / target - 1)).to(loss.dtype)
    if form not in ("multiplicative", "logarithmic"):
        raise InputError(f"unknown form '{form}' of the cost term; known: additive, multiplicative, logarithmic")
    if form == "logarithmic" and target is not None:
        raise InputError(f"a logarithmic cost term has target={target}; expected none: leave it out")
    if bool(loss < 0):  # a loss that is NaN stays one, and is refused where all losses are
        raise TrainingError(
            f"the loss is {loss.item():.4g} and a {form} cost term would reward cost where it is below 0; "
            "use search.cost.form=additive with a search.cost.target and without beta, or lower loss.ib_weight"
        )
    return loss * (_compute_factor(form, cost, weight, target, beta).to(loss.dtype) - 1)


def _compute_factor(form: Form, cost: Tensor, weight: float, target: float | None, beta: float | None) -> Tensor:
    if target is not None:
        return weight * (cost / target) ** (_WITH_TARGET if beta is None else beta)
    if not bool(cost > 1):
        raise TrainingError(
            f"the expected cost is {cost.item():.4g}, whose logarithm is not above 0; set search.cost.target"
        )
    if form == "logarithmic":
        return weight * (_OF_DCS if beta is None else beta) * torch.log(cost)
    return weight * torch.log(cost) ** (_WITHOUT_TARGET if beta is None else beta)
