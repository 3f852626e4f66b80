"""MSI spaces: six cells of two branches, whose interactions midway and at the end are chosen. No torch here.

Source: Gu et al., "MSINet: Twins Contrastive Search of Multi-Scale Interaction for Object ReID", CVPR 2023, section
3.2; vimar-gu/MSINet at 2a8845b, reid/models/search_cnn.py. Cells and stages are counted from 1 wherever a user reads
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings, parse
from dcs_nas.space.kinds import (
    GENOTYPES,
    SPACES,
    AnyGenotype,
    Choice,
    Name,
    Origin,
    Reference,
    Rows,
    Space,
    require_member,
    require_unique,
    short_hash,
)

if TYPE_CHECKING:
    import networkx

CELLS = 6
STAGES = 3
PLACES = ("middle", "end")
Interaction = Literal["none", "ag", "cross_att", "exc"]
"""Nothing, a shared channel gate, cross attention, exchange; the published names."""
Width = Annotated[int, Field(ge=1, le=2048)]
_WORDS = """\
light conv: 1×1, then depthwise 3×3; a branch begins and ends with a 1×1 convolution
+ adds both branches and the input of the cell; under a stage: height×width of its maps"""
LABELS = tuple(f"cell{number}_{place}" for number in range(1, CELLS + 1) for place in PLACES)


class MsiStructure(Settings):
    """The structure that decides whether a genotype fits: ``channels`` of the stem and of the three stages, and the
    ``interactions`` that each of the 12 choices is made from.

    The branches of a cell have a quarter of its stage's channels.
    """

    channels: tuple[Width, Width, Width, Width] = (64, 256, 384, 512)
    interactions: tuple[Interaction, ...] = Field(
        default=("none", "ag", "cross_att", "exc"), min_length=1, max_length=4
    )

    @model_validator(mode="after")
    def _check(self) -> MsiStructure:
        require_unique(self.interactions, "interactions")
        if problem := find_channel_fault(self.channels, ["ag" in self.interactions] * STAGES):
            raise ValueError(problem)
        return self

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything a genotype depends on."""
        plain = {"channels": list(self.channels), "interactions": list(self.interactions)}
        return short_hash({"kind": "msi", **plain})

    def choices(self) -> list[Choice]:
        """Return the 12 choices in order."""
        return [Choice(label, self.interactions) for label in LABELS]


class MsiNetwork(Settings):
    """The size of the images, in pixels."""

    height: int = Field(ge=16, le=4096)
    width: int = Field(ge=16, le=4096)

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of the maps of each stage.

        >>> MsiNetwork(height=256, width=128).sizes()
        [(64, 32), (32, 16), (16, 8)]
        """
        height, width = -(-self.height // 4), -(-self.width // 4)
        return [(height >> stage, width >> stage) for stage in range(STAGES)]


@SPACES.register("msi")
class MsiSpec(MsiStructure, Space):
    """An MSI space as read from its file."""

    name: Name
    kind: Literal["msi"] = "msi"

    def network(self, height: int, width: int, **changes: Any) -> MsiNetwork:
        """Return the network searched on images of ``height`` x ``width``."""
        return parse(MsiNetwork, {"height": height, "width": width}, source=f"network of space '{self.name}'")

    def group(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the means over the cells, of the interactions midway and of those at the end."""
        return {place: fmean(value for label, value in figures.items() if label.endswith(place)) for place in PLACES}


class MsiReference(Reference, MsiStructure):
    """The space that a genotype belongs to: its name, its hash, channels and interactions."""


