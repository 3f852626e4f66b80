"""The base classes of every kind of search space: its specification and its genotypes. No torch here.

A new kind is one file beside ``cells.py`` with a ``Space`` and an ``AnyGenotype``, registered under the kind's name,
and one file in models/ with a ``SpaceKind`` (``dcs_nas.models.space_kinds``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from dcs_nas.errors import InputError
from dcs_nas.registry import Registry
from dcs_nas.settings import Settings, dump_yaml, parse

if TYPE_CHECKING:
    import networkx

FORMAT = 1
LARGEST = 10**9
"""Weights of all candidates together, which are in memory at once while a network is built: 4 GB."""

BY_POSITIONS = frozenset({"rga", "rga_spatial"})
"""Attention whose embedding of relations has N^2 / 4 weights, N = HW."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


class Choice(NamedTuple):
    """One thing to choose: its label and its candidates."""

    label: str
    options: tuple[Any, ...]


class Space(Settings):
    """A search space as read from its file.

    Attributes:
        kind: the kind of space, a name in ``SPACES``.
        name: of the space.
        hash: twelve hex digits that change with anything a genotype depends on.
        supports: settings and jobs that only some kinds support: names of ``search`` settings, and ``latency`` (tables
            of latencies by part).
    """

    supports: ClassVar[frozenset[str]] = frozenset()
    if TYPE_CHECKING:
        kind: str
        name: str

        @property
        def hash(self) -> str: ...

    def network(self, height: int, width: int, **changes: Any) -> Any:
        """Return the network's structure for images of ``height`` x ``width`` pixels."""
        raise NotImplementedError

    def choices(self) -> Iterable[Choice]:
        """Return the choices in order, where they are independent and each keeps one candidate; cells have others.

        The class of the structure defines them, so that the ``space`` of a genotype has them too.
        """
        raise NotImplementedError

    def names(self) -> dict[str, list[Any]]:
        """Return the candidates by choice, for the record of an epoch."""
        return {choice.label: list(choice.options) for choice in self.choices()}

    def group(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return figures by mixture, such as entropies, grouped for the log."""
        return dict(figures)


class Sparse(Settings):
    """Settings whose ``optional`` fields are left out of files and hashes while they have their defaults."""

    optional: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unset = {name for name in self.optional if getattr(self, name) == fields[name].default}
        return {name: value for name, value in plain(self).items() if name not in unset}


class Reference(Settings):
    """The structure of a space that a genotype keeps, with the space's name and hash."""

    name: Name
    declared_hash: str = Field(alias="hash")
    if TYPE_CHECKING:

        @property
        def hash(self) -> str: ...

    @model_validator(mode="after")
    def _check_hash(self) -> Self:
        if self.declared_hash != self.hash:
            raise ValueError(
                f"hash {self.declared_hash} does not fit the space beside it, of hash {self.hash}; restore the file"
            )
        return self

    @classmethod
    def of(cls, structure: Any, name: str) -> Self:
        """Return the reference to a space's structure."""
        fields = {field: getattr(structure, field) for field in cls.model_fields if hasattr(structure, field)}
        return cls(**{**fields, "name": name, "declared_hash": structure.hash})


class Origin(Settings):
    """Where a genotype comes from."""

    data: str = ""
    seed: int | None = None
    epoch: int | None = None
    method: str = ""
    version: str = ""


class Rows(NamedTuple):
    """A table for a terminal."""

    title: str
    columns: list[str]
    rows: list[list[str]]


class AnyGenotype(Settings):
    """An architecture: plain data that builds the same network anywhere.

    Attributes:
        format: of the file.
        kind: the kind of its space, a name in ``GENOTYPES``.
        space: the structure that it was chosen from, with ``name`` and ``hash``.
        network: how its parts are stacked, with ``height`` and ``width`` of the images.
        origin: its data, seed and method.
    """

    format: int = FORMAT
    if TYPE_CHECKING:
        kind: str
        space: Any
        network: Any
        origin: Origin

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the pictures, such as ``normal`` and ``reduce``; by default one, the kind."""
        return (self.kind,)

    def part(self, name: str) -> Any:
        """Return the choices in one picture; equal parts have equal pictures."""
        raise NotImplementedError

    def graph(self, part: str | None = None) -> networkx.MultiDiGraph:
        """Return the graph of one part, by default of the first."""
        raise NotImplementedError

    def require_part(self, part: str | None) -> None:
        """Raise ``InputError`` unless ``part`` is one of ``parts``, or None, which stands for the first."""
        if part is not None and part not in self.parts:
            raise InputError(f"this genotype has no part '{part}'; it has {', '.join(self.parts)}")

    def overview(self) -> networkx.MultiDiGraph | None:
        """Return the graph of the whole network, a node for each run of equal parts; None where its part shows it."""
        return None

    def summary(self) -> str:
        """Return the architecture in a few words."""
        raise NotImplementedError

    def tables(self) -> list[Rows]:
        """Return the architecture as tables of text."""
        raise NotImplementedError

    def to_sample(self) -> dict[str, Any]:
        """Return the choices under NNI's labels."""
        raise NotImplementedError

    def one_hot(self) -> dict[str, list[list[float]]]:
        """Return mixture weights by name that compute what this genotype computes: by default (1, candidates) each."""
        sample = self.to_sample()
        return {c.label: [[float(option == sample[c.label]) for option in c.options]] for c in self.space.choices()}

    def identity(self) -> str:
        """Return a text that is equal for equal architectures of a space, and only for these."""
        return json.dumps(self.one_hot(), sort_keys=True)

    def skips(self) -> dict[str, int]:
        """Return the number of skipped parts by name, for the log of a search."""
        return {}

    def resize(self, height: int, width: int, *, channels: int | None = None, cells: int | None = None) -> AnyGenotype:
        """Return the genotype for images of ``height`` x ``width``, at another width and depth where it has them."""
        return self._with_network(height=height, width=width)

    def _with_network(self, **changes: Any) -> Self:
        """Return the genotype with another network; raise ``InputError`` for one that a file could not hold either."""
        source = f"the genotype of space {self.space.name} at another size"
        network = parse(type(self.network), {**dict(self.network), **changes}, source=source)
        return parse(type(self), {**dict(self), "network": network}, source=source)

    def to_darts_text(self) -> str:
        """Return the text of DARTS; raise ``InputError`` where the genotype has none."""
        raise InputError(
            f"the text of DARTS holds cells, and this genotype is a {self.kind}; leave the format darts out"
        )

    @property
    def supports(self) -> frozenset[str]:
        """See ``Space.supports``."""
        return SPACES[self.kind].supports

    def graphs(self) -> dict[str, networkx.MultiDiGraph]:
        """Return the graphs of all parts by name."""
        return {part: self.graph(part) for part in self.parts}

    def to_yaml(self) -> str:
        """Return the text of the genotype's file."""
        return dump_yaml(self.model_dump(mode="json", by_alias=True))

    def require_space(self, space: Any, *, source: str) -> None:
        """Raise ``InputError`` unless this genotype belongs to ``space``."""
        if self.space.hash != space.hash:
            raise InputError(
                f"{source} belongs to space '{self.space.name}' ({self.space.hash}), not to '{space.name}' "
                f"({space.hash}); search that space or name the genotype's own"
            )


SPACES: Registry[type[Space]] = Registry("kind of search space")
"""Kind to the class of its files."""

GENOTYPES: Registry[type[AnyGenotype]] = Registry("kind of genotype")
"""Kind to the class of its genotypes."""


def require_settings(of: Space | AnyGenotype, wanted: Mapping[str, bool], *, section: str = "search") -> None:
    """Raise ``InputError`` for the first setting of ``section`` that is set and that the kind does not support."""
    for setting, is_set in wanted.items():
        if is_set and setting.split()[0] not in of.supports:
            kinds = " and ".join(kind for kind in SPACES if setting.split()[0] in SPACES[kind].supports)
            raise InputError(
                f"{section}.{setting} is for spaces of {kinds}, and this one is of kind {of.kind}; leave it out"
            )


def row_graph(nodes: Iterable[tuple[str, Mapping[str, Any]]], **facts: Any) -> networkx.MultiDiGraph:
    """Return a graph of nodes in a row, pairs of name and data; ``facts`` are those of the graph."""
    import networkx

    graph: networkx.MultiDiGraph = networkx.MultiDiGraph(**facts)
    graph.add_nodes_from(nodes)
    graph.add_edges_from(pairwise(list(graph)), op="")
    return graph


def short_hash(data: Mapping[str, Any]) -> str:
    """Return twelve hex digits of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def require_unique(values: Sequence[Any], field: str) -> None:
    """Raise ``ValueError`` for a list that holds a candidate twice."""
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{field} lists {', '.join(twice)} twice; name each once")


def require_member(value: Any, known: Iterable[Any], what: str) -> None:
    """Raise ``ValueError`` for a choice that is no candidate of its space."""
    known = list(known)
    if value not in known:
        raise ValueError(f"{what} is not in its space; known: {', '.join(map(str, known))}")


def check_weights(total: int, what: str) -> None:
    """Raise ``InputError`` for an unreasonably large network."""
    if total > LARGEST:
        raise InputError(
            f"{what} would have at least {total:,} weights, expected at most {LARGEST:,}; take fewer or narrower "
            "layers, smaller images, or no relations of positions (rga)"
        )
