"""Chain spaces: stages of inverted-residual blocks whose kernel, expansion, width and depth are chosen. No torch here.

The family of FBNetV2 (Wan et al., arXiv 2004.05565) with an attention block after each stage, as in DCS-DNAS (Wang,
Jojic, Yang, arXiv 2505.08961). Stages and blocks are counted from 1 wherever a user reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dcs_nas.settings import Settings, parse
from dcs_nas.space.kinds import (
    BY_POSITIONS,
    GENOTYPES,
    LARGEST,
    SPACES,
    AnyGenotype,
    Choice,
    Name,
    Origin,
    Reference,
    Rows,
    Space,
    Sparse,
    check_weights,
    require_member,
    require_unique,
    row_graph,
    short_hash,
)

if TYPE_CHECKING:
    import networkx

Activation = Literal["relu", "relu6", "hswish"]
Kernel = Literal[3, 5, 7]
Expansion = Annotated[int, Field(ge=1, le=8)]
Width = Annotated[int, Field(ge=1, le=2048)]
DEPTH = ("keep", "skip")
WINDOW = "dcs_window"
"""Attention whose window of channels is learned in the search and kept in the genotype."""


class StageSpec(Sparse):
    """Candidates of the blocks of a stage: each block has its own choice, one attention follows the last.

    The first block has the ``stride``. With ``skip`` every later block may be left out. Widths rise: a smaller width
    has the first channels of a larger one. With ``shared_width`` all blocks have one width, by one choice. With
    ``shortcut`` the first block adds its input to its output too, as every later block does.
    """

    optional = ("shared_width", "shortcut")
    blocks: int = Field(ge=1, le=32)
    stride: Literal[1, 2] = 1
    kernels: tuple[Kernel, ...] = Field(default=(3, 5, 7), min_length=1, max_length=3)
    expansions: tuple[Expansion, ...] = Field(default=(1, 3, 6), min_length=1, max_length=8)
    widths: tuple[Width, ...] = Field(min_length=1, max_length=64)
    squeeze_excite: tuple[bool, ...] = Field(default=(False,), min_length=1, max_length=2)
    activation: Activation = "relu6"
    skip: bool = False
    shared_width: bool = False
    shortcut: bool = False
    attention: tuple[Name, ...] = Field(default=("none",), min_length=1, max_length=32)

    @model_validator(mode="after")
    def _check(self) -> StageSpec:
        for field in ("kernels", "expansions", "widths", "squeeze_excite", "attention"):
            require_unique(getattr(self, field), field)
        if list(self.widths) != sorted(self.widths):
            raise ValueError(f"widths are {', '.join(map(str, self.widths))}; expected rising numbers of channels")
        if self.skip and self.blocks == 1:
            raise ValueError("skip is true, but the first block of a stage always stays; give it more blocks")
        if self.shortcut and self.stride > 1:
            raise ValueError(f"shortcut is true, but stride is {self.stride}; a shortcut needs stride 1: leave one out")
        return self

    def depth(self, block: int) -> tuple[str, ...]:
        """Return the candidates of the depth of block 1, 2, ...; the first block changes the map, so it stays."""
        return DEPTH if self.skip and block > 1 else DEPTH[:1]


class ChainStructure(Sparse):
    """The structure of the chain, which decides whether a genotype fits a space.

    A 3x3 convolution to ``stem`` channels, the stages, a 1x1 convolution to ``features`` channels; ``activation``
    follows the first and the last convolution. With ``head_expansion`` e the end is as in FBNetV2 and MobileNetV3
    (arXiv 1905.02244, section 5.1): a 1x1 convolution to e times the width, the mean over the map, and the last 1x1
    convolution on it, so that the map of features is 1 x 1.
    """

    optional = ("head_expansion",)
    stem: Width
    stem_stride: Literal[1, 2] = 2
    stages: tuple[StageSpec, ...] = Field(min_length=1, max_length=12)
    features: int = Field(ge=1, le=8192)
    head_expansion: int | None = Field(default=None, ge=1, le=8)
    activation: Activation = "relu6"

    @model_validator(mode="after")
    def _check_size(self) -> ChainStructure:
        total = _count_largest(self)
        if total > LARGEST:
            raise ValueError(
                f"the largest network of this space has {total:,} parameters, expected at most {LARGEST:,}; "
                "take fewer blocks, or smaller widths or expansions"
            )
        return self

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything a genotype depends on."""
        plain = self.model_dump(mode="json", include=set(ChainStructure.model_fields))
        return short_hash({"kind": "chain", **plain})

    def choices(self) -> Iterator[Choice]:
        """Yield the choices of two candidates or more, in order: per block kernel, expansion, width, squeeze_excite and
        depth, per stage attention; a width that the blocks of a stage share once, with the first of them."""
        for i, stage in enumerate(self.stages, start=1):
            blocks = [block_choices(stage, i, k).values() for k in range(1, stage.blocks + 1)]
            choices = [*(c for block in blocks for c in block), attention_choice(stage, i)]
            yield from dict.fromkeys(choice for choice in choices if len(choice.options) > 1)


