"""What a supernet is to those who train and read it: mixtures by name, their draws, fixed weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from dcs_nas.models.mixture import Mixture
from dcs_nas.models.relaxation import Sample


class MixedNetwork(nn.Module):
    """A network that computes with the weights of ``mixtures``, its only place for architecture parameters (alphas)."""

    mixtures: nn.ModuleDict
    structure: Any
    network: Any
    num_features: int

    def one_hot(self, genotype: Any) -> dict[str, Tensor]:
        """Mixture weights by name that compute what a genotype of the space computes."""
        raise AssertionError(f"{type(self).__name__} does not say which weights a genotype stands for")

    @contextmanager
    def fixed_to(self, genotype: Any) -> Iterator[None]:
        """Within it, the mixture weights are the genotype's: 1 for what it keeps, 0 for the rest."""
        with self.fixed_weights(self.one_hot(genotype)):
            yield

    def alphas(self) -> dict[str, nn.Parameter]:
        """Architecture parameters by name, (rows, candidates) each."""
        return {name: mixture.alpha for name, mixture in self._mixtures()}

    def weights(self) -> list[nn.Parameter]:
        """All parameters but the alphas."""
        alphas = {id(alpha) for alpha in self.alphas().values()}
        return [p for p in self.parameters() if id(p) not in alphas]

    def mixture_weights(self) -> dict[str, Tensor]:
        """Detached mixture weights by name, without what is random in a draw."""
        return {name: mixture.expected().detach() for name, mixture in self._mixtures()}

    def expected_weights(self) -> dict[str, Tensor]:
        """Differentiable mixture weights by name, without what is random in a draw."""
        return {name: mixture.expected() for name, mixture in self._mixtures()}

    @contextmanager
    def drawn(self, *, expected: bool = False) -> Iterator[None]:
        """Within it, all passes use the mixture weights that are drawn now, or the expected ones."""
        for _, mixture in self._mixtures():
            mixture.drawn = None
            mixture.drawn = Sample(mixture.expected()) if expected else mixture.sample()
        try:
            yield
        finally:
            for _, mixture in self._mixtures():
                mixture.drawn = None

    @contextmanager
    def fixed_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within it, these weights by name replace those of the alphas; what is 0 is not computed."""
        before = {name: mixture.fixed for name, mixture in self._mixtures()}
        for name, mixture in self._mixtures():
            if name in weights:
                mixture.fix(weights[name])
        try:
            yield
        finally:
            for name, mixture in self._mixtures():
                mixture.fixed = before[name]

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature of the relaxation."""
        for _, mixture in self._mixtures():
            mixture.relaxation.temperature = temperature

    def penalty(self) -> Tensor | None:
        """The sum of the relaxation's regularisers, or None where it has none."""
        found = [penalty for _, mixture in self._mixtures() if (penalty := mixture.penalty()) is not None]
        return torch.stack(found).sum() if found else None

    def _mixtures(self) -> Iterator[tuple[str, Mixture]]:
        return cast("Iterator[tuple[str, Mixture]]", iter(self.mixtures.items()))
