"""What turns a map (B, C, H, W) into a vector (B, C): average, maximum, their sum, generalized mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcs_nas.registry import Registry

POOLS: Registry[type[nn.Module]] = Registry("pooling")
_FLOOR = 1e-6  # below it a value has no power of its own


@POOLS.register("avg")
class AveragePool(nn.Module):
    """The mean over the places of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


@POOLS.register("max")
class MaxPool(nn.Module):
    """The maximum over the places of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


@POOLS.register("avg_max")
class AverageMaxPool(nn.Module):
    """The sum of mean and maximum over the places of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) + x.amax(dim=(2, 3))


@POOLS.register("gem")
class GeneralizedMeanPool(nn.Module):
    """GeM: (mean over places of max(x, 1e-6)^p)^(1/p), p learned from 3 on, one for all channels.

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
            return raised.mean(dim=(2, 3)).pow(1 / self.p)


@POOLS.register("gem_fixed")
class FixedGeneralizedMeanPool(GeneralizedMeanPool):
    """GeM with p = 3."""

    learned = False
