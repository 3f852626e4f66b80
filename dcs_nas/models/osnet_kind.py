"""OSNet with a choice of placement of instance norms: supernet, networks, genotypes.

Shapes: B images, C channels, H x W map, D features.
Source: KaiyangZhou/deep-person-reid at f8cd150, projects/OSNet_AIN/osnet_search.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dcs_nas.config import SearchConfig
from dcs_nas.models.backbones.backbone import initialize_convolutional
from dcs_nas.models.backbones.osnet import OmniScaleBlock, OSNetAIN
from dcs_nas.models.flops import CostKind, count, count_map
from dcs_nas.models.relaxation import Softmax
from dcs_nas.models.space_kinds import SPACE_KINDS, SpaceKind, build_relaxation
from dcs_nas.models.supernet import ExpectedCost, Mixture, Supernet, build_mixtures, expect_cost, run_checkpointed
from dcs_nas.space import (
    OSNET_BLOCKS,
    Origin,
    OSNetGenotype,
    OSNetNetwork,
    OSNetReference,
    OSNetSpace,
    OSNetStructure,
    Placement,
)

_NONE: tuple[Placement, ...] = ("none", "none", "none", "none", "none", "none")


class OSNetSupernet(Supernet):
    """Images (B, 3, H, W) to vectors (B, D); each block is the weighted sum of one block for each placement.

    The candidates share no weights. No norm has a scale and shift, as in the published supernet (``NORM_AFFINE``).

    Args:
        relaxation: from alphas to mixture weights.
        checkpoint: drop activations within a candidate and compute them again in the backward pass.
    """

    kind = "vector"
    stem_path = "osnet.maxpool"

    def __init__(
        self, structure: OSNetStructure, network: OSNetNetwork, *, relaxation: Softmax, checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.structure, self.network, self.num_features = structure, network, structure.features
        self.mixtures = build_mixtures(structure.choices(), relaxation)
        self.osnet = OSNetAIN(channels=structure.channels, features=structure.features, instance_norm=_NONE)
        for label, (channels, width) in _list_widths(structure).items():
            stage, block = _locate(label)
            mixture = cast(Mixture, self.mixtures[label])
            getattr(self.osnet, stage)[block] = _Choice(channels, width, mixture, checkpoint=checkpoint)
        for module in self.modules():
            if isinstance(module, _NormBase):
                module.affine = False
                module.weight = module.bias = None  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        return self.osnet(images)

    def cost(self, kind: CostKind) -> ExpectedCost:
        """See ``Supernet``; with one-hot weights it is the cost that ``flops.count`` returns for the fixed network.

        Norms cost no multiply-adds, so those are the same for all placements.
        """
        return partial(expect_cost, *_count_costs(self.structure, self.network, kind))

    def inherit_state(self, genotype: OSNetGenotype) -> dict[str, Tensor]:
        """See ``Supernet``. The scales and shifts of norms, which this supernet lacks, are left out."""
        state = {name: value for name, value in self.osnet.state_dict().items() if ".candidates." not in name}
        for label, placement in genotype.to_sample().items():
            stage, block = _locate(label)
            chosen = getattr(self.osnet, stage)[block].candidates[placement]
            state |= {f"{stage}.{block}.{name}": value for name, value in chosen.state_dict().items()}
        return state


class _Choice(nn.Module):
    """The weighted sum of a block for each placement: (B, C, H, W) to (B, width, H, W)."""

    mixture: Mixture

    def __init__(self, channels: int, width: int, mixture: Mixture, *, checkpoint: bool) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.candidates = nn.ModuleDict(
            {name: OmniScaleBlock(channels, width, instance_norm=cast(Placement, name)) for name in mixture.names}
        )
        initialize_convolutional(self)
        object.__setattr__(self, "mixture", mixture)  # the supernet registers it

    def forward(self, x: Tensor) -> Tensor:
        weights, columns = self.mixture.sample()
        names = list(self.candidates)
        chosen = range(len(names)) if columns is None else columns[0]
        candidates = [(weights[0, c], self.candidates[names[c]]) for c in chosen]
        return torch.stack([w * run_checkpointed(one, x, active=self.checkpoint) for w, one in candidates]).sum(0)


@SPACE_KINDS.register("osnet")
class OSNetKind(SpaceKind):
    """OSNet whose six blocks choose the placement of instance norms (TPAMI 2021)."""

    def supernet(self, space: OSNetSpace, network: OSNetNetwork, settings: SearchConfig) -> OSNetSupernet:
        relaxation = build_relaxation(settings.relaxation)
        return OSNetSupernet(space, network, relaxation=relaxation, checkpoint=settings.checkpoint_activations)

    def build_fixed_network(self, genotype: OSNetGenotype) -> nn.Module:
        space = genotype.space
        return OSNetAIN(channels=space.channels, features=space.features, instance_norm=genotype.placements)

    def genotype_of(
        self, sample: Mapping[str, Any], space: Any, network: OSNetNetwork, *, origin: Origin
    ) -> OSNetGenotype:
        placements = tuple(sample[label] for label in OSNET_BLOCKS)
        reference = OSNetReference.of(space, space.name)
        return OSNetGenotype(space=reference, network=network, placements=placements, origin=origin)


def _locate(label: str) -> tuple[str, int]:
    """Return the stage of a block in ``OSNet``, and its place there.

    >>> _locate("stage1_block2")
    ('conv2', 1)
    """
    return f"conv{int(label[5]) + 1}", int(label[-1]) - 1


def _list_widths(structure: OSNetStructure) -> dict[str, tuple[int, int]]:
    """Return the channels before and after each block."""
    stem, *stages = structure.channels
    inputs = [c for before, width in zip([stem, *stages], stages) for c in (before, width)]
    return dict(zip(OSNET_BLOCKS, zip(inputs, [width for width in stages for _ in range(2)])))


@lru_cache(maxsize=64)
def _count_costs(structure: OSNetStructure, network: OSNetNetwork, kind: CostKind) -> tuple[int, dict[str, list[int]]]:
    """Return the cost of the network without its blocks, and the costs of the placements by block."""
    plain = OSNetAIN(channels=structure.channels, features=structure.features, instance_norm=_NONE)
    rest, costs = count(plain, network.height, network.width).amount(kind), {}
    for i, (label, (channels, width)) in enumerate(_list_widths(structure).items()):
        shape = (channels, *(-(-size // 4) >> i // 2 for size in (network.height, network.width)))
        cost = {
            place: count_map(OmniScaleBlock(channels, width, instance_norm=place), shape)[0].amount(kind)
            for place in ("none", *structure.placements)
        }
        costs[label] = [cost[place] for place in structure.placements]
        rest -= cost["none"]
    return rest, costs
