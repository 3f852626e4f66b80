"""DCS-Attention over a training: its temperature falls from epoch to epoch, its figures are logged."""

from __future__ import annotations

import torch
from torch import nn

from dcs_nas.config import DcsConfig
from dcs_nas.models.blocks import kept_shares, set_temperature, temperature


def cool(network: nn.Module, settings: DcsConfig, epoch: int) -> None:
    """Set the temperature of all DCS blocks to that of an epoch, from 0: tau * decay ** epoch."""
    set_temperature(network, temperature(epoch, start=settings.tau, decay=settings.decay))


def channel_figures(network: nn.Module, settings: DcsConfig, epoch: int) -> dict[str, float]:
    """``tau``, and ``dcs_kept``: the share of channels kept, a mean over the DCS blocks that the last pass ran."""
    figures = {"tau": temperature(epoch, start=settings.tau, decay=settings.decay)}
    shares = [share for share in kept_shares(network).values() if not share.isnan()]
    if shares:
        figures["dcs_kept"] = float(torch.stack(shares).mean())
    return figures
