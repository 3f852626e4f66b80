"""Charts by matplotlib in one style: lines over the epochs, CMC curves, architectures of a tabular benchmark."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, PercentFormatter

from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path
from dcs_nas.report.embedded import Picture, encode_svg
from dcs_nas.report.palette import Theme, get_theme

if TYPE_CHECKING:
    from dcs_nas.space.table import Entry, Table

_HUES = ("separable", "pooling", "dilated", "attention")  # four line colours, distinct in any colour vision
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v")
_STARS = ("*", "D", "P", "X", "^", "v", "s", "h")
_LONGEST_NAME = 40
_MARKED_RANKS = (1, 5, 10, 20, 50, 100)
_WIDTH, _LEFT, _RIGHT = 4.4, 0.15, 0.975  # of a line chart: inches, and where its axes begin and end
FORMATS = ("png", "svg", "pdf")
_CJK = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB"),
)


@functools.cache
def _find_cjk_fonts() -> list[str]:
    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _CJK if name in installed]


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Silence matplotlib's warnings of characters that no font here has; they are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def make_style(colours: Theme) -> Any:
    """Return matplotlib's settings: the theme's colours, text as text, the same bytes each time."""
    return {
        "font.family": ["sans-serif", *_find_cjk_fonts()],
        "font.sans-serif": ["DejaVu Sans", "Verdana"],
        "svg.fonttype": "none",
        "svg.hashsalt": "dcs_nas",
        "pdf.fonttype": 42,
        "figure.facecolor": colours.ground,
        "axes.facecolor": colours.ground,
        "axes.edgecolor": colours.wire,
        "axes.labelcolor": colours.text,
        "axes.titlecolor": colours.text,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colours.wire,
        "grid.alpha": 0.35,
        "text.color": colours.text,
        "text.parse_math": False,
        "xtick.color": colours.text,
        "ytick.color": colours.text,
        "legend.frameon": False,
    }


def save_figure(figure: Figure, form: str) -> bytes:
    """Return a figure as svg, png (160 dots per inch) or pdf, without the date."""
    stream = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with without_glyph_warnings():
        figure.savefig(stream, format=form, dpi=160, metadata=metadata)
    return stream.getvalue()


def _line_style(index: int, colours: Theme) -> dict[str, Any]:
    """Return colour, dashes and marker of the line with this number."""
    return {
        "color": colours.families[_HUES[index % len(_HUES)]].line,
        "linestyle": _DASHES[(index + index // len(_HUES)) % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
    }


@dataclass(frozen=True)
class Series:
    """A named line: a value or None for each x."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """A line chart; ``facts`` are for the page's script, which shows values at places (shares of the width)."""

    title: str
    note: str
    picture: Picture
    facts: dict[str, Any]


def draw_line_chart(title: str, series: Sequence[Series], *, note: str = "", step: str = "epoch") -> Chart | None:
    """Return a chart over the steps of all series that have a number, styled by their index; None without any."""
    styled = [(s, i) for i, s in enumerate(series) if any(y is not None for y in s.ys)]
    if not styled:
        return None
    xs = sorted({x for s, _ in styled for x in s.xs})
    low, high = (xs[0], xs[-1]) if len(xs) > 1 else (xs[0] - 1, xs[0] + 1)
    low, high = low - 0.02 * (high - low), high + 0.02 * (high - low)

    colours = get_theme("light")
    with matplotlib.rc_context({**make_style(colours), "font.size": 9.5, "lines.linewidth": 1.6}):
        legend = len(styled) > 1 or not title.endswith(styled[0][0].name)
        below = 0.47 + (0.06 + 0.2 * len(styled) if legend else 0.0)  # inches
        figure = Figure(figsize=(_WIDTH, 1.9 + below))
        bottom = below / (1.9 + below)
        axes = figure.add_axes((_LEFT, bottom, _RIGHT - _LEFT, 0.97 - bottom), xlim=(low, high), xlabel=step)
        handles = []
        for line, index in styled:
            ys = np.array([np.nan if y is None else y for y in line.ys])
            size = 3.0 if len(ys) <= 60 else 0.0
            handles += axes.plot(line.xs, ys, markersize=size, **_line_style(index, colours))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}".replace("e-0", "e-")))
        if legend:
            names = [_cut(line.name) for line, _ in styled]  # explicit: matplotlib leaves out labels such as "_a"
            figure.legend(
                handles, names, loc="lower left", bbox_to_anchor=(_LEFT - 0.02, 0), borderaxespad=0, labelspacing=0.3
            )
        svg = save_figure(figure, "svg")
    places = [round(_LEFT + (x - low) / (high - low) * (_RIGHT - _LEFT), 4) for x in xs]
    lines = [{"name": s.name, "values": [dict(zip(s.xs, s.ys)).get(x) for x in xs]} for s, _ in styled]
    facts = {"xs": xs, "places": places, "label": step, "lines": lines}
    return Chart(title, note, embed_chart(svg, f"{title} over {step}s"), facts)


def embed_chart(light: bytes, alt: str) -> Picture:
    """Return the picture of a chart in the light theme, and its copy in the colours of the dark theme."""
    dark = light.decode()
    for a, b in zip(_colours_of("light"), _colours_of("dark")):
        dark = dark.replace(a, b)
    return Picture(encode_svg(light), alt, encode_svg(dark.encode()))


