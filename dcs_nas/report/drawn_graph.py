"""Graphs for drawings: of one genotype or of the difference of two, with operations as nodes.

It works for every kind of space whose ``graph`` has the roles of ``describe_node``. Nodes of the result have ``role``,
``label``, ``text`` (the lines in the box), ``family``, ``change`` (kept, removed, added, new, changed or nothing),
``stage`` (0 outside stages) and ``branch`` (a, b or nothing); edges have the family and change of their operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcs_nas.report.palette import get_family, split_label

if TYPE_CHECKING:
    import networkx

_SIGNS = {"added": "+ ", "new": "+ ", "removed": "− "}
# Roles of nodes that a drawing of changes marks; operations are edges.
_CHOSEN = ("block", "skipped", "attention", "branch", "interaction")


def make_drawing_graph(graph: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """Return the drawing's graph of a part of a genotype, made from ``AnyGenotype.graph``."""
    return _merge(graph, graph, both="", one="", other="")


def mark_new(graph: networkx.MultiDiGraph, old: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """Return ``graph`` with everything that ``old`` lacks marked ``new``, and ``changed`` blocks with both values."""
    return _merge(old, graph, both="", one="left out", other="new")


def make_difference_graph(a: networkx.MultiDiGraph, b: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """Return two graphs as one, with parts marked kept, removed (in ``a`` alone), added (in ``b`` alone) or changed."""
    return _merge(a, b, both="kept", one="removed", other="added")


def list_stages(graph: networkx.MultiDiGraph) -> dict[int, str]:
    """Return the title of every stage by its number; none where the graph has no stages."""
    titles = {d["stage"]: f"stage {d['stage']}\n{d['size']}" for _, d in graph.nodes(data=True) if d["size"]}
    return {number: title for number, title in sorted(titles.items()) if number}


def is_branched(graph: networkx.MultiDiGraph) -> bool:
    """Return whether the graph has cells of two branches."""
    return any(data["branch"] for _, data in graph.nodes(data=True))


def describe_node(data: Mapping[str, Any]) -> list[list[str]]:
    """Return the words of a node's box, row by row.

    >>> describe_node({"role": "block", "kernel": 5, "expansion": 6, "width": 24, "squeeze_excite": True})
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
        return [[" ".join(split_label(label)) if label != "none" else "no interaction"]]
    if role == "branch":
        return [[label]]
    if role == "attention":
        word = ["attention"] if get_family(label) == "attention" else []
        return [[row] for row in (*split_label(label), *word, *([data["window"]] if "window" in data else []))]
    rows = [label, data.get("size", ""), f"width {data['width']}" if "width" in data else ""]
    held = data.get("attention", "none")
    return [[row] for row in (*rows, f"+ {' '.join(split_label(held))}" if held != "none" else "") if row]


def _merge(
    old: networkx.MultiDiGraph, new: networkx.MultiDiGraph, *, both: str, one: str, other: str
) -> networkx.MultiDiGraph:
    """Return two graphs as one, with marks for parts in both, in ``old`` alone and in ``new`` alone."""
    import networkx

    old, new = _rename_attention(old), _rename_attention(new)
    name = new.name + (" difference" if one == "removed" else "")
    graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=name, words=new.graph.get("words", ""))
    for key in [*new, *(key for key in old if key not in new)]:
        versions: list[dict[str, Any]] = [g.nodes[key] for g in (old, new) if key in g]
        rows, data = describe_node(versions[-1]), versions[-1]
        change = (one if key in old else other) if len(versions) == 1 else both if data["role"] in _CHOSEN else ""
        if (before := describe_node(versions[0])) != rows:
            change = "changed"
            rows = _join_values(before, rows, skipped=any(d["role"] == "skipped" for d in versions))
        if change != "left out":
            _add_node(graph, key, data, ["\n".join(", ".join(row) for row in rows)], _family_of(data), change)
    place = {key: i for i, key in enumerate(graph)}
    edges = [edge for edge in _list_edges(old, new, both, one, other) if edge[3] != "left out"]
    for i, (tail, head, op, change) in enumerate(sorted(edges, key=lambda edge: (place[edge[1]], place[edge[0]]))):
        if op:
            kind = get_family(op)
            _add_node(graph, f"op_{i}", {"role": "op", "label": op}, split_label(op), kind, change)
            graph.add_edge(tail, f"op_{i}", family=kind, change=change)
            graph.add_edge(f"op_{i}", head, family=kind, change=change)
        else:
            ends = [graph.nodes[key] for key in (tail, head)]
            attended = any(d["role"] == "attention" for d in ends) and not any(d["stage"] for d in ends)
            graph.add_edge(tail, head, family="attention" if attended else "", change=change)
    return graph


def _rename_attention(graph: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """Return the graph with attention nodes renamed by block, so that different blocks are different nodes."""
    import networkx

    keys = {key: f"{key}_{data['label']}" for key, data in graph.nodes(data=True) if data["role"] == "attention"}
    return networkx.relabel_nodes(graph, keys)


def _list_edges(
    old: networkx.MultiDiGraph, new: networkx.MultiDiGraph, both: str, one: str, other: str
) -> Iterator[tuple[str, str, str, str]]:
    """Yield edges as (tail, head, operation, change); repeated edges are kept."""
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
        return get_family(data["label"])
    held = data.get("attention", "none") != "none" or data["role"] == "attention"
    fixed = {"block": "separable", "branch": "separable", "skipped": "none"}
    return fixed.get(data["role"], "attention" if held else "")


def _join_values(old: list[list[str]], new: list[list[str]], *, skipped: bool) -> list[list[str]]:
    """Return the words of a changed block; changed words show both values."""
    if skipped:
        return [*old, ["→"], *new]
    rows = [list(map(_join_words, a, b)) for a, b in zip(old[:2], new[:2])]
    sign = "" if len(old) == len(new) else "+ " if len(new) > len(old) else "− "
    return [*rows, *([sign + row[0]] for row in (old[2:] or new[2:]))]


def _join_words(old: str, new: str) -> str:
    """Return both values after their common word.

    >>> _join_words("width 12", "width 16")
    'width 12 → 16'
    """
    if old == new:
        return old
    word = old.partition(" ")[0] + " "
    return f"{old} → {new.removeprefix(word)}"
