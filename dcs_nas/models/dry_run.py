"""A forward pass that computes nothing: fake tensors know their shape, type and device, and hold no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call


def dry_run(model: nn.Module, height: int, width: int) -> Any:
    """What ``model`` makes of one image (1, 3, height, width), in evaluation mode, as fake tensors.

    Weights, running statistics and the training flags of the modules stay as they are.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # The image is of the weights' type and device, so that a half-precision model runs too.
    like = next((t for t in tensors.values() if t.is_floating_point()), torch.empty(0))
    with _evaluating(model), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fakes: dict[str, Tensor] = {name: fake.from_tensor(tensor.detach()) for name, tensor in tensors.items()}
        return functional_call(model, fakes, torch.empty(1, 3, height, width, device=like.device, dtype=like.dtype))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode again after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
