"""Functions that the blocks share: maps as tokens and back, softmax attention without the N x N matrix, checks.

Shapes: B batch, C channels, H x W map, N = HW tokens, D width of queries and keys, E width of values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError, choices

SCALES = ("mean", "sqrt", "literal")
GATE_STARTS = ("constant", "published")


def constants(values: Sequence[float], *, like: Tensor) -> Tensor:
    """Return the values (n,) in ``like``'s type and on its device, without a copy from the processor to it."""
    return torch.stack([like.new_full((), value) for value in values])


def to_tokens(x: Tensor) -> Tensor:
    """Return the tokens (B, N, C) of a map (B, C, H, W), contiguous: a view of a channels_last map, else a copy.

    The fused attention kernels want the last dimension contiguous and fall back to the N x N matrix otherwise.
    """
    return x.flatten(2).transpose(1, 2).contiguous()


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return the map (B, C, H, W) of tokens (B, N, C): a channels_last view."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def attention_scale(scale: str, width: int) -> float:
    """Return the factor in front of q k^T: 1 / ``width`` for "mean", ``width`` ** -0.5 for "sqrt", 1 for "literal".

    Raises:
        InputError: another name.
    """
    if scale not in SCALES:
        raise InputError(f"unknown attention scale '{scale}'; {choices(scale, SCALES)}")
    return {"mean": 1 / width, "sqrt": width**-0.5, "literal": 1.0}[scale]


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Return softmax(scale * q k^T) v (B, N, E) for q (B, N, D), k (B, N, D), v (B, N, E).

    Torch's fused kernels have no second derivative: a caller that needs one wraps the forward pass in
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``, which builds the N x N matrix.
    """
    return F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), scale=scale).squeeze(1)


def zero_started_norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm whose weight starts at 0, so that the residual branch it ends is silent at first."""
    norm = nn.BatchNorm2d(channels)
    nn.init.zeros_(norm.weight)
    return norm


def start_gate(norm: nn.BatchNorm1d | nn.BatchNorm2d, gate_start: str, *, shift: float = 0.0) -> None:
    """Start the BatchNorm of a sigmoid gate's logits: "constant" sets its scale to 0, "published" leaves it.

    A BatchNorm of few logits has unit spread whatever it reads, so a published gate is random at first and multiplies
    noise into the map. At scale 0 every weight is sigmoid(shift), and the scale learns from the first step on.

    Raises:
        InputError: an unknown start.
    """
    if gate_start not in GATE_STARTS:
        raise InputError(f"unknown gate_start '{gate_start}'; {choices(gate_start, GATE_STARTS)}")
    if gate_start == "constant":
        nn.init.zeros_(norm.weight)
        nn.init.constant_(norm.bias, shift)


def widen(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is in half precision, else unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Return x (B, ...) with random images set to 0 and the rest scaled up, so that the mean stays; in training only.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """
    if not training or rate == 0:
        return x
    keep = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * keep / (1 - rate)


def check_sizes(**sizes: int) -> None:
    """Raise ``InputError`` unless every named size is a whole number of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InputError(f"{name} is {size!r}; expected a whole number of at least 1: fix the block's settings")
