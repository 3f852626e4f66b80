"""Steps whose loss or gradient is NaN or infinite: the job stops and names the place, or skips the step."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dcs_nas.errors import TrainingError
from dcs_nas.losses import first_nonfinite

log = logging.getLogger(__name__)


class NonFiniteError(TrainingError):
    """A loss term or a gradient is NaN or infinite."""


def require_finite(terms: Mapping[str, Tensor], *, where: str, files: list[str], skippable: bool = True) -> None:
    """Raise ``NonFiniteError`` naming the term, the step and the batch's files if the loss is NaN or infinite.

    ``skippable``: True if ``trainer.nonfinite=skip`` can skip the step.
    """
    if not bool(torch.isfinite(terms["loss"])):
        term = first_nonfinite(terms) or "loss"
        raise NonFiniteError(_message(f"the term '{term}' became {terms[term].item()}", where, files, skippable))


def clip_gradients(
    named: Iterable[tuple[str, nn.Parameter]], max_norm: float | None, *, scaled: bool, where: str, files: list[str]
) -> None:
    """Scale gradients so that their joint norm is at most ``max_norm``, if it is set.

    ``scaled``: True if a scaler of half precision is in use, which skips steps of NaN or infinite gradients itself.

    Raises:
        NonFiniteError: a gradient is NaN or infinite without such a scaler; it names the parameter.
    """
    present = [(name, p) for name, p in named if p.grad is not None]
    if not present or (scaled and max_norm is None):
        return
    norm = get_total_norm([p.grad for _, p in present if p.grad is not None])
    if not scaled and not bool(torch.isfinite(norm)):
        names = [n for n, p in present if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
        problem = f"the gradient of '{names[0]}' is not finite" if names else "the norm of the gradients overflows"
        raise NonFiniteError(_message(problem, where, files))
    if max_norm is not None:
        clip_grads_with_norm_([p for _, p in present], max_norm, norm)


class StepGuard:
    """A guard of training steps that skips those that raise ``NonFiniteError`` if ``skip`` is set.

    A skipped step changes no parameter by its gradient and no running statistic, but in a search it may have moved the
    alphas already. An epoch whose steps are all skipped is an error.
    """

    def __init__(self, module: nn.Module, *, skip: bool) -> None:
        self._module, self._skip = module, skip
        self._steps = self._left_out = 0
        self._last = ""

    @contextmanager
    def step(self) -> Iterator[None]:
        """Compute one step within the context."""
        buffers = dict(self._module.named_buffers()) if self._skip else {}
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        self._steps += 1
        try:
            yield
        except NonFiniteError as error:
            if not self._skip:
                raise
            self._left_out, self._last = self._left_out + 1, str(error)
            log.warning("step left out: %s", error)
            with torch.no_grad():
                for name, buffer in before.items():
                    buffers[name].copy_(buffer)
            for parameter in self._module.parameters():
                parameter.grad = None

    def end_epoch(self) -> dict[str, float]:
        """Return ``skipped``, the number of skipped steps of the epoch, if skipping is allowed; and reset it."""
        steps, left_out, self._steps, self._left_out = self._steps, self._left_out, 0, 0
        if steps and steps == left_out:
            raise TrainingError(f"all {steps} steps of the epoch were left out, the last since {self._last}")
        return {"skipped": float(left_out)} if self._skip else {}


def _message(problem: str, where: str, files: list[str], skippable: bool = True) -> str:
    named = f"{', '.join(files[:4])}{', ...' if len(files) > 4 else ''}"
    skip = ", or leave such steps out by trainer.nonfinite=skip" if skippable else ""
    return f"{problem} in {where}; lower the learning rate, or look at the batch{skip}: {named}"