def _colours_of(name: str) -> list[str]:
    colours = get_theme(name)
    return [colours.ground, colours.text, colours.wire, *(colours.families[hue].line for hue in _HUES)]


@dataclass(frozen=True, eq=False)
class CmcCurve:
    """One curve: ``cmc`` (R,) shares at rank 1 to R, and the bounds of its confidence interval (R, 2) if it has one.

    ``style`` counts colours and dashes from 0; without one it is the curve's index.
    """

    name: str
    cmc: Sequence[float]
    mAP: float
    interval: Sequence[Sequence[float]] | None = None
    style: int | None = None


def read_cmc_curve(report: Mapping[str, Any], name: str, *, style: int | None = None) -> CmcCurve:
    """Return the curve of an evaluation's report (``evaluation.json``)."""
    confidence = report.get("confidence")
    return CmcCurve(name, report["cmc"], report["mAP"], confidence["cmc"] if confidence else None, style)


def draw_cmc(curves: Sequence[CmcCurve], folder: Path, *, title: str = "") -> list[Path]:
    """Draw curves on one axes into ``cmc.png`` and ``cmc.svg``; they differ in colour, dashes and marker."""
    if not curves:
        raise InputError("there is no curve to draw, expected at least one; name an evaluation")
    files = [folder / "cmc.png", folder / "cmc.svg"]
    for file in files:
        with atomic_path(file) as temporary:
            temporary.write_bytes(paint_cmc(curves, file.suffix[1:], title=title))
    return files


def paint_cmc(curves: Sequence[CmcCurve], form: str, *, title: str = "") -> bytes:
    """Return the figure of ``draw_cmc`` in the light theme as svg, png or pdf."""
    colours = get_theme("light")
    with matplotlib.rc_context({**make_style(colours), "font.size": 11.0}):
        figure = Figure(figsize=(6.4, 4.4 + 0.26 * len(curves)), layout="constrained")
        axes = figure.add_subplot()
        handles, names = [], []
        for index, curve in enumerate(curves):
            style = _line_style(index if curve.style is None else curve.style, colours)
            ranks, shares = np.arange(1, len(curve.cmc) + 1), np.asarray(curve.cmc)
            names.append(f"{_cut(curve.name)}: mAP {100 * curve.mAP:.1f} %, rank-1 {100 * shares[0]:.1f} %")
            marked = [k - 1 for k in _MARKED_RANKS if k <= len(shares)]
            handles += axes.plot(ranks, shares, linewidth=2, markersize=6, markevery=marked, **style)
            if curve.interval is not None:
                low, high = np.asarray(curve.interval).T
                axes.fill_between(ranks, low, high, color=style["color"], alpha=0.18, linewidth=0)
        _label_cmc(axes, curves, title)
        figure.legend(handles, names, loc="outside lower left", fontsize=10)
        return save_figure(figure, form)


def _label_cmc(axes: Axes, curves: Sequence[CmcCurve], title: str) -> None:
    longest = max(len(curve.cmc) for curve in curves)
    lows = [np.asarray(curve.cmc if curve.interval is None else curve.interval).min() for curve in curves]
    axes.set_ylim(max(0.0, np.floor(10 * min(lows) - 0.5) / 10), 1.01)
    axes.set_xlim(1 - 0.02 * longest, longest + 0.02 * longest)
    axes.xaxis.set_major_locator(FixedLocator([k for k in _MARKED_RANKS if k <= longest]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    band = "; band: 95 % interval" if any(curve.interval is not None for curve in curves) else ""
    axes.set(xlabel="rank", ylabel=f"queries matched within rank{band}")
    axes.set_title(title, fontsize=11)


def draw_standing(table: Table, named: Mapping[str, Entry], out: Path) -> None:
    """Draw all entries of ``table`` as points, its Pareto front as a line and the ``named`` ones as labelled stars.

    Raises:
        InputError: a file name that does not end in png, svg or pdf.
    """
    form = out.suffix.lstrip(".").lower()
    if form not in FORMATS:
        raise InputError(f"{out} ends in '{out.suffix}', expected .{', .'.join(FORMATS)}; change its ending")
    colours = get_theme("light")
    with matplotlib.rc_context({**make_style(colours), "font.size": 10.0}):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot(xlabel="multiply-adds of an image (millions)", ylabel="mAP on unseen identities (%)")
        axes.set_title(f"{table.name}, synthetic pedestrians", fontsize=10)
        line, star = colours.families["separable"].line, colours.families["attention"].fill

        handles: list[Line2D] = []
        labels: list[str] = []

        def plot(entries: Iterable[Entry], form: str, label: str, **style: Any) -> None:
            points = [(entry.multiply_adds / 1e6, entry.score) for entry in entries]
            handles.extend(axes.plot(*zip(*points), form, **style))
            labels.append(label)

        plot(table, ".", f"all {len(table)} architectures", color=colours.wire, alpha=0.55)
        plot(table.front, "o-", "Pareto front", color=line, markersize=4)
        for (name, entry), marker in zip(named.items(), _STARS):
            label = f"{name}: rank {entry.rank}"
            plot([entry], marker, label, markersize=13, color=star, markeredgecolor=colours.ground, zorder=4)
        axes.legend(handles, labels, loc="lower right")
        with atomic_path(out) as path:
            path.write_bytes(save_figure(figure, form))


def _cut(name: str) -> str:
    """Return a name, or the end of one that is too long for a legend."""
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"
