"""The part-aware module of Auto-ReID: attention among parts of the body.

Shapes: B batch, C channels, H x W map, P parts.
Source: Quan, Dong, Wu, Zhu, Yang, "Auto-ReID: Searching for a Part-Aware ConvNet for Person Re-Identification", ICCV
2019 (arXiv 1903.09776), section 3.3. Its code was announced and is not published.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.blocks.parts import attend, attention_scale, check_sizes


class PartAware(nn.Module):
    """Self-attention among the horizontal parts of a map, fused with the map: (B, C, H, W) to (B, C, H, W).

    T = mean of each part (B, P, C) W_t + b_t
    out = W_f [X, repeat(softmax(C^-1/2 T T^T) T)]

    ``repeat`` puts the vector of a part at each of its positions, W_f (1 x 1) maps 2C channels to C. Ours, since the
    paper leaves them open: the scale of the attention, T as queries, keys and values, and that W_f starts as [I, 0], so
    that a new block is the identity.

    Args:
        channels: C.
        height: H.
        parts: P, 4 in the paper; at most H of them are used. The first H mod P parts have one row more than the others.

    Raises:
        InputError: a size below 1; in ``forward``, a map of another height.
    """

    members: Tensor  # (P, H), 1 where a row is in a part

    def __init__(self, channels: int, height: int, *, parts: int = 4) -> None:
        super().__init__()
        check_sizes(channels=channels, height=height, parts=parts)
        self.scale = attention_scale("sqrt", channels)
        self.transform = nn.Linear(channels, channels)
        self.fuse = nn.Conv2d(2 * channels, channels, 1, bias=False)
        with torch.no_grad():
            self.fuse.weight.copy_(torch.eye(channels, 2 * channels)[..., None, None])
        parts = min(parts, height)
        part_of_row = torch.tensor([i for i, rows in enumerate(torch.arange(height).tensor_split(parts)) for _ in rows])
        self.register_buffer("members", torch.eye(parts)[:, part_of_row], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x (B, C, H, W)."""
        members = self.members.to(x.dtype)
        if x.shape[2] != members.shape[1]:
            raise InputError(
                f"the part-aware module got a map of {x.shape[2]} rows; expected {members.shape[1]}: resize the images"
            )
        parts = self.transform((x.mean(3) @ (members / members.sum(1, keepdim=True)).T).transpose(1, 2))
        parts = attend(parts, parts, parts, scale=self.scale)
        of_map, of_parts = self.fuse.weight.chunk(2, dim=1)  # W_f of a repeated vector is the same at all its positions
        rows = F.linear(parts, of_parts.flatten(1)).transpose(1, 2) @ members
        return F.conv2d(x, of_map) + rows.unsqueeze(3)
