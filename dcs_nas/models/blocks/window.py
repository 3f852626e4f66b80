"""Attention on a window of channels, as in the code of DCS.

Shapes: B batch, C channels, H x W map, N = HW tokens, K channels of the window.
Source: ``DNonlocal`` in final_version/DNLblock.py and FBNetV2_dnl/DNLblock.py of modeling/backbones/ in
Statistical-Deep-Learning/DCS-Attention at 73573cd, where it replaces the channel masks of the paper
(Wang, Jojic, Yang, arXiv 2505.08961).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.blocks.parts import check_sizes, to_map, to_tokens, widen, zero_started_norm

SHORTEST = 0.25
"""The shortest window as a share of the channels: engine/searcher.py of the code."""


class WindowAttention(nn.Module):
    """Non-local block whose affinities see a learned window of channels: (B, C, H, W) to (B, C, H, W).

    With tokens X in R^{N x C}, start s and length l, both real, and channels counted round (C is 0 again):
    T_k = (1 - f) X_{i+k} + f X_{i+k+1},  i = floor(s), f = s - i,  the window's channel k = 0, 1, ...;
    w_k = min(1, max(0, l - k)),  whose sum is l;
    out = X + BN(depthwise3x3(T diag(w) T^T X / N)).

    No softmax, no projections. T and w are linear between whole numbers, so that start and length have gradients.
    The sum over positions is taken first: N l C products instead of N^2 C. l stays between C / 4 and C.
    The code divides by H and multiplies by W (``f / H * W``; in FBNetV2_dnl rounded down, which has no gradient): a
    factor that the BN takes away. The BN's weight starts at 0, as in ``ZeroInitBN``, which the code's own networks
    overwrite by 1.

    Args:
        channels: C.
        window: (s, l) of a window that does not learn; by default it starts as all channels, s = 0 and l = C.

    Attributes:
        window: (s, l - C) while it is learned, so that weight decay pulls towards all channels.

    Raises:
        InputError: a channel count below 1, a window that does not fit.
    """

    window: nn.Parameter

    def __init__(self, channels: int, *, window: tuple[float, float] | None = None) -> None:
        super().__init__()
        check_sizes(channels=channels)
        self.channels = channels
        self.fixed: tuple[float, float] | None = None
        self.window = nn.Parameter(torch.zeros(2))
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = zero_started_norm(channels)
        if window is not None:
            self.fix(*_check_window(window, channels))

    def fix(self, start: float, length: float) -> None:
        """Fix the window at ``start`` and ``length``, in channels, and remove its parameter."""
        self.fixed = (float(start), float(length))
        del self.window

    @torch.no_grad()
    def at_width(self, width: int) -> tuple[float, float]:
        """Return start and length of the window in the first ``width`` channels; its share of the channels stays."""
        start, length = self.fixed or self._bound(width)
        return float(start) % width % width, float(length)  # twice: -1e-20 % 8 is 8.0

    def forward(self, x: Tensor) -> Tensor:
        """Refine x (B, C, H, W)."""
        return x + self.norm(self.local(self.attend_window(x)))

    def attend_window(self, x: Tensor) -> Tensor:
        """Return T diag(w) T^T X / N of x (B, C', H, W), the first C' channels, as a map of its shape."""
        tokens, width = to_tokens(x), x.shape[1]
        start, length = self._get_window(width)
        size = width if isinstance(length, Tensor) else math.ceil(length)
        places = torch.arange(size, device=x.device, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        first = torch.floor(start) if isinstance(start, Tensor) else math.floor(start)
        share = start - first
        index = (places + first).long() % width
        share = share.to(tokens.dtype) if isinstance(share, Tensor) else share
        seen = tokens[..., index] * (1 - share) + tokens[..., (index + 1) % width] * share
        weights = (length - places).clamp(0.0, 1.0).to(tokens.dtype)
        root = tokens.shape[1] ** -0.5  # in both factors, so that their product stays in the range of float16
        mixed = (seen * weights * root).mT @ (tokens * root)
        return to_map(seen @ mixed, x.shape[2], x.shape[3])

    def _get_window(self, width: int) -> tuple[Any, Any]:
        """Return start and length, as tensors while they are learned."""
        if self.fixed is not None:
            return self.fixed
        if self.training:
            with torch.no_grad():  # where the last step has left the bounds, as the code does after each step
                self.window[1].clamp_((SHORTEST - 1) * self.channels, 0)
        return self._bound(width)

    def _bound(self, width: int) -> tuple[Tensor, Tensor]:
        start, shorter = widen(self.window).unbind()
        return start, (1 + shorter / self.channels).clamp(SHORTEST, 1.0) * width


def _check_window(window: Any, channels: int) -> tuple[float, float]:
    """Return a window of settings as two numbers."""
    try:
        start, length = map(float, window)
    except (TypeError, ValueError):
        start, length = math.nan, math.nan
    if not (0 <= start < channels and 0 < length <= channels):
        raise InputError(
            f"window is {window!r}; expected its start, from 0 to below {channels}, and its length, above 0 and up to "
            f"{channels} channels"
        )
    return start, length
