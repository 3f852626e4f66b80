"""Genotypes as DARTS prints them: ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)``.

Source: quark0/darts, cnn/genotypes.py; PC-DARTS, P-DARTS and DARTS-PT print the same. Such text names no space, width,
depth or attention: it gets those of DARTS' search. Only literals are read, nothing is evaluated.
"""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from dcs_nas.errors import InputError
from dcs_nas.settings import parse, read_text
from dcs_nas.space.cells import CELL_KINDS, CellStructure, Genotype, NetworkSpec, SpaceSpec, thirds

log = logging.getLogger(__name__)
OPERATIONS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip
_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_CELLS, _CHANNELS = 8, 16  # arXiv 1806.09055, section 3.1.1
_SIZE = (256, 128)  # pixels; a training takes its own
_START = re.compile(r"(?:\b(?P<name>[A-Za-z_]\w*)[ \t]*=[ \t]*)?\b(?P<text>Genotype[ \t]*\()")
_ALIAS = re.compile(r"^([A-Za-z_]\w*)[ \t]*=[ \t]*([A-Za-z_]\w*)[ \t]*$", re.MULTILINE)
_OURS = re.compile(r"^(format|genotype):", re.MULTILINE)
_LONGEST, _DEEPEST = 10_000, 3  # characters; brackets inside one another
_MOST_NODES, _MOST_ENTRIES = 16, 1000


class _Entry(NamedTuple):
    """One genotype in a text: its name before the equals sign, the number of its line, its text."""

    name: str | None
    line: int
    text: str


def is_published(path: Path) -> bool:
    """Return whether a file, or ``FILE:NAME``, holds genotypes as DARTS prints them."""
    file, choice = _split(path)
    if choice is not None or not file.is_file():
        return choice is not None
    text = read_text(file)
    return _START.search(text) is not None and _OURS.search(text) is None


def read_published(path: Path, space: SpaceSpec | None = None) -> dict[str, Any]:
    """Return the data of a ``Genotype`` from the text in a file: a log, a genotypes.py, or the line alone.

    Args:
        path: of the file, or ``FILE:NAME`` or ``FILE:LINE`` for one of several genotypes. Without a choice the last one
            is taken, unless they have different names.
        space: its structure and network are taken if the cells fit it; else those of DARTS' search.

    Raises:
        InputError: no genotype, several names, or one that is no literal or not of cells that join all their nodes.
    """
    file, choice = _split(path)
    text = read_text(file)
    aliases = dict(_ALIAS.findall(text))  # in DARTS' own file: DARTS = DARTS_V2
    entry = _choose_entry(_find_entries(text, file), aliases.get(choice, choice), file)
    source = f"{file}, line {entry.line}"
    fields = _read_arguments(entry.text, source)
    cells = {
        kind: _read_cell(fields[kind], fields[f"{kind}_concat"], f"{source}: cell '{kind}'") for kind in CELL_KINDS
    }
    shapes = {(len(nodes), len(nodes[0])) for nodes in cells.values()}
    if len(shapes) > 1:
        raise InputError(f"{source}: normal and reduction cell differ in nodes or edges per node; expected the same")
    structure, name, network = _choose_space(cells, *shapes.pop(), space)
    plain = {field: getattr(structure, field) for field in CellStructure.model_fields}
    return {
        "format": 1,
        "space": {**plain, "name": name, "hash": structure.hash},
        "network": network.model_dump(),
        "cells": {kind: {"nodes": nodes} for kind, nodes in cells.items()},
        "origin": {"method": "published as text"},
    }


def to_darts_text(genotype: Genotype) -> str:
    """Return a genotype of cells as ``genotype = Genotype(...)``, without its attention, width and depth.

    Raises:
        InputError: a genotype without a normal or a reduction cell.
    """
    missing = [kind for kind in CELL_KINDS if kind not in genotype.cells]
    if missing:
        raise InputError(
            f"the text of DARTS holds a normal and a reduction cell, and this genotype has no {missing[0]}; leave the "
            "format darts out"
        )
    parts = []
    for kind in CELL_KINDS:
        nodes = genotype.cells[kind].nodes
        edges = [(edge.op, edge.source) for node in nodes for edge in node]
        parts += [f"{kind}={edges!r}", f"{kind}_concat=range(2, {2 + len(nodes)})"]
    return f"genotype = Genotype({', '.join(parts)})\n"


def _split(path: Path) -> tuple[Path, str | None]:
    """Return the file and the choice in it that ``FILE:NAME`` means, unless there is a file of that very name."""
    name, colon, choice = path.name.rpartition(":")
    if colon and name and choice and not path.is_file() and path.with_name(name).is_file():
        return path.with_name(name), choice
    return path, None


