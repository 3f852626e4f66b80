"""What a drawing shows: the graphs of genotypes with their operations as nodes, alone or two of them as one.

Works for every kind of space whose ``graph`` has the roles that ``text_of`` knows. Nodes of the result carry ``role``,
``label``, ``text`` (the lines in the box), ``family``, ``change`` (kept, removed, added, new, changed or nothing),
``stage`` (0 outside stages) and ``branch`` (a, b or nothing); edges carry the family and change of their operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcs_nas.report.palette import family, lines

if TYPE_CHECKING:
    import networkx

_SIGNS = {"added": "+ ", "new": "+ ", "removed": "− "}
# Roles of nodes that a drawing of changes tells apart; operations are edges.
_CHOSEN = ("block", "skipped", "attention", "branch", "interaction")


def drawn_graph(graph: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """Return the drawing's graph of a part of a genotype, as ``AnyGenotype.graph`` gives it."""
    return _merged(graph, graph, both="", one="", other="")


def graph_since(graph: networkx.MultiDiGraph, old: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """Return ``graph`` with what ``old`` does not have marked ``new``, and ``changed`` blocks with both values."""
    return _merged(old, graph, both="", one="left out", other="new")


def difference_graph(a: networkx.MultiDiGraph, b: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """Return two graphs as one: what is kept, what only ``a`` has, what only ``b`` has, and changed blocks."""
    return _merged(a, b, both="kept", one="removed", other="added")


def stages_of(graph: networkx.MultiDiGraph) -> dict[int, str]:
    """Return the title of every stage by its number; none where the graph has no stages."""
    found = {d["stage"]: f"stage {d['stage']}\n{d['size']}" for _, d in graph.nodes(data=True) if d["size"]}
    return {number: title for number, title in sorted(found.items()) if number}


def is_branched(graph: networkx.MultiDiGraph) -> bool:
    """Return whether cells of two branches are drawn."""
    return any(data["branch"] for _, data in graph.nodes(data=True))


def text_of(data: Mapping[str, Any]) -> list[list[str]]:
    """Return the words in a node's box, row by row.

    >>> text_of({"role": "block", "kernel": 5, "expansion": 6, "width": 24, "squeeze_excite": True})
    [['5×5', 'e6'], ['width 24'], ['SE']]
    """
    role, label = data["role"], str(data.get("label", ""))
    if role == "block" and "placement" in data:
        return [["OSNet block"], [f"IN {data['placement']}"]]
    if role == "block":
        excite = [["SE"]] if data["squeeze_excite"] else []
        return [[f"{data['kernel']}×{data['kernel']}", f"e{data['expansion']}"], [f"width {data['width']}"], *excite]
    if role == "skipped":
        return [["skipped"]]
    if role == "interaction":
        return [[" ".join(lines(label)) if label != "none" else "no interaction"]]
    if role == "branch":
        return [[label]]
    if role == "attention":
        window = [data["window"]] if "window" in data else []
        return [[row] for row in (*lines(label), *(["attention"] if family(label) == "attention" else []), *window)]
    rows = [label, data.get("size", ""), f"width {data['width']}" if "width" in data else ""]
    held = data.get("attention", "none")
    return [[row] for row in (*rows, f"+ {' '.join(lines(held))}" if held != "none" else "") if row]


def _merged(
    old: networkx.MultiDiGraph, new: networkx.MultiDiGraph, *, both: str, one: str, other: str
) -> networkx.MultiDiGraph:
    """Two graphs as one, with words for what is in both, only in the first and only in the second."""
    import networkx

    old, new = _renamed(old), _renamed(new)
    name = new.name + (" difference" if one == "removed" else "")
    graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=name, words=new.graph.get("words", ""))
    for key in [*new, *(key for key in old if key not in new)]:
        found: list[dict[str, Any]] = [g.nodes[key] for g in (old, new) if key in g]
        rows, data = text_of(found[-1]), found[-1]
        change = (one if key in old else other) if len(found) == 1 else both if data["role"] in _CHOSEN else ""
        if text_of(found[0]) != rows:
            change, rows = "changed", _both_values(text_of(found[0]), rows, skipped="skipped" in map(_role, found))
        if change != "left out":
            _add_node(graph, key, data, ["\n".join(", ".join(row) for row in rows)], _family_of(data), change)
    place = {key: i for i, key in enumerate(graph)}
    edges = [edge for edge in _edges(old, new, both, one, other) if edge[3] != "left out"]
    for i, (tail, head, op, change) in enumerate(sorted(edges, key=lambda edge: (place[edge[1]], place[edge[0]]))):
        if op:
            kind = family(op)
            _add_node(graph, f"op_{i}", {"role": "op", "label": op}, lines(op), kind, change)
            graph.add_edge(tail, f"op_{i}", family=kind, change=change)
            graph.add_edge(f"op_{i}", head, family=kind, change=change)
        else:
            ends = [graph.nodes[key] for key in (tail, head)]
            attended = "attention" in map(_role, ends) and not any(data["stage"] for data in ends)
            graph.add_edge(tail, head, family="attention" if attended else "", change=change)
    return graph


def _role(data: Mapping[str, Any]) -> str:
    return str(data["role"])


def _renamed(graph: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """Attention under its own name, so that another one is another node."""
    import networkx

    keys = {key: f"{key}_{data['label']}" for key, data in graph.nodes(data=True) if data["role"] == "attention"}
    return networkx.relabel_nodes(graph, keys)


def _edges(
    old: networkx.MultiDiGraph, new: networkx.MultiDiGraph, both: str, one: str, other: str
) -> Iterator[tuple[str, str, str, str]]:
    """Edges as (tail, head, operation, change); doubles count."""
    a, b = (Counter((u, v, data["op"]) for u, v, data in graph.edges(data=True)) for graph in (old, new))
    for edge in (a & b).elements():
        yield (*edge, both if edge[2] else "")
    for edge in (a - b).elements():
        yield (*edge, one)
    for edge in (b - a).elements():
        yield (*edge, other)


def _add_node(
    graph: networkx.MultiDiGraph, key: str, data: Mapping[str, Any], rows: Sequence[str], kind: str, change: str
) -> None:
    own = {"role": data["role"], "label": str(data.get("label", "")), "text": _SIGNS.get(change, "") + "\n".join(rows)}
    place = {name: data.get(name, "") for name in ("size", "branch")}
    graph.add_node(key, **own, family=kind, change=change, stage=data.get("stage", 0), **place)


def _family_of(data: Mapping[str, Any]) -> str:
    if data["role"] == "interaction":
        return family(data["label"])
    held = data.get("attention", "none") != "none" or data["role"] == "attention"
    fixed = {"block": "separable", "branch": "separable", "skipped": "none"}
    return fixed.get(data["role"], "attention" if held else "")


def _both_values(old: list[list[str]], new: list[list[str]], *, skipped: bool) -> list[list[str]]:
    """The words of a block that changed: those that did with both values."""
    if skipped:
        return [*old, ["→"], *new]
    rows = [list(map(_arrow, a, b)) for a, b in zip(old[:2], new[:2])]
    sign = "" if len(old) == len(new) else "+ " if len(new) > len(old) else "− "
    return [*rows, *([sign + row[0]] for row in (old[2:] or new[2:]))]


def _arrow(old: str, new: str) -> str:
    """Both values, the words in front of them once.

    >>> _arrow("width 12", "width 16")
    'width 12 → 16'
    """
    if old == new:
        return old
    word = old.partition(" ")[0] + " "
    return f"{old} → {new.removeprefix(word)}"