class ChainNetwork(Settings):
    """The size of the images, in pixels."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)


@SPACES.register("chain")
class ChainSpec(ChainStructure, Space):
    """A chain space as read from its file."""

    supports: ClassVar[frozenset[str]] = frozenset({"checkpoint_activations"})
    name: Name
    kind: Literal["chain"] = "chain"

    def network(self, height: int, width: int, **changes: Any) -> ChainNetwork:
        """Return the network searched on images of ``height`` x ``width``."""
        source = f"network of space '{self.name}'"
        network = parse(ChainNetwork, {"height": height, "width": width}, source=source)
        check_weights(chain_relations(self, height, width), f"{source}: its attention")
        return network

    def group(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the means over all stages and blocks: a chain has dozens of choices."""
        groups: dict[str, list[float]] = {}
        for label, value in figures.items():
            _, *rest = label.split("_")
            groups.setdefault("_".join(rest[1:]) or rest[0], []).append(value)
        return {what: sum(values) / len(values) for what, values in groups.items()}


class BlockGenotype(Settings):
    """The choices of one block."""

    kernel: int
    expansion: int
    width: int
    squeeze_excite: bool = False


class StageGenotype(Sparse):
    """The blocks that stay, in order; ``skipped`` names those left out, counted from 1 among all of the stage.

    ``window`` is the searched window of the attention ``dcs_window``: start and length, in channels. Without it the
    window is learned when the network is trained.
    """

    optional = ("window",)
    blocks: tuple[BlockGenotype, ...] = Field(min_length=1, max_length=32)
    skipped: tuple[int, ...] = ()
    attention: Name = "none"
    window: tuple[float, float] | None = None

    @property
    def width(self) -> int:
        """The channels after the last block that stays."""
        return self.blocks[-1].width

    def slots(self) -> Iterator[BlockGenotype | None]:
        """Yield the blocks of the stage in order, None where one is left out."""
        kept = iter(self.blocks)
        for number in range(1, len(self.blocks) + len(self.skipped) + 1):
            yield None if number in self.skipped else next(kept)


class ChainReference(Reference, ChainStructure):
    """The space that a genotype belongs to: its name, its hash and the whole chain."""


