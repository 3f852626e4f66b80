"""What the drawing of a chain shows: a line of boxes for every stage. Chains are drawn by ``chain_graph``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dcs_nas.report.palette import family, lines
from dcs_nas.report.picture import Box
from dcs_nas.space import BlockGenotype, ChainGenotype

_PER_LINE = 6  # boxes


@dataclass(frozen=True)
class Line:
    """Boxes from left to right, and what stands in front of them; ``stage`` from 1, 0 outside the stages."""

    stage: int
    title: tuple[str, ...]
    boxes: tuple[Box, ...]


def chain_lines(genotype: ChainGenotype, other: ChainGenotype | None = None) -> list[Line]:
    """The lines of a genotype from image to features; with ``other``, what differs in it, as "from → to"."""
    space, network = genotype.space, genotype.network
    height, width = -(-network.height // space.stem_stride), -(-network.width // space.stem_stride)
    image = Box("input", "image", ("image", f"{network.height}×{network.width}"))
    found = [Line(0, (), (image, Box("stage", "stem", ("stem 3×3", f"width {space.stem}"))))]
    for i, spec in enumerate(space.stages):
        height, width = -(-height // spec.stride), -(-width // spec.stride)
        boxes = list(_boxes(genotype, other, i))
        for start in range(0, len(boxes), _PER_LINE):
            title = (f"stage {i + 1}", f"{height}×{width}") if start == 0 else ()
            found.append(Line(i + 1, title, tuple(boxes[start : start + _PER_LINE])))
    features = Box("output", "features", ("1×1", f"{space.features} features"))
    return [*found, Line(0, (), (features,))]


def _boxes(genotype: ChainGenotype, other: ChainGenotype | None, stage: int) -> Iterator[Box]:
    """The boxes of one stage: its blocks, and attention where there is any."""
    one = genotype.stages[stage]
    two = other.stages[stage] if other is not None else one
    for k, (old, new) in enumerate(zip(one.slots(), two.slots()), start=1):
        change = "" if other is None else "kept" if old == new else "changed"
        kind = "none" if new is None else "separable"
        yield Box("op", f"{stage + 1}.{k}", _rows(_facts(old), _facts(new)), kind, change)
    if one.attention == two.attention == "none":
        return
    names = [" ".join(lines(name)) if name != "none" else "no" for name in (one.attention, two.attention)]
    change = "" if other is None else "kept" if names[0] == names[1] else "changed"
    kind = family(two.attention if two.attention != "none" else one.attention)
    yield Box("attention", two.attention, (_arrow(*names), "attention"), kind, change)


def _facts(block: BlockGenotype | None) -> tuple[tuple[str, ...], ...] | None:
    """The words of a block, row by row; a row's words change one by one."""
    if block is None:
        return None
    extra = (("squeeze-excite",),) if block.squeeze_excite else ()
    return ((f"{block.kernel}×{block.kernel}", f"e{block.expansion}"), (f"width {block.width}",), *extra)


def _rows(old: tuple[tuple[str, ...], ...] | None, new: tuple[tuple[str, ...], ...] | None) -> tuple[str, ...]:
    """The words of a block; where they changed, those that did with both values."""
    if old is None or new is None:
        words = [tuple(", ".join(row) for row in rows) if rows else ("skipped",) for rows in (old, new)]
        return words[0] if old == new else (*words[0], "→", *words[1])
    rows = [", ".join(map(_arrow, a, b)) for a, b in zip(old[:2], new[:2])]
    sign = "" if len(old) == len(new) else "+ " if len(new) > len(old) else "− "
    return (*rows, *(sign + row[0] for row in (old[2:] or new[2:])))


def _arrow(old: str, new: str) -> str:
    """Both values, the words in front of them once.

    >>> _arrow("width 12", "width 16")
    'width 12 → 16'
    """
    if old == new:
        return old
    word = old.partition(" ")[0] + " "
    return f"{old} → {new.removeprefix(word)}"


def facts_of(graph_node: dict[str, Any]) -> str:
    """A node of ``ChainGenotype.graph`` in words, for Graphviz.

    >>> facts_of({"role": "block", "kernel": 5, "expansion": 6, "width": 24, "squeeze_excite": True})
    '5×5, e6, width 24, squeeze-excite'
    """
    if graph_node["role"] == "skipped":
        return "skipped"
    if graph_node["role"] != "block":
        return str(graph_node["label"])
    block = BlockGenotype(**{name: graph_node[name] for name in BlockGenotype.model_fields})
    return ", ".join(word for row in _facts(block) or () for word in row)