def _find_entries(text: str, file: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    line, before = 1, 0
    for match in _START.finditer(text):
        if len(entries) == _MOST_ENTRIES:
            raise InputError(f"{file} holds over {_MOST_ENTRIES:,} genotypes; copy the line of one of them into a file")
        start = match.start("text")
        line, before = line + text.count("\n", before, start), start
        entries.append(_Entry(match["name"], line, text[start : _find_end(text, match.end())]))
    return entries


def _find_end(text: str, start: int) -> int:
    """Return the position after the bracket that closes the one before ``start``, or the last position searched."""
    depth = 1
    for place in range(start, min(len(text), start + _LONGEST)):
        depth += (text[place] in "([") - (text[place] in ")]")
        if depth == 0:
            return place + 1
        if depth > _DEEPEST:
            return place
    return min(len(text), start + _LONGEST)


def _choose_entry(entries: list[_Entry], choice: str | None, file: Path) -> _Entry:
    if not entries:
        raise InputError(f"{file} holds no Genotype(...); expected the text that DARTS prints")
    names = list(dict.fromkeys(entry.name for entry in entries if entry.name))
    if choice is not None:
        of_choice = [entry for entry in entries if choice in (entry.name, str(entry.line))]
        if not of_choice:
            lines = ", ".join(str(entry.line) for entry in entries[-8:])
            raise InputError(
                f"{file} has no genotype '{choice}'; it has {', '.join(names) or 'none by name'}, lines {lines}"
            )
        return of_choice[-1]
    last = entries[-1]
    if len(names) > 1:
        listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise InputError(f"{file} holds several genotypes: {listed}; name one, such as {file}:{names[-1]}")
    if len({entry.text for entry in entries}) > 1:
        log.warning("%s: the last of %d genotypes, line %d; another by %s:LINE", file, len(entries), last.line, file)
    return last


def _read_arguments(text: str, source: str) -> dict[str, Any]:
    """Return the four arguments of ``Genotype(...)`` as lists."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or type(error).__name__
        raise InputError(
            f"{source}: Genotype(...) does not parse ({reason}); expected the text that DARTS prints"
        ) from None
    assert isinstance(tree, ast.Call)
    pairs = [*zip(_FIELDS, tree.args), *((keyword.arg, keyword.value) for keyword in tree.keywords)]
    fields = dict(pairs)
    if len(tree.args) > len(_FIELDS) or len(pairs) != len(fields) or sorted(map(str, fields)) != sorted(_FIELDS):
        names = ", ".join(str(name) for name, _ in pairs)
        raise InputError(f"{source}: Genotype(...) has the arguments {names}; expected {', '.join(_FIELDS)}, each once")
    return {str(name): _read_literal(node, source) for name, node in pairs}


def _read_literal(node: ast.AST, source: str) -> Any:
    """Return a literal text or whole number, a list or tuple of literals, or a small ``range(a, b)``, as plain data."""
    if isinstance(node, ast.Constant) and type(node.value) in (str, int):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_read_literal(item, source) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range" and not node.keywords:
        bounds = [_read_literal(item, source) for item in node.args]
        if len(bounds) in (1, 2) and all(type(bound) is int and 0 <= bound <= 100 for bound in bounds):
            return list(range(*bounds))
    raise InputError(
        f"{source}: Genotype(...) holds {type(node).__name__} at column {getattr(node, 'col_offset', 0) + 1}; "
        "expected lists of ('operation', number) and range(2, 6)"
    )


def _read_cell(edges: Any, concat: Any, source: str) -> list[list[dict[str, Any]]]:
    """Return the edges of every node as ``Genotype`` holds them."""
    for edge in edges if isinstance(edges, list) else [edges]:
        if not isinstance(edge, list) or [type(part) for part in edge] != [str, int]:
            raise InputError(f"{source} holds {str(edge)[:80]!r}; expected pairs of an operation and a number")
    count = len(concat) if isinstance(concat, list) else 0
    if not 1 <= count <= _MOST_NODES or concat != list(range(2, 2 + count)):
        raise InputError(
            f"{source} joins the nodes {str(concat)[:80]}; expected all of them, such as range(2, 6): cells that leave "
            "nodes out are not supported"
        )
    if len(edges) not in (count, 2 * count):
        raise InputError(f"{source} has {len(edges)} edges for {count} nodes; expected one or two for each node")
    each = len(edges) // count
    pairs = [{"op": op, "from": state} for op, state in edges]
    return [pairs[each * node : each * (node + 1)] for node in range(count)]


def _choose_space(
    cells: dict[str, list[list[dict[str, Any]]]], nodes: int, edges: int, space: SpaceSpec | None
) -> tuple[CellStructure, str, NetworkSpec]:
    """Return structure, name and network of ``space`` if the cells fit it, else of DARTS' search."""
    used = list(dict.fromkeys(edge["op"] for cell in cells.values() for node in cell for edge in node))
    if (
        space is not None
        and (space.nodes, space.edges_per_node) == (nodes, edges)
        and set(used) <= set(space.operations)
        and "none" in space.attention
    ):
        return space, space.name, space.network(*_SIZE)
    fields = {"channels": _CHANNELS, "cells": _CELLS, "reductions": thirds(_CELLS), "stem": "stride4"}
    network = NetworkSpec.model_validate({**fields, "height": _SIZE[0], "width": _SIZE[1]})
    operations = (*OPERATIONS, *(op for op in used if op not in OPERATIONS))
    structure = {"nodes": nodes, "edges_per_node": edges, "operations": operations}
    return parse(CellStructure, structure, source="the cells of the text"), "darts", network
