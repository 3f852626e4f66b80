"""Resampling of maps at positions that have gradients: ``grid_sample`` of separable positions, by matrix products.

Those have second derivatives in every torch and a deterministic backward pass on every device; ``grid_sample`` has not.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn


def interpolation(positions: Tensor, size: int) -> Tensor:
    """Return the linear interpolation (..., ``size``) of ``size`` pixels at positions (...), 0 at the first's centre.

    Beyond the border are zeros. At a pixel the derivative is the one towards the next, as in ``grid_sample``.
    """
    distance = positions.unsqueeze(-1) - torch.arange(size, device=positions.device)
    weights = torch.where(distance < 0, 1 + distance, 1 - distance)
    return weights * ((distance >= -1) & (distance < 1))


class Resample(nn.Module):
    """rows x columns^T for every channel of x: a module, since flops.py counts no resampling."""

    def forward(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Map x (B, C, H, W), rows (B, h, H) and columns (B, h or 1, w, W) to (B, C, h, w), channels_last.

        Computed and returned in the type of ``rows``, also under autocast.
        """
        kind = x.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            lines = rows @ x.to(rows.dtype).permute(0, 2, 3, 1).flatten(2)
            sampled = columns @ lines.unflatten(2, (x.shape[3], x.shape[1]))
        return sampled.permute(0, 3, 1, 2)