@GENOTYPES.register("msi")
class MsiGenotype(AnyGenotype):
    """An architecture of an MSI space: for each cell its interactions midway and at the end."""

    kind: Literal["msi"] = "msi"
    space: MsiReference
    network: MsiNetwork
    cells: tuple[tuple[Interaction, Interaction], ...] = Field(min_length=CELLS, max_length=CELLS)
    origin: Origin = Origin()

    @model_validator(mode="after")
    def _fits_its_space(self) -> MsiGenotype:
        for label, kept in self.to_sample().items():
            require_member(kept, self.space.interactions, f"{label.replace('_', ', ')}: interaction '{kept}'")
        return self

    def part(self, name: str) -> tuple[tuple[Interaction, Interaction], ...]:
        return self.cells

    def summary(self) -> str:
        interactions = sum(kept != "none" for kept in self.to_sample().values())
        return f"msi of space {self.space.name}, {interactions} interactions"

    def tables(self) -> list[Rows]:
        rows = [[str(number), *cell] for number, cell in enumerate(self.cells, start=1)]
        return [Rows("msi", ["cell", *PLACES], rows)]

    def to_sample(self) -> dict[str, Any]:
        """Return the choices by label: ``{'cell1_middle': 'ag', ...}``."""
        return dict(zip(LABELS, (kept for cell in self.cells for kept in cell)))

    def graph(self, part: str | None = None) -> networkx.MultiDiGraph:
        """Return the cells from ``image`` through ``stem`` to ``features``, both branches of each side by side.

        Cell n has the nodes ``n.a1`` and ``n.b1``, ``n.middle``, ``n.a2`` and ``n.b2``, ``n.end``, ``n.sum``. Nodes
        carry ``role`` (input, stem, branch, interaction, node, output), ``label`` and, inside the stages, ``stage``;
        those of a branch ``branch`` (a or b) and ``size``, height×width of its maps.
        """
        import networkx

        self.require_part(part)
        graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=self.space.name, kind="msi", words=_WORDS)
        graph.add_node("image", role="input", label="image", size=f"{self.network.height}×{self.network.width}")
        last = "image"
        for stage, (height, width) in enumerate(self.network.sizes(), start=1):
            first = "stem" if stage == 1 else f"halve{stage - 1}"
            graph.add_node(
                first, role="stem", label=first.rstrip("12"), width=self.space.channels[stage - 1], stage=stage
            )
            graph.add_edge(last, first, op="")
            last = first
            for number in (2 * stage - 1, 2 * stage):
                last = _add_cell(graph, number, self.cells[number - 1], last, size=f"{height}×{width}")
        graph.add_node("features", role="output", label="features", width=self.space.channels[-1])
        graph.add_edge(last, "features", op="")
        return graph


def find_channel_fault(channels: Sequence[int], gated: Sequence[bool]) -> str:
    """Return what is wrong with the channels of stem and stages, or ""; ``gated``: which stages have a channel gate.

    A branch has a quarter of the channels, and the hidden layer of its gate a sixteenth of these.
    """
    for stage, (width, gate) in enumerate(zip(channels[1:], gated), start=1):
        least = 64 if gate else 4
        if width < least or width % 4:
            return f"channels[{stage}] is {width}; expected a multiple of 4, at least {least}"
    return ""


def _add_cell(graph: networkx.MultiDiGraph, number: int, kept: tuple[str, str], source: str, *, size: str) -> str:
    """Add a cell that reads ``source``; return the node of its output."""
    stage, ends = (number + 1) // 2, [source, source]
    for half, (place, name) in enumerate(zip(PLACES, kept), start=1):
        middle = f"{number}.{place}"
        graph.add_node(middle, role="interaction", label=name, stage=stage)
        for branch, (label, end) in zip("ab", zip(("light conv", "3 light convs"), ends)):
            key = f"{number}.{branch}{half}"
            graph.add_node(key, role="branch", label=label, branch=branch, stage=stage, size=size)
            graph.add_edge(end, key, op="")
            graph.add_edge(key, middle, op="")
        ends = [middle, middle]
    output = f"{number}.sum"
    graph.add_node(output, role="node", label="+", stage=stage)
    for end in (*ends, source):
        graph.add_edge(end, output, op="")
    return output
