"""The order of places in the layers of a graph, with few crossings (Sugiyama, Tagawa, Toda, 1981)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import accumulate, pairwise

Links = dict[str, list[str]]
_ROUNDS, _STARTS = 4, 6


def reduce_crossings(layers: list[list[str]], left: Links, right: Links, fixed: dict[str, int]) -> list[list[str]]:
    """The layers reordered: the order with fewest crossings that sweeps and sifting find from several starts.

    ``left`` and ``right`` give the neighbours of every place in the layers beside its own; those in ``fixed`` stay in
    the order of their numbers. The same layers always give the same order.
    """
    layers = [list(layer) for layer in layers]
    best, fewest = [list(layer) for layer in layers], crossings(layers, right)
    shuffle = random.Random(0).shuffle
    for start in range(_STARTS):
        for count in _improve(layers, left, right, fixed, sweeping=start % 2 == 0):
            if count < fewest:
                best, fewest = [list(layer) for layer in layers], count
        if fewest == 0:
            break
        for layer in layers:
            shuffle(layer)
            _keep_order(layer, fixed)
    return best


def _improve(
    layers: list[list[str]], left: Links, right: Links, fixed: dict[str, int], *, sweeping: bool
) -> Iterator[int]:
    """Reorder the layers in place, giving the crossings left each time, until a round brings nothing.

    Sifting alone, without ``sweeping`` by barycentre, ends in other orders from other starts.
    """
    last = math.inf
    for _ in range(_ROUNDS):
        for beside, backwards in ((left, False), (right, True)):
            if sweeping:
                _sweep(layers, beside, fixed, backwards=backwards)
            _sift(layers, left, right, fixed)
            count = crossings(layers, right)
            yield count
        if count >= last:
            return
        last = count


def crossings(layers: list[list[str]], right: Links) -> int:
    """How many pairs of links cross between neighbouring layers."""
    total = 0
    for layer, following in pairwise(layers):
        ends = [_ends(name, right, _places(following)) for name in layer]
        total += sum(p > q for i, upper in enumerate(ends) for lower in ends[i + 1 :] for p in upper for q in lower)
    return total


def _places(layer: list[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(layer)}


def _ends(name: str, links: Links, places: dict[str, int]) -> list[int]:
    return [places[other] for other in links.get(name, [])]


def _sweep(layers: list[list[str]], beside: Links, fixed: dict[str, int], *, backwards: bool) -> None:
    """Sort every layer by the mean place of what stands in the layer before it."""
    order = list(reversed(layers)) if backwards else layers
    _sort(order[0], {}, beside, fixed)
    for before, layer in pairwise(order):
        _sort(layer, _places(before), beside, fixed)


def _sort(layer: list[str], places: dict[str, int], beside: Links, fixed: dict[str, int]) -> None:
    """Sort a layer by barycentre; what has no neighbours keeps its place."""

    def centre(item: tuple[int, str]) -> float:
        ends = _ends(item[1], beside, places)
        return sum(ends) / len(ends) if ends else float(item[0])

    layer[:] = [name for _, name in sorted(enumerate(layer), key=centre)]
    _keep_order(layer, fixed)


def _keep_order(layer: list[str], fixed: dict[str, int]) -> None:
    """Put what is fixed in order, in the slots that it has."""
    slots = [i for i, name in enumerate(layer) if name in fixed]
    for slot, name in zip(slots, sorted((layer[i] for i in slots), key=fixed.__getitem__)):
        layer[slot] = name


def _sift(layers: list[list[str]], left: Links, right: Links, fixed: dict[str, int]) -> None:
    """Move each place, one after the other, to where in its layer it causes the fewest crossings."""
    for i, layer in enumerate(layers):
        before = _places(layers[i - 1]) if i else {}
        after = _places(layers[i + 1]) if i + 1 < len(layers) else {}
        ends = {name: (_ends(name, left, before), _ends(name, right, after)) for name in layer}
        for name in list(layer):
            at = layer.index(name)
            others = layer[:at] + layer[at + 1 :]
            savings = [sum(_saving(p, q) for p, q in zip(ends[name], ends[other])) for other in others]
            passed = list(accumulate(savings, initial=0))  # crossings saved by standing below the first k others
            allowed = _allowed(name, others, fixed)
            best = max(allowed, key=lambda k: (passed[k], k == at))
            layer[:] = [*others[:best], name, *others[best:]]


def _allowed(name: str, others: list[str], fixed: dict[str, int]) -> range:
    """Where ``name`` may stand among the others, so that what is fixed stays in order."""
    if name not in fixed:
        return range(len(others) + 1)
    above = [k + 1 for k, other in enumerate(others) if fixed.get(other, math.inf) < fixed[name]]
    below = [k for k, other in enumerate(others) if fixed.get(other, -1) > fixed[name]]
    return range(max(above, default=0), min(below, default=len(others)) + 1)


def _saving(a: list[int], b: list[int]) -> int:
    """How many crossings fewer there are on one side with what ends in ``b`` above what ends in ``a``."""
    return sum((p > q) - (p < q) for p in a for q in b)
