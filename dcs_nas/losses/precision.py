"""Full precision for what half precision would spoil: distances, entropies, logarithms of small probabilities."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` outside autocast, its half-precision tensor arguments raised to float32; float64 stays."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*map(_to_float32, args), **{name: _to_float32(a) for name, a in kwargs.items()})

    return run


def _to_float32(argument: Any) -> Any:
    half = isinstance(argument, Tensor) and argument.dtype in (torch.float16, torch.bfloat16)
    return argument.float() if half else argument
