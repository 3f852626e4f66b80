"""Neighbours of a genotype and its encoding as numbers, for every kind of space: by ``one_hot`` and ``derive`` alone.

R rows, O candidates of a mixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dcs_nas.models.space_kinds import kind_of
from dcs_nas.space import AnyGenotype, Origin, Space

Weights = dict[str, np.ndarray]
"""Mixture weights (R, O) by name."""


class Neighborhood:
    """The genotypes of a space that differ from one another in a single choice.

    Of one-hot mixture weights a row changes its candidate, or a row's weight moves to an empty row of the same mixture:
    in a cell another operation on an edge, or the same operation on another edge. The weights count where a genotype
    derived from them has these very weights, so that no rule of a kind of space is repeated here.
    """

    def __init__(self, space: Space, network: Any, origin: Origin) -> None:
        self._space, self._network, self._origin, self._kind = space, network, origin, kind_of(space)

    def random(self, genotype: AnyGenotype, random: np.random.Generator) -> Iterator[AnyGenotype]:
        """Yield all neighbours in a random order."""
        weights = {name: np.array(rows) for name, rows in genotype.one_hot().items()}
        changes = list(_changes(weights))
        for index in random.permutation(len(changes)):
            neighbor = self._derive(weights, *changes[index])
            if neighbor is not None:
                yield neighbor

    def _derive(self, weights: Weights, name: str, row: int, column: int, to: tuple[int, int]) -> AnyGenotype | None:
        changed = {**weights, name: weights[name].copy()}
        changed[name][to], changed[name][row, column] = changed[name][row, column], 0
        tensors = {key: torch.tensor(rows) for key, rows in changed.items()}
        genotype = self._kind.derive(tensors, self._space, self._network, origin=self._origin)
        same = all(np.array_equal(rows, changed[key]) for key, rows in genotype.one_hot().items())
        return genotype if same else None


def _changes(weights: Weights) -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    """Yield mixture, row, candidate and the (row, candidate) that takes its place."""
    for name, table in weights.items():
        empty = [row for row in range(len(table)) if not table[row].any()]
        for row, column in zip(*(places.tolist() for places in table.nonzero())):
            yield from ((name, row, column, (row, other)) for other in np.flatnonzero(table[row] == 0).tolist())
            yield from ((name, row, column, (other, column)) for other in empty)


def encode_choices(genotype: AnyGenotype) -> np.ndarray:
    """Return the adjacency encoding of a genotype (F,): all one-hot rows, then how often each candidate is chosen.

    The counts join architectures that choose alike in different places.
    """
    tables = [np.array(rows, dtype=float) for rows in genotype.one_hot().values()]
    return np.concatenate([*(table.ravel() for table in tables), *(table.sum(0) for table in tables)])
