"""Modules of user-supplied code, checked by one run before use in a network. Maps (C, H, W), without batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dcs_nas.errors import InputError

Shape = tuple[int, int, int]


def build_custom(what: str, make: Callable[[], nn.Module], shape: Shape, expected: Shape, *, call: str) -> nn.Module:
    """Return the module that ``make`` builds, after a run on one map of ``shape`` in evaluation mode.

    The run leaves the random generator unchanged.

    Raises:
        InputError: the module cannot be built or run, returns another shape than ``expected``, or changes its input.
    """
    try:
        module = make()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} cannot be built: {_describe(error)}; it is called as {call}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{what} returned a {type(module).__name__}, expected a torch.nn.Module")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        x = torch.randn(1, *shape)
        before = x.clone()
        try:
            output = module.eval()(x)
        except Exception as error:
            raise InputError(f"{what} fails on a map {_format(shape)}: {_describe(error)}") from error
    module.train()
    if not isinstance(output, torch.Tensor):
        raise InputError(f"{what} returns a {type(output).__name__}, expected a map (batch, channels, height, width)")
    if tuple(output.shape) != (1, *expected):
        raise InputError(
            f"{what} returns {_format(output.shape[1:])} for a map {_format(shape)} (channels x height x width), "
            f"expected {_format(expected)}"
        )
    if not torch.equal(x, before):
        raise InputError(f"{what} changes its input, which other operations read too; leave inplace=True out")
    return module


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _format(shape: tuple[int, ...] | torch.Size) -> str:
    return " x ".join(map(str, shape))
