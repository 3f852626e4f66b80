"""Chain spaces: networks, derivation, random genotypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from dcs_nas.config import SearchConfig
from dcs_nas.models.chain_space import build_fixed_chain
from dcs_nas.models.chain_supernet import ChainSupernet
from dcs_nas.models.space_kinds import SPACE_KINDS, SpaceKind, build_relaxation
from dcs_nas.space import (
    BlockGenotype,
    ChainGenotype,
    ChainNetwork,
    ChainReference,
    ChainSpec,
    Choice,
    Origin,
    StageGenotype,
    StageSpec,
    attention_choice,
    block_choices,
)

Named = ChainSpec | ChainReference


@SPACE_KINDS.register("chain")
class ChainKind(SpaceKind):
    """Stages of inverted-residual blocks (FBNetV2, arXiv 2004.05565; DCS-DNAS, arXiv 2505.08961)."""

    def supernet(self, space: ChainSpec, network: ChainNetwork, settings: SearchConfig) -> ChainSupernet:
        relaxation = build_relaxation(settings.relaxation)
        return ChainSupernet(space, network, relaxation=relaxation, checkpoint=settings.checkpoint_activations)

    def build_fixed_network(self, genotype: ChainGenotype) -> nn.Module:
        return build_fixed_chain(genotype)

    def derive(
        self,
        weights: Mapping[str, Tensor],
        space: Named,
        network: ChainNetwork,
        *,
        origin: Origin,
        max_skips: int | None = None,
    ) -> ChainGenotype:
        """Return the genotype of the strongest candidates by mixture weights (1, candidates) by label.

        Of equal weights the first counts. A choice of one candidate needs no weights.
        """
        rows = {choice: weights[choice.label].view(-1).tolist() for choice in space.choices()}
        chosen = {c.label: c.options[max(range(len(row)), key=row.__getitem__)] for c, row in rows.items()}
        return self.genotype_of(chosen, space, network, origin=origin)

    def random_genotype(
        self, space: Named, network: ChainNetwork, random: np.random.Generator, *, origin: Origin
    ) -> ChainGenotype:
        sample = {choice.label: choice.options[random.integers(len(choice.options))] for choice in space.choices()}
        return self.genotype_of(sample, space, network, origin=origin)

    def genotype_of(
        self, sample: Mapping[str, Any], space: Named, network: ChainNetwork, *, origin: Origin
    ) -> ChainGenotype:
        stages = tuple(_stage(sample, stage, number) for number, stage in enumerate(space.stages, start=1))
        return ChainGenotype(space=ChainReference.of(space, space.name), network=network, stages=stages, origin=origin)


def _stage(sample: Mapping[str, Any], stage: StageSpec, number: int) -> StageGenotype:
    blocks, skipped = [], []
    for k in range(1, stage.blocks + 1):
        options = {what: _pick(sample, choice) for what, choice in block_choices(stage, number, k).items()}
        if options.pop("depth") == "skip":
            skipped.append(k)
        else:
            blocks.append(BlockGenotype(**options))
    attention = _pick(sample, attention_choice(stage, number))
    return StageGenotype(blocks=tuple(blocks), skipped=tuple(skipped), attention=attention)


def _pick(sample: Mapping[str, Any], choice: Choice) -> Any:
    return sample[choice.label] if len(choice.options) > 1 else choice.options[0]
