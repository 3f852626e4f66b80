"""Search spaces and genotypes as plain data."""

from dcs_nas.space.genotype import CellGenotype, Edge, Genotype, Origin, SpaceReference, reference
from dcs_nas.space.spec import CELL_KINDS, CellStructure, NetworkSpec, SpaceSpec, read_space, shipped_file, thirds

__all__ = [
    "CELL_KINDS",
    "CellGenotype",
    "CellStructure",
    "Edge",
    "Genotype",
    "NetworkSpec",
    "Origin",
    "SpaceReference",
    "SpaceSpec",
    "read_space",
    "reference",
    "shipped_file",
    "thirds",
]
