"""The picture of accuracy against multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dcs_nas.report.palette import get_theme

TICKS = [0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100]


@dataclass(frozen=True)
class Series:
    """A line of the picture.

    Attributes:
        label: in the legend.
        family: of the palette's colours.
        marker, line: matplotlib's; "none" for no line.
        groups: (millions of multiply-adds, mAP) of the seeds of each point.
        names: written beside the points, or none.
    """

    label: str
    family: str
    marker: str
    line: str
    groups: Sequence[Sequence[tuple[float, float]]]
    names: Sequence[str] = ()


def plot_front(series: Sequence[Series], out: Path, *, title: str) -> None:
    """Multiply-adds and mAP of all series, as ``out`` with the suffixes svg and png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    colours = get_theme("light")
    fixed = {"svg.hashsalt": "dcs_nas", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10.0}
    with plt.rc_context(fixed):
        figure, axes = plt.subplots(figsize=(7.2, 4.6), facecolor=colours.ground, layout="constrained")
        for each in series:
            if each.groups:
                _draw(axes, each, colours.families[each.family].line)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("multiply-adds an image (millions)", color=colours.text)
        axes.set_ylabel("mAP on unseen people (%)", color=colours.text)
        seeds = max(len(group) for each in series for group in each.groups)
        title += f"; mean and range of {seeds} seeds" if seeds > 1 else ", one seed"
        axes.set_title(title, loc="left", fontsize=10, color=colours.text)
        axes.grid(color=colours.wire, alpha=0.35, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, loc="best", labelcolor=colours.text)
        for form in ("svg", "png"):
            metadata = {"Date": None} if form == "svg" else None
            figure.savefig(out.with_suffix(f".{form}"), dpi=160, metadata=metadata)
    plt.close(figure)


def _draw(axes: Any, series: Series, colour: str) -> None:
    """Each network, and for each group the mean with bars from the lowest to the highest of the seeds."""
    points = [np.array(group) for group in series.groups]
    means, lows, highs = (np.array([of(group, axis=0) for group in points]) for of in (np.mean, np.min, np.max))
    order = np.argsort(means[:, 0])
    bars = np.stack([means - lows, highs - means])[:, order]
    style = {"color": colour, "marker": series.marker, "linestyle": series.line, "label": series.label}
    look = {"capsize": 3, "linewidth": 1.6, "markersize": 7, "zorder": 3}
    axes.errorbar(*means[order].T, xerr=bars[..., 0], yerr=bars[..., 1], **style, **look)
    every = np.concatenate(points)
    axes.plot(every[:, 0], every[:, 1], series.marker, color=colour, markersize=3.5, alpha=0.55)
    for name, place in zip(series.names, means):
        beside = {"textcoords": "offset points", "xytext": (7, -14), "fontsize": 9}
        axes.annotate(name, place, color=colour, zorder=4, **beside)
