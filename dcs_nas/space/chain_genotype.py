"""A genotype of a chain space <-> YAML <-> NNI sample <-> networkx graph. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from dcs_nas.errors import InputError
from dcs_nas.settings import Settings, parse, plain_yaml
from dcs_nas.space.chain import (
    ChainNetwork,
    ChainStructure,
    Name,
    Space,
    StageSpec,
    attention_choice,
    block_choices,
)
from dcs_nas.space.genotype import FORMAT, Genotype, Origin, genotype_data
from dcs_nas.space.size import chain_relations, check_weights
from dcs_nas.space.spec import CellStructure, SpaceSpec

if TYPE_CHECKING:
    import networkx


class BlockGenotype(Settings):
    """What was chosen for one block."""

    kernel: int
    expansion: int
    width: int
    squeeze_excite: bool = False


class StageGenotype(Settings):
    """The blocks that stay, in order; ``skipped`` names those left out, counted from 1 among all of the stage."""

    blocks: tuple[BlockGenotype, ...] = Field(min_length=1, max_length=32)
    skipped: tuple[int, ...] = ()
    attention: Name = "none"

    def slots(self) -> Iterator[BlockGenotype | None]:
        """Every block of the stage in order, None where it is left out."""
        kept = iter(self.blocks)
        for number in range(1, len(self.blocks) + len(self.skipped) + 1):
            yield None if number in self.skipped else next(kept)


class ChainReference(ChainStructure):
    """The space that a genotype belongs to: its name, its hash and the whole chain."""

    name: Name
    declared_hash: str = Field(alias="hash")

    @model_validator(mode="after")
    def _check_hash(self) -> ChainReference:
        if self.declared_hash != self.hash:
            raise ValueError(f"hash {self.declared_hash} does not fit the space listed beside it ({self.hash})")
        return self


class ChainGenotype(Settings):
    """An architecture of a chain space: plain data that builds the same network anywhere."""

    format: int = FORMAT
    kind: Literal["chain"] = "chain"
    space: ChainReference
    network: ChainNetwork
    stages: tuple[StageGenotype, ...]
    origin: Origin = Origin()

    @model_validator(mode="after")
    def _fits_its_space(self) -> ChainGenotype:
        if len(self.stages) != len(self.space.stages):
            raise ValueError(f"{len(self.stages)} stages are given, the space has {len(self.space.stages)}")
        for number, (stage, spec) in enumerate(zip(self.stages, self.space.stages), start=1):
            _check_stage(number, stage, spec)
        relations = chain_relations(self.space, self.network.height, self.network.width)
        check_weights(relations, "the attention of this genotype")
        return self

    def to_sample(self) -> dict[str, Any]:
        """The choices under NNI's labels: ``{'stage1_block1_kernel': 3, ...}``.

        A block that is left out has the first candidates, which nothing reads.
        """
        sample: dict[str, Any] = {}
        for number, (stage, spec) in enumerate(zip(self.stages, self.space.stages), start=1):
            for k, block in enumerate(stage.slots(), start=1):
                for what, choice in block_choices(spec, number, k).items():
                    kept = "keep" if what == "depth" else getattr(block, what) if block else choice.options[0]
                    sample[choice.label] = "skip" if what == "depth" and block is None else kept
            sample[attention_choice(spec, number).label] = stage.attention
        return sample

    def graph(self) -> networkx.MultiDiGraph:
        """The chain from ``image`` through ``stem`` and the blocks ``1.1``, ``1.2``, ... to ``features``.

        Nodes carry ``role`` (input, stem, block, skipped, attention, output), ``label`` and, for blocks, ``stage``,
        ``kernel``, ``expansion``, ``width`` and ``squeeze_excite``.
        """
        import networkx

        graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=self.space.name, kind="chain")
        nodes: list[tuple[str, dict[str, Any]]] = [("image", {"role": "input", "label": "image"})]
        nodes.append(("stem", {"role": "stem", "label": "stem", "width": self.space.stem}))
        for number, stage in enumerate(self.stages, start=1):
            for k, block in enumerate(stage.slots(), start=1):
                facts = {"role": "block", **block.model_dump()} if block else {"role": "skipped"}
                nodes.append((f"{number}.{k}", {**facts, "label": f"{number}.{k}", "stage": number}))
            if stage.attention != "none":
                facts = {"role": "attention", "label": stage.attention, "stage": number}
                nodes.append((f"{number}.attention", facts))
        nodes.append(("features", {"role": "output", "label": "features", "width": self.space.features}))
        graph.add_nodes_from(nodes)
        for (tail, _), (head, _) in pairwise(nodes):
            graph.add_edge(tail, head, op="")
        return graph

    def to_yaml(self) -> str:
        return plain_yaml(self.model_dump(mode="json", by_alias=True))

    def require_space(self, structure: CellStructure | ChainStructure, *, name: str, source: str) -> None:
        """Raise ``InputError`` unless this genotype was chosen from the space given."""
        if self.space.hash != structure.hash:
            raise InputError(
                f"{source} belongs to space '{self.space.name}' ({self.space.hash}), not to '{name}' "
                f"({structure.hash}); search that space or name the genotype's own"
            )


AnyGenotype = Genotype | ChainGenotype


def load_genotype(path: Path, *, space: Space | None = None) -> AnyGenotype:
    """Return the genotype of a file, of the record of an epoch, or of DARTS' text (see ``read_published``).

    ``space`` is the one that such a text gets if its cells fit. Raises ``InputError`` for a newer format and for what
    does not describe a network.
    """
    data = genotype_data(path, space if isinstance(space, SpaceSpec) else None)
    if data.get("kind") == "chain":
        return parse(ChainGenotype, data, source=str(path))
    return parse(Genotype, data, source=str(path))


def chain_reference(structure: ChainStructure, name: str) -> ChainReference:
    """What a genotype keeps of its space."""
    fields = {field: getattr(structure, field) for field in ChainStructure.model_fields}
    return ChainReference(**fields, name=name, declared_hash=structure.hash)


def _check_stage(number: int, stage: StageGenotype, spec: StageSpec) -> None:
    count = len(stage.blocks) + len(stage.skipped)
    if count != spec.blocks:
        raise ValueError(f"stage {number} has {count} blocks, kept and skipped, its space has {spec.blocks}")
    wrong = [k for k in stage.skipped if not 1 <= k <= count or "skip" not in spec.depth(k)]
    if wrong or len(set(stage.skipped)) != len(stage.skipped):
        raise ValueError(
            f"stage {number}: skipped is {list(stage.skipped)}, expected each at most once out of "
            f"{[k for k in range(1, count + 1) if 'skip' in spec.depth(k)]}"
        )
    for k, block in enumerate(stage.slots(), start=1):
        for what, choice in block_choices(spec, number, k).items():
            if block is not None and what != "depth" and getattr(block, what) not in choice.options:
                raise ValueError(
                    f"stage {number}, block {k}: {what} {getattr(block, what)} is not in its space; "
                    f"known: {', '.join(map(str, choice.options))}"
                )
    if stage.attention not in spec.attention:
        raise ValueError(
            f"stage {number}: attention '{stage.attention}' is not in its space; known: {', '.join(spec.attention)}"
        )
