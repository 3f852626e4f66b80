"""MSI spaces: supernet, costs, networks, genotypes. The modules are those of the backbone ``msinet``.

Shapes: B images, C channels, H x W map; n candidates of an interaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dcs_nas.config import SearchConfig
from dcs_nas.models.backbones.backbone import initialize_convolutional
from dcs_nas.models.backbones.msinet import INTERACTIONS, Branches, MSITrunk
from dcs_nas.models.flops import Cost, CostKind, count, count_map
from dcs_nas.models.relaxation import Sample, Softmax
from dcs_nas.models.space_kinds import SPACE_KINDS, SpaceKind, build_relaxation
from dcs_nas.models.supernet import ExpectedCost, Supernet, build_mixtures, expect_cost
from dcs_nas.space import MsiGenotype, MsiNetwork, MsiReference, MsiSpec, MsiStructure, Origin
from dcs_nas.space.msi import CELLS, LABELS

_MIXED = ".candidates."


class MixedInteraction(nn.Module):
    """Two maps (B, C, H, W) to the weighted sums of the candidates' outputs; those of weight 0 are not computed.

    Source: vimar-gu/MSINet at 2a8845b, reid/models/search_cnn.py.

    Args:
        channels: C.
        names: of the candidates.
        draw: returns their weights (1, n) of the current pass.
    """

    def __init__(self, channels: int, *, names: Sequence[str], draw: Callable[[], Sample]) -> None:
        super().__init__()
        self.candidates = nn.ModuleDict({name: INTERACTIONS[name](channels) for name in names})
        self._draw = draw

    def forward(self, a: Tensor, b: Tensor) -> Branches:
        weights, columns = self._draw()
        candidates = list(self.candidates.values())
        first, second = torch.zeros_like(a), torch.zeros_like(b)
        for k in range(len(candidates)) if columns is None else columns[0]:
            one, two = candidates[k](a, b)
            first, second = first + weights[0, k] * one, second + weights[0, k] * two
        return first, second


class MsiSupernet(Supernet):
    """Images (B, 3, H, W) to (B, D, h, w), D = ``channels[3]``: MSINet whose interactions are all candidates, mixed.

    The published search has branches of a quarter of a cell's *input*; here they are as wide as in the derived network,
    so that it computes the same as the supernet with one-hot weights.

    Args:
        relaxation: from alphas to mixture weights; softmax by default.
    """

    stem_path = "trunk.maxpool"

    def __init__(self, structure: MsiStructure, network: MsiNetwork, *, relaxation: Softmax | None = None) -> None:
        super().__init__()
        self.structure, self.network = structure, network
        self.num_features = structure.channels[-1]
        self.mixtures = build_mixtures(structure.choices(), relaxation or Softmax())
        makers = [partial(MixedInteraction, names=m.names, draw=m.sample) for _, m in self._mixtures()]
        self.trunk = MSITrunk(makers, structure.channels)
        initialize_convolutional(self.trunk)

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images)

    def cost(self, kind: CostKind) -> ExpectedCost:
        """See ``Supernet``: a float64 scalar (float32 on MPS); every addend depends on one choice, so it is exact."""
        every, fixed = _count_candidates(self.structure, self.network)
        rows = {label: [cost.amount(kind) for cost in costs] for label, costs in every.items()}
        return partial(expect_cost, fixed.amount(kind), rows)

    def inherit_state(self, genotype: MsiGenotype) -> dict[str, Tensor]:
        kept = dict(zip(_list_places(self.trunk), genotype.to_sample().values()))
        state = {}
        for name, value in self.trunk.state_dict().items():
            place, _, rest = name.partition(_MIXED)
            candidate, _, leaf = rest.partition(".")
            if not rest or candidate == kept[place]:
                state[f"{place}.{leaf}" if rest else name] = value
        return state


@SPACE_KINDS.register("msi")
class MsiKind(SpaceKind):
    """MSINet's cells of two branches (CVPR 2023)."""

    def supernet(self, space: MsiSpec, network: MsiNetwork, settings: SearchConfig) -> MsiSupernet:
        return MsiSupernet(space, network, relaxation=build_relaxation(settings.relaxation))

    def build_fixed_network(self, genotype: MsiGenotype) -> MSITrunk:
        trunk = _build_trunk(genotype.to_sample().values(), genotype.space.channels)
        initialize_convolutional(trunk)
        return trunk

    def genotype_of(
        self, sample: Mapping[str, Any], space: MsiSpec | MsiReference, network: MsiNetwork, *, origin: Origin
    ) -> MsiGenotype:
        names = [sample[label] for label in LABELS]
        cells = tuple(zip(names[::2], names[1::2]))
        return MsiGenotype(space=MsiReference.of(space, space.name), network=network, cells=cells, origin=origin)


class _WithItself(nn.Module):
    """An interaction of a map (B, C, H, W) with itself, to be counted."""

    def __init__(self, interaction: nn.Module) -> None:
        super().__init__()
        self.interaction = interaction

    def forward(self, x: Tensor) -> Tensor:
        return self.interaction(x, x)[0]


def _build_trunk(names: Any, channels: Sequence[int]) -> MSITrunk:
    return MSITrunk([INTERACTIONS[name] for name in names], channels)


def _list_places(trunk: MSITrunk) -> list[str]:
    """Return the paths of the 12 interactions, in order."""
    cells = [n for n in range(len(trunk.cells)) if n % 3 != 2]
    return [f"cells.{n}.{place}" for n in cells for place in ("_op2", "_op3")]


def _count_candidates(structure: MsiStructure, network: MsiNetwork) -> tuple[dict[str, list[Cost]], Cost]:
    """Return the cost of each candidate by label, and of the network without interactions."""
    stages = [
        [
            count_map(_WithItself(INTERACTIONS[name](channels // 4)), (channels // 4, *size))[0]
            for name in structure.interactions
        ]
        for channels, size in zip(structure.channels[1:], network.sizes())
    ]
    per_stage = len(LABELS) // len(stages)
    every = {label: stages[n // per_stage] for n, label in enumerate(LABELS)}
    plain = _build_trunk(["none"] * 2 * CELLS, structure.channels)
    return every, count(plain, network.height, network.width)
