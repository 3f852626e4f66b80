"""A covering array: few rows in which every pair of choices of two factors stands together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import Any

Row = dict[str, str]
Pair = frozenset[tuple[str, str]]


def pairs_of(row: Row) -> Iterator[Pair]:
    return map(frozenset, combinations(row.items(), 2))


def covering_array(
    factors: Mapping[str, Sequence[str]],
    allowed: Callable[[Pair], bool],
    *,
    seed: int = 0,
    tries: int = 3,
) -> tuple[list[Row], set[Pair]]:
    """Return rows that hold every allowed pair, each the best of some greedy ones, and the pairs that no row can hold.

    A row starts from a pair that is missing and takes, factor by factor in random order, the choice that adds most.
    """
    random = Random(seed)
    every = [frozenset({(a, x), (b, y)}) for a, b in combinations(factors, 2) for x in factors[a] for y in factors[b]]
    missing = dict.fromkeys(pair for pair in every if allowed(pair))
    rows: list[Row] = []
    impossible: set[Pair] = set()
    while missing:
        start = next(iter(missing))
        found = [row for _ in range(tries) if (row := _row(start, factors, allowed, missing, random)) is not None]
        if not found:
            impossible.add(start)
            del missing[start]
            continue
        best = max(found, key=lambda row: sum(pair in missing for pair in pairs_of(row)))
        rows.append({name: best[name] for name in factors})
        for pair in pairs_of(best):
            missing.pop(pair, None)
    return rows, impossible


def _row(
    start: Pair, factors: Mapping[str, Sequence[str]], allowed: Callable[[Pair], bool], missing: Any, random: Random
) -> Row | None:
    row: Row = dict(start)
    rest = [name for name in factors if name not in row]
    for name in random.sample(rest, len(rest)):
        new = {x: [frozenset({(name, x), old}) for old in row.items()] for x in factors[name]}
        choices = [x for x, pairs in new.items() if all(map(allowed, pairs))]
        if not choices:
            return None
        row[name] = max(choices, key=lambda x: (sum(pair in missing for pair in new[x]), random.random()))
    return row
