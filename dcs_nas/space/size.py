"""How many weights a network's parts would take, reckoned before anything is allocated. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcs_nas.space.chain import ChainStructure
    from dcs_nas.space.spec import CellStructure, NetworkSpec

LARGEST = 10**9
"""Weights of all candidates together, which stand side by side while a network is built: 4 GB."""

_BY_POSITIONS = {"rga", "rga_spatial"}  # their embedding of relations has N^2 / 4 weights, N = HW
_STEM_STRIDE = {"conv": 1, "stride2": 2, "stride4": 4}


def cells_weights(structure: CellStructure, network: NetworkSpec, *, edges: int) -> int:
    """At least the weights of a stack of cells with ``edges`` edges in each, every candidate on every edge.

    Counted are the 1x1 convolutions before a cell, two C x C maps for each candidate, and relations of positions.
    """
    channels, stride = network.channels, _STEM_STRIDE[network.stem]
    positions = -(-network.height // stride) * -(-network.width // stride)
    before = last = network.stem_multiplier * channels
    total = 27 * last
    for i in range(network.cells):
        if network.kind(i) == "reduce":
            channels, positions = 2 * channels, -(-positions // 4)
        total += (before + last) * channels
        total += edges * _candidates(structure.operations, channels, positions)
        before, last = last, structure.nodes * channels
        total += _candidates(structure.attention, last, positions)
    return total


def chain_relations(structure: ChainStructure, height: int, width: int) -> int:
    """Weights of relations of positions in the attention blocks of a chain on images of ``height`` x ``width``."""
    total = 0
    stride: int = structure.stem_stride
    for stage in structure.stages:
        stride *= stage.stride
        positions = -(-height // stride) * -(-width // stride)
        total += sum(positions**2 // 4 for name in stage.attention if name in _BY_POSITIONS)
    return total


def check_weights(total: int, what: str) -> None:
    """``ValueError`` where a network is too large to be meant."""
    if total > LARGEST:
        raise ValueError(
            f"{what} would have at least {total:,} weights, expected at most {LARGEST:,}; take fewer or narrower "
            "layers, smaller images, or no relations of positions (rga)"
        )


def _candidates(names: Iterable[str], channels: int, positions: int) -> int:
    return sum(
        2 * channels**2 + (positions**2 // 4 if name in _BY_POSITIONS else 0) for name in names if name != "none"
    )
