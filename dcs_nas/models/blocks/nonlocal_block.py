"""The plain non-local block: self-attention on learned embeddings, the baseline of DCS-Attention.

Shapes: B batch, C channels, H x W map, N = HW tokens, D = C / reduction.
Source: Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018, equations 1 to 6 (embedded Gaussian).
"""

from __future__ import annotations

from torch import Tensor, nn

from dcs_nas.models.blocks.parts import attend, attention_scale, check_sizes, to_map, to_tokens, zero_started_norm


class NonLocalBlock(nn.Module):
    """Embedded-Gaussian non-local block: (B, C, H, W) to (B, C, H, W).

    out = X + BN(softmax(s theta(X) phi(X)^T) g(X) W_z), with theta, phi, g: C -> D and W_z: D -> C

    The BN's weight starts at 0: a new block is the identity. No N x N matrix is held.

    Args:
        channels: C.
        reduction: D = C / reduction, at least 1 (published: 2).
        scale: s is 1 for "literal" (published), D^-1/2 for "sqrt", 1 / D for "mean".

    Raises:
        InputError: a size below 1, an unknown scale.
    """

    def __init__(self, channels: int, *, reduction: int = 2, scale: str = "literal") -> None:
        super().__init__()
        check_sizes(channels=channels, reduction=reduction)
        embedded = max(1, channels // reduction)
        self.scale = attention_scale(scale, embedded)
        self.theta = nn.Linear(channels, embedded)
        # The softmax cancels a bias of phi, the BN those of g and out.
        self.phi = nn.Linear(channels, embedded, bias=False)
        self.g = nn.Linear(channels, embedded, bias=False)
        self.out = nn.Linear(embedded, channels, bias=False)
        self.norm = zero_started_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x (B, C, H, W)."""
        tokens = to_tokens(x)
        refined = attend(self.theta(tokens), self.phi(tokens), self.g(tokens), scale=self.scale)
        return x + self.norm(to_map(self.out(refined), x.shape[2], x.shape[3]))
