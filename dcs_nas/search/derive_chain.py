"""From mixture weights to the genotype of a chain space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dcs_nas.space import (
    BlockGenotype,
    ChainGenotype,
    ChainNetwork,
    ChainStructure,
    Choice,
    Origin,
    StageGenotype,
    StageSpec,
    attention_choice,
    block_choices,
    chain_reference,
)


def derive_chain(
    weights: Mapping[str, Tensor], structure: ChainStructure, network: ChainNetwork, *, name: str, origin: Origin
) -> ChainGenotype:
    """The genotype that mixture weights (1, candidates) by label stand for: of every choice the strongest candidate.

    Of equal weights the first counts. A choice of one candidate needs no weights.
    """

    def strongest(choice: Choice) -> Any:
        if len(choice.options) == 1:
            return choice.options[0]
        row = weights[choice.label].view(-1).tolist()
        return choice.options[max(range(len(row)), key=row.__getitem__)]

    chosen = {choice.label: strongest(choice) for choice in structure.choices()}
    return chain_genotype(chosen, structure, network, name=name, origin=origin)


def chain_genotype(
    sample: Mapping[str, Any], structure: ChainStructure, network: ChainNetwork, *, name: str, origin: Origin
) -> ChainGenotype:
    """The genotype of a sample by label, e.g. NNI's: the inverse of ``ChainGenotype.to_sample``."""
    stages = tuple(_stage(sample, stage, number) for number, stage in enumerate(structure.stages, start=1))
    return ChainGenotype(space=chain_reference(structure, name), network=network, stages=stages, origin=origin)


def _stage(sample: Mapping[str, Any], stage: StageSpec, number: int) -> StageGenotype:
    blocks, skipped = [], []
    for k in range(1, stage.blocks + 1):
        found = {what: _picked(sample, choice) for what, choice in block_choices(stage, number, k).items()}
        if found.pop("depth") == "skip":
            skipped.append(k)
        else:
            blocks.append(BlockGenotype(**found))
    attention = _picked(sample, attention_choice(stage, number))
    return StageGenotype(blocks=tuple(blocks), skipped=tuple(skipped), attention=attention)


def _picked(sample: Mapping[str, Any], choice: Choice) -> Any:
    return sample[choice.label] if len(choice.options) > 1 else choice.options[0]
