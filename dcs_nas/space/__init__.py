"""Search spaces and genotypes as plain data."""

from dcs_nas.space.chain import (
    ChainNetwork,
    ChainSpec,
    ChainStructure,
    Choice,
    Space,
    StageSpec,
    attention_choice,
    block_choices,
    load_space,
    squeezed,
)
from dcs_nas.space.chain_genotype import (
    AnyGenotype,
    BlockGenotype,
    ChainGenotype,
    StageGenotype,
    chain_reference,
    load_genotype,
)
from dcs_nas.space.genotype import CellGenotype, Edge, Genotype, Origin, SpaceReference, reference
from dcs_nas.space.published import is_published, published_text
from dcs_nas.space.spec import CELL_KINDS, CellStructure, NetworkSpec, SpaceSpec, read_space, shipped_file, thirds

__all__ = [
    "CELL_KINDS",
    "AnyGenotype",
    "BlockGenotype",
    "CellGenotype",
    "CellStructure",
    "ChainGenotype",
    "ChainNetwork",
    "ChainSpec",
    "ChainStructure",
    "Choice",
    "Edge",
    "Genotype",
    "NetworkSpec",
    "Origin",
    "Space",
    "SpaceReference",
    "SpaceSpec",
    "StageGenotype",
    "StageSpec",
    "attention_choice",
    "block_choices",
    "chain_reference",
    "is_published",
    "load_genotype",
    "load_space",
    "published_text",
    "read_space",
    "reference",
    "shipped_file",
    "squeezed",
    "thirds",
]
