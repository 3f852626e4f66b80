"""Running statistics of batch norms: left alone in passes that are only tried, or measured anew for other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_BatchNorm = nn.modules.batchnorm._BatchNorm


class frozen_statistics:  # noqa: N801, a context such as torch.no_grad
    """Within it, passes in training mode leave the running statistics of batch norms as they are.

    It can be entered again: a checkpoint does so whenever it computes a part again.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = _norms(module)
        self._momenta: list[float | None] = []

    def __enter__(self) -> None:
        self._momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, momentum in zip(self._norms, self._momenta):
            norm.momentum = momentum


@contextmanager
def recalibrated_statistics(module: nn.Module, run: Callable[[], object]) -> Iterator[None]:
    """Within it, running statistics are the plain means over the passes that ``run`` makes; afterwards as before.

    A supernet's own are those of its mixture and don't fit one of its networks (Guo et al., arXiv 1904.00420, section
    3.2). ``run`` is called in training mode without gradients.
    """
    norms = _norms(module)
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta, training = [norm.momentum for norm in norms], module.training
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        module.train()
        with torch.no_grad():
            run()
        module.train(training)
        yield
    finally:
        module.train(training)
        for norm, momentum, buffers in zip(norms, momenta, before):
            norm.momentum = momentum
            for name, buffer in buffers.items():
                getattr(norm, name).copy_(buffer)


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]
