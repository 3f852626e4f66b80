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

from pydantic import ValidationError

from dcs_nas.errors import InputError
from dcs_nas.space.chain import ChainNetwork, ChainSpec, Space, StageSpec
from dcs_nas.space.chain_genotype import AnyGenotype, BlockGenotype, ChainGenotype, StageGenotype, chain_reference
from dcs_nas.space.genotype import CellGenotype, Edge, Genotype, Origin, reference
from dcs_nas.space.spec import NetworkSpec, SpaceSpec

LARGEST = 100_000
"""Architectures that a space may have to be listed."""
_BLOCK = re.compile(r"k(\d+)e(\d+)w(\d+)(s?)")

Nodes = tuple[tuple[tuple[str, int], ...], ...]
"""Per node of a cell its (operation, state) pairs, sorted."""


def encode(genotype: AnyGenotype) -> str:
    """Return the text of a genotype; cells that differ in the order of their nodes alone have one text."""
    if isinstance(genotype, ChainGenotype):
        return "|".join(
            "&".join("skip" if block is None else _block_text(block) for block in stage.slots()) + f"+{stage.attention}"
            for stage in genotype.stages
        )
    cells = genotype.cells
    return ";".join(
        f"{_nodes_text(_canonical(_pairs(c)))}+{c.attention}" for c in map(cells.__getitem__, sorted(cells))
    )


def decode(text: str, space: Space, height: int, width: int) -> AnyGenotype:
    """Return the genotype of a text in ``space``, for images of ``height`` x ``width``.

    Raises:
        InputError: a text that is not of an architecture of the space.
    """
    try:
        return _decode(text, space, space.network(height, width))
    except ValueError as error:
        found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        problem = found.removeprefix("Value error, ")
        example = "k3e4w24+none|k5e2w32+rga" if isinstance(space, ChainSpec) else "skip_connect~0|sep_conv_3x3~2+dcs"
        raise InputError(
            f"'{text[:200]}' is no architecture of space '{space.name}' ({problem}); expected a text such as {example}"
        ) from None


def count(space: Space, height: int, width: int) -> int:
    """Return how many choices a space has together, before equal architectures are joined."""
    if isinstance(space, ChainSpec):
        return math.prod(len(choice.options) for choice in space.choices())
    edges = [
        len(_operations(space)) ** space.edges_per_node * math.comb(n + 2, space.edges_per_node)
        for n in range(space.nodes)
    ]
    return (math.prod(edges) * len(space.attention)) ** len(_kinds(space.network(height, width)))


def architectures(space: Space, height: int, width: int) -> list[str]:
    """Return the texts of all architectures of a small space, sorted, isomorphic ones once; no edge holds ``none``.

    Raises:
        InputError: a space of more than 100,000 choices.
    """
    total = count(space, height, width)
    if total > LARGEST:
        raise InputError(f"space '{space.name}' has {total:,} architectures; expected at most {LARGEST:,} to list")
    return sorted(set(_chains(space) if isinstance(space, ChainSpec) else _cells(space, space.network(height, width))))


def _cells(space: SpaceSpec, network: NetworkSpec) -> Iterator[str]:
    def node(number: int) -> list[tuple[tuple[str, int], ...]]:
        operations = list(product(_operations(space), repeat=space.edges_per_node))
        sources = list(combinations(range(number + 2), space.edges_per_node))
        return [tuple(zip(ops, states)) for states in sources for ops in operations]

    nodes = {_canonical(cell) for cell in product(*map(node, range(space.nodes)))}
    cells = [f"{_nodes_text(cell)}+{attention}" for cell in nodes for attention in space.attention]
    return map(";".join, product(cells, repeat=len(_kinds(network))))


def _chains(space: ChainSpec) -> Iterator[str]:
    def block(stage: StageSpec, number: int) -> list[str]:
        values = product(stage.kernels, stage.expansions, stage.widths, stage.squeeze_excite)
        kept = [_block_text(BlockGenotype(kernel=k, expansion=e, width=w, squeeze_excite=s)) for k, e, w, s in values]
        return kept + (["skip"] if "skip" in stage.depth(number) else [])

    def stages(stage: StageSpec) -> list[str]:
        blocks = map("&".join, product(*(block(stage, number) for number in range(1, stage.blocks + 1))))
        return [f"{text}+{attention}" for text, attention in product(blocks, stage.attention)]

    return map("|".join, product(*map(stages, space.stages)))


def _decode(text: str, space: Space, network: NetworkSpec | ChainNetwork) -> AnyGenotype:
    if isinstance(space, ChainSpec):
        assert isinstance(network, ChainNetwork)
        stages = tuple(map(_stage, text.split("|")))
        return ChainGenotype(space=chain_reference(space, space.name), network=network, stages=stages, origin=Origin())
    assert isinstance(network, NetworkSpec)
    cells = dict(zip(_kinds(network), map(_cell, text.split(";")), strict=True))
    return Genotype(space=reference(space, space.name), network=network, cells=cells, origin=Origin())


def _cell(text: str) -> CellGenotype:
    nodes, attention = text.split("+")
    pairs = [[edge.split("~") for edge in node.split("&")] for node in nodes.split("|")]
    return CellGenotype(
        nodes=tuple(tuple(Edge(op=op, source=int(source)) for op, source in node) for node in pairs),
        attention=attention,
    )


def _stage(text: str) -> StageGenotype:
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


def _canonical(nodes: Nodes) -> Nodes:
    """The least of the cells that differ in the order of their nodes alone."""
    orders = permutations(range(len(nodes)))
    return min(cell for order in orders if (cell := _reordered(nodes, order)) is not None)


def _reordered(nodes: Nodes, order: tuple[int, ...]) -> Nodes | None:
    """The cell with node ``order[i]`` at place i; None where one would read a later one."""
    place = {0: 0, 1: 1, **{node + 2: new + 2 for new, node in enumerate(order)}}
    cell = tuple(tuple(sorted((op, place[source]) for op, source in nodes[node])) for node in order)
    return cell if all(source < i + 2 for i, node in enumerate(cell) for _, source in node) else None


def _pairs(cell: CellGenotype) -> Nodes:
    return tuple(tuple((edge.op, edge.source) for edge in node) for node in cell.nodes)


def _nodes_text(nodes: Nodes) -> str:
    return "|".join("&".join(f"{op}~{source}" for op, source in node) for node in nodes)


def _block_text(block: BlockGenotype) -> str:
    return f"k{block.kernel}e{block.expansion}w{block.width}" + ("s" if block.squeeze_excite else "")


def _operations(space: SpaceSpec) -> list[str]:
    return [name for name in space.operations if name != "none"]


def _kinds(network: NetworkSpec) -> list[str]:
    return sorted({network.kind(i) for i in range(network.cells)})
