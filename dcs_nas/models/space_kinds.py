"""The networks and the derivation of a kind of search space: one class for each kind, registered under its name.

R rows (edges) of a mixture, O candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from dcs_nas.config import RelaxationConfig, SearchConfig
from dcs_nas.models.relaxation import RELAXATIONS, Softmax
from dcs_nas.models.supernet import Supernet
from dcs_nas.registry import Registry
from dcs_nas.space import AnyGenotype, Origin, Space

if TYPE_CHECKING:
    from dcs_nas.models.cell_costs import CellCosts


class SpaceKind:
    """The networks and genotypes of a kind of space. ``space`` and ``network`` are a ``Space`` and its ``network``."""

    def supernet(self, space: Any, network: Any, settings: SearchConfig) -> Supernet:
        """Return the network with every candidate in it."""
        raise NotImplementedError

    def build_fixed_network(self, genotype: Any) -> nn.Module:
        """Return the network of a genotype, to be trained from scratch: images to a map (B, ``num_features``, h, w)."""
        raise NotImplementedError

    def derive(
        self, weights: Mapping[str, Tensor], space: Any, network: Any, *, origin: Origin, max_skips: int | None = None
    ) -> AnyGenotype:
        """Return the genotype that mixture weights (R, O) by name stand for.

        By default the strongest candidate of each of ``space.choices()``, the first of equal ones.
        """
        rows = [(choice, weights[choice.label].view(-1).tolist()) for choice in space.choices()]
        sample = {choice.label: choice.options[row.index(max(row))] for choice, row in rows}
        return self.genotype_of(sample, space, network, origin=origin)

    def random_genotype(self, space: Any, network: Any, random: np.random.Generator, *, origin: Origin) -> AnyGenotype:
        """Return a genotype that a search may derive, every choice drawn uniformly."""
        sample = {choice.label: choice.options[random.integers(len(choice.options))] for choice in space.choices()}
        return self.genotype_of(sample, space, network, origin=origin)

    def genotype_of(self, sample: Mapping[str, Any], space: Any, network: Any, *, origin: Origin) -> AnyGenotype:
        """Return the genotype of the choices by label: the inverse of ``AnyGenotype.to_sample``."""
        raise NotImplementedError

    def fit_width(self, genotype: Any, parameters: int) -> AnyGenotype:
        """Return the genotype at the width whose backbone comes nearest to so many parameters.

        Of kinds that support the setting ``trials.parameters``.
        """
        raise NotImplementedError

    def costs(self, structure: Any, network: Any) -> CellCosts | None:
        """Return the costs of all candidates, where they can be separated, as latency tables need."""
        return None


SPACE_KINDS: Registry[type[SpaceKind]] = Registry("kind of network")
"""Kind to its class. The names are those of ``dcs_nas.space.SPACES``."""


def kind_of(space: Space | AnyGenotype) -> SpaceKind:
    """Return the ``SpaceKind`` of a space or genotype."""
    return SPACE_KINDS[space.kind]()


def cell_settings(search: SearchConfig) -> dict[str, bool]:
    """Return the settings of a search that not every kind of space supports, and whether they are set."""
    relaxation = search.relaxation
    return {
        "channels": search.channels is not None,
        "cells": search.cells is not None,
        "relaxation.partial_channels": relaxation.partial_channels > 1,
        "relaxation.edge_normalization": bool(relaxation.edge_normalization),
        "checkpoint_activations": search.checkpoint_activations,
        "derivation 'perturbation'": search.derivation == "perturbation",
        "guard.max_skips": search.guard.max_skips is not None,
    }


def build_relaxation(settings: RelaxationConfig) -> Softmax:
    """Return the relaxation that the settings name, at its first temperature."""
    options = {"anchor": settings.anchor} if settings.anchor else {}
    relaxation = RELAXATIONS[settings.kind](**options)
    relaxation.temperature = settings.temperature
    return relaxation
