"""DCS-Attention: self-attention whose affinities see only the channels that each token selects.

Shapes: B batch, C channels, H x W map, N = HW tokens.
Source: Wang, Jojic, Yang, "Differentiable Channel Selection in Self-Attention for Person Re-Identification",
arXiv 2505.08961.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.blocks.parts import (
    attend,
    attention_scale,
    check_sizes,
    to_map,
    to_tokens,
    widen,
    zero_started_norm,
)
from dcs_nas.models.depthwise import DepthwiseConv


def select_channels(logits: Tensor, tau: Tensor | float, training: bool) -> Tensor:
    """Return a binary mask of the logits' shape and dtype: 1 keeps a channel of a token, 0 drops it.

    Training: M~ = sigmoid((T + G1 - G2) / tau) with G1, G2 independent Gumbel(0, 1), whose difference is logistic;
    the mask is 1[M~ > 1/2] forward and has the gradient of M~ (straight-through). Evaluation: 1[T > 0], no noise.
    Half-precision logits draw and squash their noise in float32.
    """
    if not training:
        return (logits > 0).to(logits.dtype)
    wide = widen(logits)
    noise = torch.rand_like(wide).logit_(eps=torch.finfo(wide.dtype).eps)
    soft = (wide + noise).div_(tau).sigmoid_()
    # The bracket is exactly 0, so that the sum is exactly binary.
    return ((soft.detach() > 0.5) + (soft - soft.detach())).to(logits.dtype)


class DCSAttention(nn.Module):
    """Channel-selecting self-attention with a residual: (B, C, H, W) to (B, C, H, W).

    T = X W + b;  M = select_channels(T);  A = softmax(s (X o M)(X o M)^T);  out = X + BN(depthwise3x3(A X))

    The BN's weight starts at 0: a new block is the identity. No N x N matrix is held.

    Args:
        channels: C.
        scale: s is 1 / C for "mean", the default (ours: trained from scratch, the larger ones end below a network
            without attention, see results/reference), C^-1/2 for "sqrt", 1 for "literal" (the paper's formula as
            printed). One that is given stays; the default follows ``set_scale``.
        tau: first temperature; the training loop lowers it by ``set_temperature``.

    Attributes:
        tau: temperature, a scalar tensor.
        kept: share of channels kept in the last forward pass, a scalar tensor (NaN before the first).

    Raises:
        InputError: a channel count below 1, an unknown scale, a temperature of 0 or less.
    """

    tau: Tensor
    kept: Tensor

    def __init__(self, channels: int, *, scale: str | None = None, tau: float = 5.0) -> None:
        super().__init__()
        check_sizes(channels=channels)
        self.own_scale, self.scale_kind = scale is not None, "mean" if scale is None else scale
        attention_scale(self.scale_kind, channels)
        self.selector = nn.Linear(channels, channels)
        self.local = DepthwiseConv(channels, 3)
        self.norm = zero_started_norm(channels)
        # Buffers, not floats: a compiled block reads new values without recompiling.
        self.register_buffer("tau", torch.tensor(_require_positive(tau)), persistent=False)
        self.register_buffer("kept", torch.tensor(float("nan")), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x (B, C, H, W); in training every pass draws new masks."""
        tokens = to_tokens(x)
        mask = select_channels(self.selector(tokens), self.tau, self.training).to(tokens.dtype)
        self._record(mask)
        selected = tokens * mask
        refined = attend(selected, selected, tokens, scale=attention_scale(self.scale_kind, x.shape[1]))
        return x + self.norm(self.local(to_map(refined, x.shape[2], x.shape[3])))

    @torch.no_grad()
    def mask(self, x: Tensor) -> Tensor:
        """Return the noiseless selection of a map x: (B, C, H, W), true if token (h, w) keeps channel c."""
        return to_map(self.selector(to_tokens(x)) > 0, x.shape[2], x.shape[3])

    def _record(self, mask: Tensor) -> None:
        # An exported network has no use for the metric.
        if self.training or not torch.compiler.is_compiling():
            self.kept.copy_(mask.detach().mean(dtype=torch.float32))


def set_temperature(module: nn.Module, tau: float) -> None:
    """Set the temperature of every DCS block in ``module``; raise ``InputError`` if it is not above 0."""
    tau = _require_positive(tau)
    for block in module.modules():
        if isinstance(block, DCSAttention):
            block.tau.fill_(tau)


def set_scale(module: nn.Module, kind: str) -> None:
    """Set the scale of every DCS block in ``module`` that was built without one; raise ``InputError`` if unknown."""
    attention_scale(kind, 1)
    for block in module.modules():
        if isinstance(block, DCSAttention) and not block.own_scale:
            block.scale_kind = kind


def read_kept_shares(module: nn.Module) -> dict[str, Tensor]:
    """Return the share of channels that the last pass of each DCS block in ``module`` kept, by name, on its device."""
    return {name: block.kept.clone() for name, block in module.named_modules() if isinstance(block, DCSAttention)}


def _require_positive(tau: float) -> float:
    if not tau > 0:
        raise InputError(f"the temperature tau is {tau}; expected a number above 0, such as the published start 5.0")
    return float(tau)