@GENOTYPES.register("chain")
class ChainGenotype(AnyGenotype):
    """An architecture of a chain space."""

    kind: Literal["chain"] = "chain"
    space: ChainReference
    network: ChainNetwork
    stages: tuple[StageGenotype, ...]
    origin: Origin = Origin()

    @model_validator(mode="after")
    def _fits_its_space(self) -> ChainGenotype:
        if len(self.stages) != len(self.space.stages):
            raise ValueError(f"found {len(self.stages)} stages; expected {len(self.space.stages)}, as in the space")
        for number, (stage, spec) in enumerate(zip(self.stages, self.space.stages), start=1):
            _check_stage(number, stage, spec)
        relations = chain_relations(self.space, self.network.height, self.network.width)
        check_weights(relations, "the attention of this genotype")
        return self

    def part(self, name: str) -> tuple[StageGenotype, ...]:
        return self.stages

    def summary(self) -> str:
        return f"chain of space {self.space.name}, {sum(len(stage.blocks) for stage in self.stages)} blocks"

    def tables(self) -> list[Rows]:
        rows = []
        for number, stage in enumerate(self.stages, start=1):
            for k, block in enumerate(stage.slots(), start=1):
                words = ["skipped", "", "", ""]
                if block is not None:
                    excite = "yes" if block.squeeze_excite else ""
                    words = [f"{block.kernel}x{block.kernel}", str(block.expansion), str(block.width), excite]
                rows.append([f"{number}.{k}", *words])
            window = f", window {_format_window(stage.window)}" if stage.window else ""
            rows.append([f"{number}", f"attention: {stage.attention}{window}", "", "", ""])
        return [Rows("chain", ["block", "kernel", "expansion", "width", "squeeze-excite"], rows)]

    def skips(self) -> dict[str, int]:
        return {"blocks": sum(len(stage.skipped) for stage in self.stages)}

    def to_sample(self) -> dict[str, Any]:
        """Return the choices under NNI's labels: ``{'stage1_block1_kernel': 3, ...}``.

        A block that is left out gets the first candidates, which nothing reads.
        """
        sample: dict[str, Any] = {}
        for number, (stage, spec) in enumerate(zip(self.stages, self.space.stages), start=1):
            for k, block in enumerate(stage.slots(), start=1):
                for what, choice in block_choices(spec, number, k).items():
                    if what == "depth":
                        sample[choice.label] = "skip" if block is None else "keep"
                    else:
                        sample.setdefault(choice.label, getattr(block, what) if block else choice.options[0])
            sample[attention_choice(spec, number).label] = stage.attention
        return sample

    def graph(self, part: str | None = None) -> networkx.MultiDiGraph:
        """Return the chain from ``image`` through ``stem`` and the blocks ``1.1``, ``1.2``, ... to ``features``.

        Nodes carry ``role`` (input, stem, block, skipped, attention, output), ``label``, ``size`` (height×width of
        their maps) and, for blocks, ``stage``, ``kernel``, ``expansion``, ``width`` and ``squeeze_excite``.
        """
        self.require_part(part)
        height, width = self.network.height, self.network.width
        image = {"role": "input", "label": "image", "size": f"{height}×{width}"}
        nodes: list[tuple[str, dict[str, Any]]] = [("image", image)]
        height, width = -(-height // self.space.stem_stride), -(-width // self.space.stem_stride)
        nodes.append(("stem", {"role": "stem", "label": "stem", "width": self.space.stem}))
        for number, (stage, spec) in enumerate(zip(self.stages, self.space.stages), start=1):
            height, width = -(-height // spec.stride), -(-width // spec.stride)
            place = {"stage": number, "size": f"{height}×{width}"}
            for k, block in enumerate(stage.slots(), start=1):
                facts = {"role": "block", **block.model_dump()} if block else {"role": "skipped"}
                nodes.append((f"{number}.{k}", {**facts, "label": f"{number}.{k}", **place}))
            if stage.attention != "none":
                facts = {"role": "attention", "label": stage.attention, **place}
                facts |= {"window": _format_window(stage.window)} if stage.window else {}
                nodes.append((f"{number}.attention", facts))
        nodes.append(("features", {"role": "output", "label": "features", "width": self.space.features}))
        return row_graph(nodes, name=self.space.name, kind="chain")


def block_choices(stage: StageSpec, number: int, block: int) -> dict[str, Choice]:
    """Return the choices of one block by name; stage and block are counted from 1.

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
    labels = dict.fromkeys(options, f"stage{number}_block{block}")
    if stage.shared_width:
        labels["width"] = f"stage{number}"
    return {what: Choice(f"{labels[what]}_{what}", values) for what, values in options.items()}


def attention_choice(stage: StageSpec, number: int) -> Choice:
    """Return the choice of the attention after stage ``number``."""
    return Choice(f"stage{number}_attention", stage.attention)


def squeeze_channels(hidden: int) -> int:
    """Return the channels inside squeeze-excite of ``hidden`` channels: a quarter (MobileNetV3, arXiv 1905.02244)."""
    return max(1, hidden // 4)


def chain_relations(structure: ChainStructure, height: int, width: int) -> int:
    """Return the weights of relations of positions in the attention of a chain for ``height`` x ``width`` pixels."""
    total = 0
    stride: int = structure.stem_stride
    for stage in structure.stages:
        stride *= stage.stride
        positions = -(-height // stride) * -(-width // stride)
        total += sum(positions**2 // 4 for name in stage.attention if name in BY_POSITIONS)
    return total


def _check_stage(number: int, stage: StageGenotype, spec: StageSpec) -> None:
    count = len(stage.blocks) + len(stage.skipped)
    if count != spec.blocks:
        raise ValueError(f"stage {number} has {count} blocks, skipped ones included; expected {spec.blocks}")
    wrong = [k for k in stage.skipped if not 1 <= k <= count or "skip" not in spec.depth(k)]
    if wrong or len(set(stage.skipped)) != len(stage.skipped):
        raise ValueError(
            f"stage {number}: skipped is {list(stage.skipped)}, expected each at most once out of "
            f"{[k for k in range(1, count + 1) if 'skip' in spec.depth(k)]}"
        )
    for k, block in enumerate(stage.slots(), start=1):
        for what, choice in block_choices(spec, number, k).items():
            if block is not None and what != "depth":
                value = getattr(block, what)
                require_member(value, choice.options, f"stage {number}, block {k}: {what} {value}")
    require_member(stage.attention, spec.attention, f"stage {number}: attention '{stage.attention}'")
    widths = sorted({block.width for block in stage.blocks})
    if spec.shared_width and len(widths) > 1:
        raise ValueError(
            f"stage {number}: widths are {', '.join(map(str, widths))}, expected one: its blocks share their width"
        )
    if stage.window is not None:
        _check_window(number, stage, *stage.window)


def _check_window(number: int, stage: StageGenotype, start: float, length: float) -> None:
    channels = stage.width
    if stage.attention != WINDOW:
        raise ValueError(f"stage {number}: a window is given with attention '{stage.attention}'; expected {WINDOW}")
    if not (0 <= start < channels and 0 < length <= channels):
        raise ValueError(
            f"stage {number}: window starts at {start:g} with length {length:g}; expected a start from 0 to below "
            f"{channels} and a length above 0 up to {channels}, the width of the stage"
        )


def _format_window(window: tuple[float, float]) -> str:
    """Return a description of a window.

    >>> _format_window((2.497, 18.239))
    'from 2.5, 18.2 long'
    """
    return f"from {window[0]:.1f}, {window[1]:.1f} long"


def _count_largest(structure: ChainStructure) -> int:
    """Return the weights of convolutions of the space's largest network."""
    total, before = 27 * structure.stem, structure.stem
    for stage in structure.stages:
        kernel, last = max(stage.kernels), max(stage.widths)
        for _ in range(stage.blocks):
            hidden = max(stage.expansions) * before
            excite = 2 * hidden * squeeze_channels(hidden) if True in stage.squeeze_excite else 0
            total += before * hidden + kernel**2 * hidden + excite + hidden * last
            before = last
        total += last**2 * len(stage.attention)
    if (expansion := structure.head_expansion) is not None:
        return total + before**2 * expansion + before * expansion * structure.features
    return total + before * structure.features
