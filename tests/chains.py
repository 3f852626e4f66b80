"""Small chain spaces and random genotypes of them, for tests."""

from __future__ import annotations

from typing import Any

import torch

from dcs_nas.models.chain_kind import ChainKind
from dcs_nas.space import ChainGenotype, ChainSpec, Origin

STAGES: list[dict[str, Any]] = [
    {"blocks": 1, "widths": [4, 8], "expansions": [1], "activation": "hswish"},
    {
        "blocks": 3,
        "stride": 2,
        "widths": [8, 12, 16],
        "skip": True,
        "squeeze_excite": [False, True],
        "attention": ["none", "dcs", "harmonious", "rga", "nonlocal"],
    },
    {"blocks": 2, "widths": [12, 20], "expansions": [2, 3], "kernels": [5], "attention": ["none", "dcs"]},
]


def chain_space(stages: list[dict[str, Any]] | None = None, **changes: Any) -> ChainSpec:
    return ChainSpec(**{"name": "tiny", "stem": 8, "features": 24, "stages": stages or STAGES, **changes})


def random_weights(space: ChainSpec, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {c.label: torch.rand(1, len(c.options), generator=generator, dtype=dtype) for c in space.choices()}
    return {label: row / row.sum() for label, row in drawn.items()}


def random_chain(space: ChainSpec, seed: int, *, height: int = 32, width: int = 16) -> ChainGenotype:
    network = space.network(height, width)
    return ChainKind().derive(random_weights(space, seed), space, network, origin=Origin())
