"""Chain spaces: stages of inverted-residual blocks whose kernel, expansion, width and depth are chosen. No torch here.

The family of FBNetV2 (Wan et al., arXiv 2004.05565) with an attention block after each stage, as in DCS-DNAS (Wang,
Jojic, Yang, arXiv 2505.08961). Stages and blocks are counted from 1 wherever a user reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from dcs_nas.errors import InputError, choices
from dcs_nas.settings import Settings, parse, read_yaml
from dcs_nas.space.size import LARGEST, chain_relations, check_weights
from dcs_nas.space.spec import Name, SpaceSpec, read_space

Activation = Literal["relu6", "hswish"]
Kernel = Literal[3, 5, 7]
Expansion = Annotated[int, Field(ge=1, le=8)]
Width = Annotated[int, Field(ge=1, le=2048)]
DEPTH = ("keep", "skip")


class Choice(NamedTuple):
    """One thing to choose: its label and its candidates."""

    label: str
    options: tuple[Any, ...]


class StageSpec(Settings):
    """What the blocks of a stage may be: each block chooses for itself, one attention follows the last of them.

    ``stride`` is that of the first block. ``skip`` lets every later block be left out. Widths rise: the channels of a
    smaller width are the first ones of a larger one.
    """

    blocks: int = Field(ge=1, le=32)
    stride: Literal[1, 2] = 1
    kernels: tuple[Kernel, ...] = Field(default=(3, 5, 7), min_length=1, max_length=3)
    expansions: tuple[Expansion, ...] = Field(default=(1, 3, 6), min_length=1, max_length=8)
    widths: tuple[Width, ...] = Field(min_length=1, max_length=64)
    squeeze_excite: tuple[bool, ...] = Field(default=(False,), min_length=1, max_length=2)
    activation: Activation = "relu6"
    skip: bool = False
    attention: tuple[Name, ...] = Field(default=("none",), min_length=1, max_length=32)

    @model_validator(mode="after")
    def _check(self) -> StageSpec:
        for field in ("kernels", "expansions", "widths", "squeeze_excite", "attention"):
            values = getattr(self, field)
            twice = sorted({str(v) for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"{field} lists {', '.join(twice)} twice")
        if list(self.widths) != sorted(self.widths):
            raise ValueError(f"widths are {', '.join(map(str, self.widths))}; expected rising numbers of channels")
        if self.skip and self.blocks == 1:
            raise ValueError("skip is true, but the first block of a stage always stays; give it more blocks")
        return self

    def depth(self, block: int) -> tuple[str, ...]:
        """Whether block 1, 2, ... may be left out: the first one changes the map, so it stays."""
        return DEPTH if self.skip and block > 1 else DEPTH[:1]


class ChainStructure(Settings):
    """The chain itself: this alone decides whether a genotype fits a space.

    A 3x3 convolution to ``stem`` channels, the stages, a 1x1 convolution to ``features`` channels; ``activation``
    follows the first and the last convolution.
    """

    stem: Width
    stem_stride: Literal[1, 2] = 2
    stages: tuple[StageSpec, ...] = Field(min_length=1, max_length=12)
    features: int = Field(ge=1, le=8192)
    activation: Activation = "relu6"

    @model_validator(mode="after")
    def _check_size(self) -> ChainStructure:
        total = _largest(self)
        if total > LARGEST:
            raise ValueError(
                f"the largest network of this space has {total:,} parameters, expected at most {LARGEST:,}; "
                "take fewer blocks, or smaller widths or expansions"
            )
        return self

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything a genotype depends on."""
        plain = {name: getattr(self, name) for name in ChainStructure.model_fields}
        plain["stages"] = [stage.model_dump(mode="json") for stage in self.stages]
        return hashlib.sha256(json.dumps({"kind": "chain", **plain}, sort_keys=True).encode()).hexdigest()[:12]

    def choices(self) -> Iterator[Choice]:
        """Everything with two candidates or more, in order: per block kernel, expansion, width, squeeze_excite and
        depth, per stage attention."""
        for i, stage in enumerate(self.stages, start=1):
            found = [block_choices(stage, i, k).values() for k in range(1, stage.blocks + 1)]
            for choice in [*(c for block in found for c in block), attention_choice(stage, i)]:
                if len(choice.options) > 1:
                    yield choice


class ChainNetwork(Settings):
    """The size of the images, in pixels."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)


class ChainSpec(ChainStructure):
    """A chain space as its file gives it."""

    name: Name
    kind: Literal["chain"] = "chain"

    def network(self, height: int, width: int) -> ChainNetwork:
        """The network searched on images of ``height`` x ``width``."""
        source = f"network of space '{self.name}'"
        network = parse(ChainNetwork, {"height": height, "width": width}, source=source)
        try:
            check_weights(chain_relations(self, height, width), "its attention")
        except ValueError as error:
            raise InputError(f"{source}: {error}") from None
        return network


Space = SpaceSpec | ChainSpec


def block_choices(stage: StageSpec, number: int, block: int) -> dict[str, Choice]:
    """The choices of one block by what is chosen; stage and block are counted from 1.

    >>> block_choices(StageSpec(blocks=1, widths=[8]), 2, 1)["kernel"]
    Choice(label='stage2_block1_kernel', options=(3, 5, 7))
    """
    options: dict[str, tuple[Any, ...]] = {
        "kernel": stage.kernels,
        "expansion": stage.expansions,
        "width": stage.widths,
        "squeeze_excite": stage.squeeze_excite,
        "depth": stage.depth(block),
    }
    return {what: Choice(f"stage{number}_block{block}_{what}", found) for what, found in options.items()}


def attention_choice(stage: StageSpec, number: int) -> Choice:
    """The choice of the attention after stage ``number``."""
    return Choice(f"stage{number}_attention", stage.attention)


def squeezed(hidden: int) -> int:
    """Channels inside squeeze-excite of ``hidden`` channels: a quarter (MobileNetV3, arXiv 1905.02244)."""
    return max(1, hidden // 4)


def load_space(path: Path) -> Space:
    """A search space file of any kind; ``name`` defaults to the file's own."""
    data = {"name": path.stem, **read_yaml(path)}
    kind = data.get("kind", "cells")
    if kind not in ("cells", "chain"):
        named = str(kind)[:80]
        raise InputError(f"{path}: unknown kind of search space '{named}'; {choices(named, ['cells', 'chain'])}")
    return read_space(path) if kind == "cells" else parse(ChainSpec, data, source=str(path))


def _largest(structure: ChainStructure) -> int:
    """Weights of convolutions of the space's largest network."""
    total, before = 27 * structure.stem, structure.stem
    for stage in structure.stages:
        kernel, last = max(stage.kernels), max(stage.widths)
        for _ in range(stage.blocks):
            hidden = max(stage.expansions) * before
            excite = 2 * hidden * squeezed(hidden) if True in stage.squeeze_excite else 0
            total += before * hidden + kernel**2 * hidden + excite + hidden * last
            before = last
        total += last**2 * len(stage.attention)
    return total + before * structure.features
