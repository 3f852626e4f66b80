"""What may be searched: a YAML file of search_spaces/ as a SpaceSpec. No torch here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dcs_nas.errors import InputError, choices
from dcs_nas.settings import Settings, parse, read_yaml
from dcs_nas.space.size import cells_weights, check_weights

Stem = Literal["conv", "stride2", "stride4"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
CELL_KINDS = ("normal", "reduce")


class CellStructure(Settings):
    """What a cell may hold: this alone decides whether a genotype fits a space."""

    nodes: int = Field(ge=1, le=16)
    edges_per_node: int = Field(default=2, ge=1, le=2)
    operations: tuple[Name, ...] = Field(min_length=1, max_length=64)
    attention: tuple[Name, ...] = Field(default=("none",), min_length=1, max_length=32)

    @model_validator(mode="after")
    def _check(self) -> CellStructure:
        for field in ("operations", "attention"):
            names = getattr(self, field)
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"{field} lists {', '.join(twice)} twice")
        if set(self.operations) == {"none"}:
            raise ValueError("operations holds 'none' alone; name at least one that computes something")
        return self

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything a genotype depends on."""
        plain = {name: getattr(self, name) for name in CellStructure.model_fields}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


class NetworkSpec(Settings):
    """How cells are stacked: width, depth, stem, input size (pixels)."""

    channels: int = Field(ge=1, le=2048)
    cells: int = Field(ge=1, le=100)
    reductions: tuple[int, ...] = ()
    stem: Stem = "stride2"
    stem_multiplier: int = Field(default=3, ge=1, le=16)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _check(self) -> NetworkSpec:
        wrong = [r for r in self.reductions if not 0 <= r < self.cells]
        if wrong:
            raise ValueError(f"reductions name cell {wrong[0]}, but cells go from 0 to {self.cells - 1}")
        if len(set(self.reductions)) > 10:
            raise ValueError(f"{len(set(self.reductions))} reductions double the width each; expected at most 10")
        return self

    def kind(self, cell: int) -> str:
        """``reduce`` where a cell halves the map and doubles the width, else ``normal``."""
        return "reduce" if cell in self.reductions else "normal"


class SpaceSpec(CellStructure):
    """A space of cells (DARTS, arXiv 1806.09055) whose outputs may pass an attention block."""

    name: Name
    kind: Literal["cells"] = "cells"
    cells: int = Field(ge=1, le=100)
    channels: int = Field(ge=1, le=2048)
    reductions: tuple[int, ...] | Literal["thirds"] = "thirds"
    stem: Stem = "stride2"
    stem_multiplier: int = Field(default=3, ge=1, le=16)

    def network(self, height: int, width: int, **changes: Any) -> NetworkSpec:
        """The network searched on images of ``height`` x ``width``; ``changes`` replace width, depth or stem."""
        wanted = {k: v for k, v in changes.items() if v is not None}
        cells = wanted.get("cells", self.cells)
        reductions = wanted.pop("reductions", self.reductions)
        fields = {
            "channels": self.channels,
            "cells": cells,
            "stem": self.stem,
            "stem_multiplier": self.stem_multiplier,
            "reductions": thirds(cells) if reductions == "thirds" else reductions,
            "height": height,
            "width": width,
        }
        source = f"network of space '{self.name}'"
        network = parse(NetworkSpec, {**fields, **wanted}, source=source)
        try:
            check_weights(cells_weights(self, network, edges=self.nodes * (self.nodes + 3) // 2), "its supernet")
        except ValueError as error:
            raise InputError(f"{source}: {error}") from None
        return network


def thirds(cells: int) -> tuple[int, ...]:
    """DARTS' places of the reduction cells: at one and two thirds of the depth.

    >>> thirds(8)
    (2, 5)
    """
    return tuple(sorted({cells // 3, 2 * cells // 3})) if cells > 2 else ()


def read_space(path: Path) -> SpaceSpec:
    """A search space file; ``name`` defaults to the file's own."""
    data = {"name": path.stem, **read_yaml(path)}
    kind = data.get("kind", "cells")
    if kind == "chain":
        raise InputError(f"{path} is a chain space, expected one of cells; name a cells space")
    if kind != "cells":
        raise InputError(f"{path}: unknown kind of search space {kind!r}; {choices(str(kind), ['cells'])}")
    return parse(SpaceSpec, data, source=str(path))


def shipped_file(folder: str, name: str | Path) -> Path:
    """The file that a user means by ``name``: a path, or the bare name of one in ``folder`` here or as shipped."""
    try:
        path = Path(name).expanduser()
        path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, ~ of nobody
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{str(name)[:80]} cannot be looked up ({reason}); give a path or a name") from None
    package = Path(__file__).resolve().parents[1]
    bare = path.name if path.suffix else f"{path.name}.yaml"
    places = [path, Path(folder) / bare, package.parent / folder / bare, package / "_shipped" / folder / bare]
    for place in places if len(path.parts) == 1 or path.parts[0] == folder else places[:1]:
        if place.is_file():
            return place
    known = sorted({p.stem for place in places[1:] for p in place.parent.glob("*.yaml")})
    raise InputError(f"there is no file {path}; {choices(path.stem, known)}, or give a path")
