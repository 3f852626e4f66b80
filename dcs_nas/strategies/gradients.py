"""Gradients of the architecture parameters: first order, and second order through one step of the weights.

    dL_val(w', alpha)/dalpha  with  w' = w - lr * (momentum * buffer + dL_train/dw + decay * w)
    = grad_alpha L_val(w', alpha) - lr * (d2 L_train(w, alpha) / dalpha dw) v,   v = grad_w' L_val(w', alpha)

(DARTS, arXiv 1806.09055, eqs. 6 to 8). Losses are functions without arguments that read the parameters in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import hardsigmoid, relu6
from torch.overrides import TorchFunctionMode

from dcs_nas.errors import InputError

Loss = Callable[[], Tensor]
Reduce = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Hessian = Literal["exact", "finite_difference"]


@dataclass(frozen=True)
class WeightStep:
    """The step that the weights are about to take: SGD with learning rate, momentum, decay and momentum buffers."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    buffers: Sequence[Tensor | None] | None = None

    @classmethod
    def of(cls, optimizer: Any, weights: Sequence[Tensor]) -> WeightStep:
        """Return the step that an SGD optimizer is about to take."""
        group, state = optimizer.param_groups[0], optimizer.state
        buffers = [state[w].get("momentum_buffer") if w in state else None for w in weights]
        return cls(group["lr"], group["momentum"], group["weight_decay"], buffers)


def gradients(loss: Loss, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a loss; zeros where it does not depend on a parameter."""
    values = torch.autograd.grad(loss(), list(parameters), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(values, parameters)]


def second_order(
    train_loss: Loss,
    val_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    step: WeightStep,
    *,
    hessian: Hessian = "exact",
    radius: float = 0.01,
    reduce: Reduce = list,
) -> list[Tensor]:
    """Return the gradient of the equation above; the weights are unchanged afterwards.

    Args:
        train_loss: must draw the same random numbers at every call.
        hessian: ``exact`` differentiates the gradient; ``finite_difference`` is the published
            (grad_alpha L_train(w + e v) - grad_alpha L_train(w - e v)) / 2e with e = ``radius`` / ||v||.
        reduce: sums gradients over processes.

    Raises:
        InputError: ``exact`` where an operation of the network has no second derivative.
    """
    weights, alphas = list(weights), list(alphas)
    ahead = _step_ahead(weights, reduce(gradients(train_loss, weights)), step)
    with _replace_values(weights, ahead):
        both = reduce(gradients(val_loss, [*alphas, *weights]))
    direct, v = list(both[: len(alphas)]), list(both[len(alphas) :])
    if hessian == "exact":
        mixed = reduce(mixed_product(train_loss, weights, alphas, v))
    else:
        mixed = _finite_difference(train_loss, weights, alphas, v, radius, reduce)
    return [d - step.lr * m for d, m in zip(direct, mixed)]


def mixed_product(loss: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    """Return (d2 L / dalpha dw) v, exact: the gradient over alpha of <dL/dw, v>. With alphas for weights: H v.

    Fused attention kernels have no second derivative: here attention is computed by plain matrix products.
    """
    with _twice_differentiable("use search.hessian=finite_difference or search.order=1"):
        first = torch.autograd.grad(loss(), list(weights), create_graph=True, allow_unused=True)
        return _along(first, v, alphas)


def _along(
    first: Sequence[Tensor | None], v: Sequence[Tensor], alphas: Sequence[Tensor], *, keep: bool = False
) -> list[Tensor]:
    """Return the gradient over alphas of <first, v>; ``keep`` the graph of ``first`` for another v."""
    along = [(g * direction).sum() for g, direction in zip(first, v) if g is not None and g.requires_grad]
    total = torch.stack(along).sum() if along else torch.zeros((), requires_grad=True)
    values = torch.autograd.grad(total, list(alphas), allow_unused=True, retain_graph=keep)
    return [torch.zeros_like(a) if g is None else g for g, a in zip(values, alphas)]


@contextmanager
def _twice_differentiable(advice: str) -> Iterator[None]:
    """Compute by operations that have a second derivative; raise ``InputError`` with ``advice`` where one has none."""
    try:
        with sdpa_kernel(SDPBackend.MATH), _HardSigmoid():
            yield
    except RuntimeError as error:
        if "derivative for" not in str(error):
            raise
        raise InputError(
            f"an operation of this network has no second derivative ({str(error).splitlines()[0]}); {advice}"
        ) from None


class _HardSigmoid(TorchFunctionMode):
    """Computes ``hardsigmoid``, whose second derivative torch lacks, by operations that have one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return relu6(args[0] + 3) / 6 if func is hardsigmoid else func(*args, **(kwargs or {}))


def dominant_eigenvalue(loss: Loss, alphas: Sequence[Tensor], *, iterations: int, reduce: Reduce = list) -> float:
    """Return the eigenvalue of largest size of the Hessian of a loss over the alphas, by power iteration.

    Starts from the same direction every time. The loss is computed once; its graph lives as long as the iteration.
    """
    generator = torch.Generator().manual_seed(0)
    v = [torch.randn(a.shape, generator=generator, dtype=a.dtype).to(a) for a in alphas]
    value = torch.zeros(())
    with _twice_differentiable("set search.guard.eigenvalue_iterations=0"):
        first = torch.autograd.grad(loss(), list(alphas), create_graph=True, allow_unused=True)
        for _ in range(iterations):
            v = _unit(v)
            product = reduce(_along(first, v, alphas, keep=True))
            value = torch.stack([(p * d).sum() for p, d in zip(product, v)]).sum()
            v = list(product)
    return float(value)


@torch.no_grad()
def _step_ahead(weights: Sequence[Tensor], gradients: Sequence[Tensor], step: WeightStep) -> list[Tensor]:
    buffers = step.buffers or [None] * len(weights)
    moved = []
    for w, g, buffer in zip(weights, gradients, buffers):
        direction = g + step.weight_decay * w
        moved.append(w - step.lr * (direction if buffer is None else direction + step.momentum * buffer))
    return moved


def _finite_difference(
    loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    v: Sequence[Tensor],
    radius: float,
    reduce: Reduce,
) -> list[Tensor]:
    epsilon = radius / float(_norm(v).clamp_min(1e-30))
    sides = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            moved = [w + sign * epsilon * d for w, d in zip(weights, v)]
        with _replace_values(weights, moved):
            sides.append(reduce(gradients(loss, alphas)))
    return [(plus - minus) / (2 * epsilon) for plus, minus in zip(*sides)]


@contextmanager
def _replace_values(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    before = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w, value in zip(weights, values):
            w.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for w, value in zip(weights, before):
                w.copy_(value)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.norm() for t in tensors]).norm()


def _unit(tensors: Sequence[Tensor]) -> list[Tensor]:
    norm = _norm(tensors).clamp_min(1e-30)
    return [t / norm for t in tensors]
