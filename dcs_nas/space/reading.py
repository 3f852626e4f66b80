"""Files of search spaces and genotypes, of every kind. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcs_nas.errors import InputError, choices
from dcs_nas.registry import Registry
from dcs_nas.settings import S, parse, read_yaml
from dcs_nas.space.cells import SpaceSpec
from dcs_nas.space.darts_text import is_published, read_published
from dcs_nas.space.kinds import FORMAT, GENOTYPES, SPACES, AnyGenotype, Space


def load_space(path: Path) -> Space:
    """Return the search space of a file, of any kind; ``name`` defaults to the file's own."""
    return _parse_kind(SPACES, {"name": path.stem, **read_yaml(path)}, source=str(path))


def read_space(path: Path) -> SpaceSpec:
    """Return the space of cells of a file; raise ``InputError`` for another kind."""
    space = load_space(path)
    if not isinstance(space, SpaceSpec):
        raise InputError(f"{path} is a {space.kind} space, expected one of cells; name a cells space")
    return space


def load_genotype(path: Path, *, space: Space | None = None) -> AnyGenotype:
    """Return the genotype of a file, of the record of an epoch, or of DARTS' text (see ``read_published``).

    ``path`` may be the name of a shipped genotype. DARTS' text gets ``space`` if its cells fit. Raises ``InputError``
    for a newer format and for other content.
    """
    path = genotype_file(path)
    if is_published(path):
        return parse_genotype(read_published(path, space if isinstance(space, SpaceSpec) else None), source=str(path))
    data = read_yaml(path)
    if isinstance(data.get("genotype"), dict):  # the record of an epoch
        data = data["genotype"]
    version = data.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{path} is not a genotype: it has no 'format' number; name the genotype.yaml of a search")
    if version > FORMAT:
        raise InputError(f"{path} has genotype format {version}, this version reads up to {FORMAT}; update dcs_nas")
    return parse_genotype(data, source=str(path))


def genotype_file(path: Path) -> Path:
    """Return the file of the genotype that ships under the name ``path``; another path as it is."""
    if path.exists() or len(path.parts) != 1:
        return path
    try:
        return find_shipped_file("genotypes", path)
    except InputError:
        return path


def parse_genotype(data: Mapping[str, Any], *, source: str) -> AnyGenotype:
    """Return the genotype that plain data of the known format hold; without ``kind`` they are of cells."""
    return _parse_kind(GENOTYPES, data, source=source)


def _parse_kind(kinds: Registry[type[S]], data: Mapping[str, Any], *, source: str) -> S:
    kind = data.get("kind", "cells")
    if not isinstance(kind, str) or kind not in kinds:
        name = str(kind)[:80]
        raise InputError(f"{source}: unknown {kinds.what} '{name}'; {choices(name, kinds)}")
    return parse(kinds[kind], data, source=source)


def find_shipped_file(folder: str, name: str | Path) -> Path:
    """Return the file of a path, or of the bare name of a file in ``folder``, here or as shipped."""
    try:
        path = Path(name).expanduser()
        path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, or ~ of an unknown user
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
