"""What the fixed network costs: parameters, multiply-adds and activation memory, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from dcs_nas.errors import InputError
from dcs_nas.extensions import load_recorded
from dcs_nas.report.run_files import RunFiles

COLUMNS = ["layer", "kind", "output", "parameters", "multiply-adds", "kept for the backward pass"]


@dataclass(frozen=True)
class Cost:
    """Rows of text with the share of all multiply-adds; the totals of the network without its head."""

    rows: list[tuple[list[str], float]]
    parameters: int
    macs: int
    activations: int
    size: str


def cost_table(run: RunFiles) -> Cost | None:
    """The costs of the network that the run found or trained; None where it has none.

    Raises:
        InputError: settings or a genotype that no longer build a network.
    """
    import torch
    from torch import nn

    from dcs_nas.config import Config, RetrainConfig
    from dcs_nas.models.build import build_fixed
    from dcs_nas.models.profile import profile
    from dcs_nas.settings import parse

    config = parse(Config, run.config, source="config.yaml")
    settings = RetrainConfig() if run.searched or config.retrain is None else config.retrain
    if settings.backbone is None and run.genotype is None:
        return None
    load_recorded(run.path)
    settings = settings.model_copy(update={"weights": None, "inherit": None})
    genotype = None if settings.backbone else run.genotype
    height, width = config.data.height, config.data.width
    with torch.random.fork_rng(devices=[]):
        backbone = build_fixed(settings, config.data, 1, genotype).backbone
        if not isinstance(backbone, nn.Module):
            raise InputError("the network has no backbone to measure")
        found = profile(backbone, height, width, device=torch.device("cpu"), depth=2, rounds=0)
    most = max(found.macs, 1)
    rows = [
        (
            [
                layer.name or "(itself)",
                layer.kind,
                " × ".join(map(str, layer.output)),
                f"{layer.parameters:,}",
                _short(layer.macs),
                f"{layer.activation_bytes / 1024:,.1f} KiB",
            ],
            layer.macs / most,
        )
        for layer in found.layers
        if layer.parameters or layer.macs or layer.activation_bytes
    ]
    return Cost(rows, found.parameters, found.macs, found.activation_bytes, f"{height} × {width}")


def _short(count: int) -> str:
    """Millions where there is one, else thousands.

    >>> _short(12_345_678), _short(4_500), _short(0)
    ('12.35 M', '4.5 k', '0')
    """
    return f"{count / 1e6:,.2f} M" if count >= 1e6 else f"{count / 1e3:,.1f} k" if count else "0"
