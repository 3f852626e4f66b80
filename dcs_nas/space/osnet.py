"""OSNet with a searched placement of instance norms: space and genotypes. No torch here.

Source: Zhou et al., "Learning Generalisable Omni-Scale Representations for Person Re-Identification", TPAMI 2021;
KaiyangZhou/deep-person-reid at f8cd150, projects/OSNet_AIN. Stages and blocks are counted from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

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
    row_graph,
    short_hash,
)

if TYPE_CHECKING:
    import networkx

Placement = Literal["none", "inside", "after", "both"]
"""Where a block has instance norms: nowhere, before the shortcut is added, after, or in both places."""
OSNET_BLOCKS = tuple(f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2))
"""The labels of the six blocks, two in each stage."""
_WORDS = "IN: where a block has instance norms\nunder a stage: height×width of its maps"


class OSNetNetwork(Settings):
    """The size of the images, in pixels: an instance norm needs two positions of a map."""

    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)


class OSNetStructure(Settings):
    """The network and the candidates, which decide whether a genotype fits a space.

    ``channels`` of the stem and of the three stages, the latter multiples of 4 and at least 64; ``features`` of the
    vector at the end.
    """

    channels: tuple[int, int, int, int] = (64, 256, 384, 512)
    features: Annotated[int, Field(ge=1, le=8192)] = 512
    placements: tuple[Placement, ...] = Field(default=("none", "inside", "after", "both"), min_length=1, max_length=4)

    @model_validator(mode="after")
    def _check(self) -> OSNetStructure:
        require_unique(self.placements, "placements")
        stem, *stages = self.channels
        if not 1 <= stem <= 2048 or not all(64 <= width <= 4096 and width % 4 == 0 for width in stages):
            raise ValueError(
                f"channels are {', '.join(map(str, self.channels))}; expected a stem of 1 to 2048 and three stages of "
                "64 to 4096 in multiples of 4"
            )
        return self

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything a genotype depends on."""
        return short_hash({"kind": "osnet", **self.model_dump(mode="json", include=set(OSNetStructure.model_fields))})

    def choices(self) -> list[Choice]:
        """Return the six choices in order."""
        return [Choice(label, self.placements) for label in OSNET_BLOCKS]


@SPACES.register("osnet")
class OSNetSpace(OSNetStructure, Space):
    """A space of placements as read from its file."""

    supports: ClassVar[frozenset[str]] = frozenset({"checkpoint_activations"})
    name: Name
    kind: Literal["osnet"] = "osnet"

    def network(self, height: int, width: int, **changes: Any) -> OSNetNetwork:
        """Return the network searched on images of ``height`` x ``width``."""
        return parse(OSNetNetwork, {"height": height, "width": width}, source=f"network of space '{self.name}'")

    def group(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the mean over all blocks."""
        return {"placement": sum(figures.values()) / len(figures)} if figures else {}


class OSNetReference(Reference, OSNetStructure):
    """The space that a genotype belongs to: its name, its hash and the whole structure."""


@GENOTYPES.register("osnet")
class OSNetGenotype(AnyGenotype):
    """The placement in each of the six blocks, in order."""

    kind: Literal["osnet"] = "osnet"
    space: OSNetReference
    network: OSNetNetwork
    placements: tuple[Placement, ...] = Field(min_length=len(OSNET_BLOCKS), max_length=len(OSNET_BLOCKS))
    origin: Origin = Origin()

    @model_validator(mode="after")
    def _fits_its_space(self) -> OSNetGenotype:
        for label, placement in zip(OSNET_BLOCKS, self.placements):
            require_member(placement, self.space.placements, f"{label}: '{placement}'")
        return self

    def part(self, name: str) -> tuple[Placement, ...]:
        return self.placements

    def summary(self) -> str:
        return f"OSNet of space {self.space.name}, instance norms: {', '.join(self.placements)}"

    def tables(self) -> list[Rows]:
        rows = [[label.replace("_", " "), place] for label, place in zip(OSNET_BLOCKS, self.placements)]
        return [Rows("osnet", ["block", "instance norm"], rows)]

    def to_sample(self) -> dict[str, Any]:
        return dict(zip(OSNET_BLOCKS, self.placements))

    def graph(self, part: str | None = None) -> networkx.MultiDiGraph:
        """Return the chain from ``image`` through ``stem`` and the blocks ``1.1``, ``1.2``, ... to ``features``.

        Nodes carry ``role`` (input, stem, block, output), ``label``, ``size`` (height×width of their maps) and, for
        blocks, ``stage`` and ``placement``.
        """
        self.require_part(part)
        height, width = self.network.height, self.network.width
        nodes: list[tuple[str, dict[str, Any]]] = [
            ("image", {"role": "input", "label": "image", "size": f"{height}×{width}"}),
            ("stem", {"role": "stem", "label": "stem", "width": self.space.channels[0]}),
        ]
        height, width = -(-height // 4), -(-width // 4)
        for i, placement in enumerate(self.placements):
            stage, name = i // 2 + 1, f"{i // 2 + 1}.{i % 2 + 1}"
            size = f"{height >> stage - 1}×{width >> stage - 1}"
            facts = {"role": "block", "label": name, "stage": stage, "size": size, "placement": placement}
            nodes.append((name, facts))
        nodes.append(("features", {"role": "output", "label": "features", "width": self.space.features}))
        return row_graph(nodes, name=self.space.name, kind="osnet", words=_WORDS)
