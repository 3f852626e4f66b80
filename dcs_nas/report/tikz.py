"""Drawings as LaTeX: a document that needs only TikZ, and whose picture can be copied into a paper."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dcs_nas.report.dot import get_wire_colour, is_dashed, is_heavy, to_dot
from dcs_nas.report.drawn_graph import list_stages
from dcs_nas.report.palette import Theme, choose_paint

if TYPE_CHECKING:
    import networkx

Point = tuple[float, float]
_SCALE = 0.7  # of dot's inches: its letters are of 13 points, these of 9
_STEP_X, _STEP_Y = 1.5, 0.8  # inches between boxes where dot does not place them
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "×": r"$\times$", "−": "$-$",
    "→": r"$\to$", "–": "--", **{character: f"\\{character}" for character in "_%&#${}"},
}  # fmt: skip
_SUBSCRIPT = re.compile(r"([A-Za-z]+)_\{([A-Za-z0-9+-]+)\}")


def make_tikz(graph: networkx.MultiDiGraph, theme: Theme) -> str:
    """Return one graph of ``make_drawing_graph`` as a LaTeX document; dot places the boxes if it is installed."""
    colours: dict[str, str] = {}
    centres, ways = _layout(graph, theme)
    body = [
        *_stages(graph, centres, theme, colours),
        *(_box(key, data, centres[key], theme, colours) for key, data in graph.nodes(data=True)),
        *_wires(graph, ways, theme, colours),
    ]
    definitions = [rf"\definecolor{{{name}}}{{HTML}}{{{value}}}" for value, name in colours.items()]
    return "\n".join(
        [
            r"% Compile it, or copy the tikzpicture with the colours above it. Needs \usepackage{tikz}.",
            r"\documentclass{article}",
            r"\usepackage[utf8]{inputenc}",
            r"\usepackage{tikz}",
            r"\pagestyle{empty}",
            r"\begin{document}",
            *definitions,
            r"\noindent\resizebox{\textwidth}{!}{%",
            rf"\begin{{tikzpicture}}[x={_SCALE}in, y={_SCALE}in, line width=0.6pt,",
            r"  every node/.style={font=\fontsize{9}{10}\sffamily, align=center, inner sep=2pt}]",
            *body,
            r"\end{tikzpicture}}",
            r"\end{document}",
            "",
        ]
    )


def _layout(graph: networkx.MultiDiGraph, theme: Theme) -> tuple[dict[str, Point], dict[tuple[str, str], list[Any]]]:
    """Return the centre of every box, and the Bezier points of the wires between two boxes; inches."""
    from dcs_nas.report.plain import place_nodes  # with matplotlib

    text = ""
    if shutil.which("dot") is not None and not list_stages(graph):
        with suppress(subprocess.CalledProcessError):
            text = to_dot(graph, theme).pipe(format="plain", quiet=True).decode()
    if not text:
        return {key: (_STEP_X * x, _STEP_Y * y) for key, (x, y) in place_nodes(graph).items()}, {}
    centres: dict[str, Point] = {}
    ways = defaultdict(list)
    for line in text.replace("\\\n", "").splitlines():
        kind, *words = shlex.split(line)
        if kind == "node":
            centres[words[0]] = (float(words[1]), float(words[2]))
        elif kind == "edge" and words[-2] != "invis":
            values = list(map(float, words[3 : 3 + 2 * int(words[2])]))
            ways[words[0], words[1]].append(list(zip(values[::2], values[1::2])))
    return centres, ways


def _stages(
    graph: networkx.MultiDiGraph, centres: Mapping[str, Point], theme: Theme, colours: dict[str, str]
) -> list[str]:
    """Return a filled box behind the blocks of every stage, with its title above."""
    lines = []
    for number, title in list_stages(graph).items():
        inside = [centres[key] for key, data in graph.nodes(data=True) if data["stage"] == number]
        xs, ys = zip(*inside)
        corners = f"{_point((min(xs) - 0.6, min(ys) - 0.45))} rectangle {_point((max(xs) + 0.6, max(ys) + 0.45))}"
        lines.append(rf"\fill[{_colour(theme.state.fill, colours)}] {corners};")
        lines.append(rf"\node[above] at {_point((sum(xs) / len(xs), max(ys) + 0.45))} {{{escape_tex(title)}}};")
    return lines


def _box(key: str, data: Mapping[str, Any], centre: Point, theme: Theme, colours: dict[str, str]) -> str:
    own = choose_paint(theme, data["role"], data["family"], data["change"])
    names = {name: _colour(value, colours) for name, value in vars(own).items()}
    style = [f"draw={names['line']}", f"fill={names['fill']}", f"text={names['text']}"]
    style += {"node": ["circle"], "input": [], "output": []}.get(data["role"], ["rounded corners"])
    style += ["dashed"] if is_dashed(data) else []
    style += ["line width=1.2pt"] if is_heavy(data) else []
    return rf"\node[{', '.join(style)}] ({_name(key)}) at {_point(centre)} {{{escape_tex(data['text'])}}};"


def _wires(
    graph: networkx.MultiDiGraph, ways: Mapping[tuple[str, str], Sequence[Any]], theme: Theme, colours: dict[str, str]
) -> list[str]:
    lines = []
    used: dict[tuple[str, str], int] = defaultdict(int)
    for tail, head, data in graph.edges(data=True):
        style = ["->"] if graph.nodes[head]["role"] != "op" else []
        style += [f"draw={_colour(get_wire_colour(data, theme), colours)}"]
        style += ["dashed"] if is_dashed(data) else []
        curves = ways.get((tail, head), [])
        bends = curves[min(used[tail, head], len(curves) - 1)] if curves else None
        used[tail, head] += 1
        middle = "--" if bends is None else _curve(bends)
        lines.append(rf"\draw[{', '.join(style)}] ({_name(tail)}) {middle} ({_name(head)});")
    return lines


def _curve(points: Sequence[Point]) -> str:
    """Return the way between two boxes as TikZ curves; dot's first and last points lie on the boxes' borders."""
    start, *rest = points
    curves = [rest[i : i + 3] for i in range(0, len(rest), 3)]
    parts = [f"-- {_point(start)}"]
    parts += [f".. controls {_point(a)} and {_point(b)} .. {_point(c)}" for a, b, c in curves]
    return f"{' '.join(parts)} --"


def escape_tex(text: str) -> str:
    r"""Return text for LaTeX: special characters escaped, ``c_{k-2}`` as mathematics, lines apart by ``\\``.

    >>> print(escape_tex("sep_conv_3x3"), escape_tex("c_{k-2}"))
    sep\_conv\_3x3 $c_{k-2}$
    """
    return r"\\".join(map(_row, text.split("\n")))


def _row(text: str) -> str:
    if match := _SUBSCRIPT.fullmatch(text):
        return f"${match[1]}_{{{match[2]}}}$"
    return "".join(_SPECIAL.get(character, character) for character in text)


def _colour(value: str, colours: dict[str, str]) -> str:
    """Return the name, letters only, of a colour ``#rrggbb``; add a new colour to ``colours``."""
    number = len(colours)
    return colours.setdefault(value.lstrip("#").upper(), f"nas{chr(97 + number // 26)}{chr(97 + number % 26)}")


def _point(point: Point) -> str:
    return f"({point[0]:.3f},{point[1]:.3f})"


def _name(key: str) -> str:
    """Return a key as a name of TikZ, without punctuation."""
    return re.sub(r"[^A-Za-z0-9 ]", lambda match: f" {ord(match[0]):x} ", key)
