"""Architectures of a small space as short texts, and all of them. No torch here.

Cells: nodes between ``|``, edges of a node between ``&`` as operation~state, attention on the output after ``+``:
``skip_connect~0|sep_conv_3x3~2+dcs``; several kinds of cell between ``;``. Chains: stages between ``|``, blocks of a
stage between ``&`` as kernel, expansion, width and ``s`` for squeeze-excite, or ``skip``, attention after ``+``:
``k3e4w24+none|k5e2w32s&skip+rga``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import combinations, permutations, product
from typing import Any

from pydantic import ValidationError

from dcs_nas.errors import InputError
from dcs_nas.space.cells import CellGenotype, Edge, Genotype, NetworkSpec, SpaceReference, SpaceSpec
from dcs_nas.space.chain import (
    BlockGenotype,
    ChainGenotype,
    ChainNetwork,
    ChainReference,
    ChainSpec,
    StageGenotype,
    StageSpec,
)
from dcs_nas.space.kinds import AnyGenotype, Space

LARGEST = 100_000
"""The largest number of architectures that is listed."""
_BLOCK = re.compile(r"k(\d+)e(\d+)w(\d+)(s?)")

Nodes = tuple[tuple[tuple[str, int], ...], ...]
"""Per node of a cell its (operation, state) pairs, sorted."""


def encode(genotype: AnyGenotype) -> str:
    """Return the text of a genotype, the same for cells that differ only in the order of their nodes."""
    return _find_codec(genotype).encode(genotype)


def decode(text: str, space: Space, height: int, width: int) -> AnyGenotype:
    """Return the genotype of a text in ``space``, for images of ``height`` x ``width``.

    Raises:
        InputError: a text that describes no architecture of the space.
    """
    texts = _find_codec(space)
    try:
        return texts.decode(text, space, space.network(height, width))
    except ValueError as error:
        message = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        problem = message.removeprefix("Value error, ")
        raise InputError(
            f"'{text[:200]}' is no architecture of space '{space.name}' ({problem}); "
            f"expected a text such as {texts.example}"
        ) from None


def count(space: Space, height: int, width: int) -> int:
    """Return the number of choices of a space, before isomorphic architectures are merged."""
    return _find_codec(space).count(space, space.network(height, width))


def architectures(space: Space, height: int, width: int) -> list[str]:
    """Return the texts of all architectures of a small space, sorted, isomorphic ones once; no edge holds ``none``.

    Raises:
        InputError: a space of more than 100,000 choices.
    """
    total = count(space, height, width)
    if total > LARGEST:
        raise InputError(f"space '{space.name}' has {total:,} architectures; expected at most {LARGEST:,} to list")
    return sorted(set(_find_codec(space).all(space, space.network(height, width))))


class _CellTexts:
    """The texts of cells."""

    example = "skip_connect~0|sep_conv_3x3~2+dcs"

    def encode(self, genotype: Genotype) -> str:
        cells = [genotype.cells[kind] for kind in sorted(genotype.cells)]
        pairs = [tuple(tuple((edge.op, edge.source) for edge in node) for node in cell.nodes) for cell in cells]
        return ";".join(f"{_format_nodes(_sort_nodes(p))}+{cell.attention}" for p, cell in zip(pairs, cells))

    def decode(self, text: str, space: SpaceSpec, network: NetworkSpec) -> Genotype:
        cells = dict(zip(sorted(network.kinds), map(_parse_cell, text.split(";")), strict=True))
        return Genotype(space=SpaceReference.of(space, space.name), network=network, cells=cells)

    def count(self, space: SpaceSpec, network: NetworkSpec) -> int:
        kept = space.edges_per_node
        edges = [len(space.computing) ** kept * math.comb(n + 2, kept) for n in range(space.nodes)]
        return (math.prod(edges) * len(space.attention)) ** len(network.kinds)

    def all(self, space: SpaceSpec, network: NetworkSpec) -> Iterator[str]:
        def node(number: int) -> list[tuple[tuple[str, int], ...]]:
            operations = list(product(space.computing, repeat=space.edges_per_node))
            sources = list(combinations(range(number + 2), space.edges_per_node))
            return [tuple(zip(ops, states)) for states in sources for ops in operations]

        nodes = {_sort_nodes(cell) for cell in product(*map(node, range(space.nodes)))}
        cells = [f"{_format_nodes(cell)}+{attention}" for cell in nodes for attention in space.attention]
        return map(";".join, product(cells, repeat=len(network.kinds)))


class _ChainTexts:
    """The texts of chains."""

    example = "k3e4w24+none|k5e2w32+rga"

    def encode(self, genotype: ChainGenotype) -> str:
        return "|".join(
            "&".join("skip" if slot is None else _format_block(slot) for slot in stage.slots()) + f"+{stage.attention}"
            for stage in genotype.stages
        )

    def decode(self, text: str, space: ChainSpec, network: ChainNetwork) -> ChainGenotype:
        stages = tuple(map(_parse_stage, text.split("|")))
        return ChainGenotype(space=ChainReference.of(space, space.name), network=network, stages=stages)

    def count(self, space: ChainSpec, network: ChainNetwork) -> int:
        return math.prod(len(choice.options) for choice in space.choices())

    def all(self, space: ChainSpec, network: ChainNetwork) -> Iterator[str]:
        def block(stage: StageSpec, number: int, widths: tuple[int, ...]) -> list[str]:
            values = product(stage.kernels, stage.expansions, widths, stage.squeeze_excite)
            kept = [
                _format_block(BlockGenotype(kernel=k, expansion=e, width=w, squeeze_excite=s)) for k, e, w, s in values
            ]
            return kept + (["skip"] if "skip" in stage.depth(number) else [])

        def stages(stage: StageSpec) -> list[str]:
            together = [(width,) for width in stage.widths] if stage.shared_width else [stage.widths]
            numbers = range(1, stage.blocks + 1)
            blocks = (b for widths in together for b in product(*(block(stage, n, widths) for n in numbers)))
            return [f"{text}+{attention}" for text, attention in product(map("&".join, blocks), stage.attention)]

        return map("|".join, product(*map(stages, space.stages)))


_TEXTS: dict[str, Any] = {"cells": _CellTexts(), "chain": _ChainTexts()}


def _find_codec(of: Space | AnyGenotype) -> Any:
    if of.kind not in _TEXTS:
        raise InputError(f"architectures of kind {of.kind} have no texts; expected one of {', '.join(_TEXTS)}")
    return _TEXTS[of.kind]


def _parse_cell(text: str) -> CellGenotype:
    nodes, attention = text.split("+")
    pairs = [[edge.split("~") for edge in node.split("&")] for node in nodes.split("|")]
    return CellGenotype(
        nodes=tuple(tuple(Edge(op=op, source=int(source)) for op, source in node) for node in pairs),
        attention=attention,
    )


def _parse_stage(text: str) -> StageGenotype:
    body, attention = text.split("+")
    slots = body.split("&")
    kept = [_BLOCK.fullmatch(slot) for slot in slots if slot != "skip"]
    blocks = []
    for match in kept:
        if match is None:
            raise ValueError(f"expected blocks such as k3e4w24, separated by &, in '{body[:80]}'")
        kernel, expansion, width = map(int, match.groups()[:3])
        blocks.append(BlockGenotype(kernel=kernel, expansion=expansion, width=width, squeeze_excite=bool(match[4])))
    skipped = tuple(number for number, slot in enumerate(slots, start=1) if slot == "skip")
    return StageGenotype(blocks=tuple(blocks), skipped=skipped, attention=attention)


def _sort_nodes(nodes: Nodes) -> Nodes:
    """Return the smallest of the cells that differ only in the order of their nodes."""
    orders = permutations(range(len(nodes)))
    return min(cell for order in orders if (cell := _reorder(nodes, order)) is not None)


def _reorder(nodes: Nodes, order: tuple[int, ...]) -> Nodes | None:
    """Return the cell with node ``order[i]`` as node i; None if a node would read a later one."""
    place = {0: 0, 1: 1, **{node + 2: new + 2 for new, node in enumerate(order)}}
    cell = tuple(tuple(sorted((op, place[source]) for op, source in nodes[node])) for node in order)
    return cell if all(source < i + 2 for i, node in enumerate(cell) for _, source in node) else None


def _format_nodes(nodes: Nodes) -> str:
    return "|".join("&".join(f"{op}~{source}" for op, source in node) for node in nodes)


def _format_block(block: BlockGenotype) -> str:
    return f"k{block.kernel}e{block.expansion}w{block.width}" + ("s" if block.squeeze_excite else "")
