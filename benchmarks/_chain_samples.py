"""Genotypes of a chain space that no search found: random ones of a given size, the smallest and the largest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dcs_nas.models.chain_kind import ChainKind, ChainSupernet
from dcs_nas.models.supernet import one_hot
from dcs_nas.space import ChainGenotype, ChainNetwork, ChainSpec, Choice, Origin

NEAR = 0.03
DRAWS = 20_000


class ChainSampler:
    """Genotypes of ``space`` for images of ``network``'s size; their multiply-adds are the supernet's exact cost."""

    def __init__(self, space: ChainSpec, network: ChainNetwork) -> None:
        self.space, self.network = space, network
        self.supernet = ChainSupernet(space, network)

    def multiply_adds(self, genotype: ChainGenotype) -> int:
        """Of one image."""
        return round(float(self.supernet.compute_expected_cost("flops", one_hot(genotype))))

    def random(self, wanted: float, random: np.random.Generator) -> ChainGenotype:
        """A genotype of about ``wanted`` multiply-adds; of those drawn, the first within ``NEAR``, or the nearest."""
        weights = self.tilted(wanted)
        nearest: tuple[float, ChainGenotype] | None = None
        for _ in range(DRAWS):
            draw = {c.label: c.options[random.choice(len(c.options), p=weights[c.label])] for c in self.space.choices()}
            found = self._genotype(draw, "random")
            off = abs(self.multiply_adds(found) / wanted - 1)
            if nearest is None or off < nearest[0]:
                nearest = off, found
            if off <= NEAR:
                break
        assert nearest is not None
        return nearest[1]

    def tilted(self, wanted: float) -> dict[str, np.ndarray]:
        """Probabilities by label whose expected multiply-adds are ``wanted``: softmax(t * place), place in [-1, 1]."""
        low, high = -20.0, 20.0
        for _ in range(40):
            middle = (low + high) / 2
            given = {label: torch.from_numpy(row)[None] for label, row in self._weights(middle).items()}
            cost = float(self.supernet.compute_expected_cost("flops", given))
            low, high = (middle, high) if cost < wanted else (low, middle)
        return self._weights(low)

    def extreme(self, *, largest: bool) -> ChainGenotype:
        """The smallest or the largest network: every choice at that end, of attention what costs least or most."""
        end = -1 if largest else 0
        draw = {
            c.label: (c.options[::-1] if c.label.endswith("depth") else c.options)[end] for c in self.space.choices()
        }
        for choice in self.space.choices():
            if choice.label.endswith("attention"):
                tried = [self._genotype({**draw, choice.label: option}, "extreme") for option in choice.options]
                costs = dict(zip(choice.options, map(self.multiply_adds, tried)))
                draw[choice.label] = (max if largest else min)(costs, key=costs.__getitem__)
        return self._genotype(draw, "extreme")

    def _weights(self, tilt: float) -> dict[str, np.ndarray]:
        found = {}
        for choice in self.space.choices():
            scores = np.exp(tilt * _places(choice))
            found[choice.label] = scores / scores.sum()
        return found

    def _genotype(self, draw: Mapping[str, Any], method: str) -> ChainGenotype:
        return ChainKind().genotype_of(draw, self.space, self.network, origin=Origin(method=method))


def _places(choice: Choice) -> np.ndarray:
    """Where each candidate stands between the cheapest, -1, and the dearest, 1; of attention all at 0."""
    count = len(choice.options)
    if choice.label.endswith("attention"):
        return np.zeros(count)
    places = np.linspace(-1, 1, count)
    return places[::-1] if choice.label.endswith("depth") else places
