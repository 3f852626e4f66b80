"""Poolings of a map (B, C, H, W) to a vector (B, C): average, maximum, their sum, generalized mean."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from dcs_nas.registry import Registry

POOLS: Registry[type[nn.Module]] = Registry("pooling")
_FLOOR = 1e-6  # smaller values are raised to it before the power


@POOLS.register("avg")
class AveragePool(nn.Module):
    """The mean over the positions of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


@POOLS.register("max")
class MaxPool(nn.Module):
    """The maximum over the positions of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


@POOLS.register("avg_max")
class AverageMaxPool(nn.Module):
    """The sum of mean and maximum over the positions of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) + x.amax(dim=(2, 3))


@POOLS.register("gem")
class GeneralizedMeanPool(nn.Module):
    """GeM: (mean over positions of max(x, 1e-6)^p)^(1/p), p learned from 3 on, one for all channels.

    Source: Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, equation 3.
    Computed in float32 under autocast: p = 3 leaves the range of half precision at 40.
    """

    learned = True

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]), requires_grad=self.learned)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            raised = (x if x.dtype == torch.float64 else x.float()).clamp(min=_FLOOR).pow(self.p)
            mean = raised.mean(dim=(2, 3)).clamp(min=torch.finfo(raised.dtype).tiny)  # of 1e-6^p, where p > 7.5
            return mean.pow(1 / self.p)


@POOLS.register("gem_fixed")
class FixedGeneralizedMeanPool(GeneralizedMeanPool):
    """GeM with p = 3."""

    learned = False


class StripePool(nn.Module):
    """Horizontal stripes of a map, pooled and side by side: (B, C, H, W) to (B, stripes * out_channels).

    After a 1x1 convolution to ``out_channels``, stripe i of n has the rows floor(i H / n) to floor((i + 1) H / n) - 1.
    Source: vimar-gu/MSINet at 2a8845b, reid/models/msinet.py, ``f_conv``: two stripes of 128 channels.

    Args:
        channels: C.
        out_channels: of each stripe.
        stripes: n, at most H.
        pool: name in ``POOLS``.
    """

    def __init__(self, channels: int, out_channels: int, *, stripes: int, pool: str = "avg") -> None:
        super().__init__()
        self.stripes = stripes
        self.reduce = nn.Conv2d(channels, out_channels, 1)
        self.pool = POOLS[pool]()
        nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.reduce.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        cuts = [i * x.shape[2] // self.stripes for i in range(self.stripes + 1)]
        return torch.cat([self.pool(x[:, :, top:bottom]) for top, bottom in pairwise(cuts)], dim=1)
