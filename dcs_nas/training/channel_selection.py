"""DCS-Attention over a training: the figures that are logged after every epoch."""

from __future__ import annotations

import torch
from torch import nn

from dcs_nas.config import DcsConfig
from dcs_nas.models.blocks import kept_shares


def channel_figures(network: nn.Module, settings: DcsConfig, epoch: int) -> dict[str, float]:
    """``tau``, and ``dcs_kept``: the share of channels kept, a mean over the DCS blocks that the last pass ran."""
    figures = {"tau": settings.temperature(epoch)}
    shares = [share for share in kept_shares(network).values() if not share.isnan()]
    if shares:
        figures["dcs_kept"] = float(torch.stack(shares).mean())
    return figures
