"""The picture of accuracy against multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcs_nas.report.palette import get_theme

LABELS = {
    "searched": "searched, by beta",
    "random": "random, as many multiply-adds",
    "smallest": "smallest",
    "largest": "largest",
}
MARKS = {  # family of the palette, marker, line
    "searched": ("separable", "o", "-"),
    "random": ("pooling", "s", "--"),
    "smallest": ("dilated", "v", "none"),
    "largest": ("attention", "^", "none"),
}


def plot_front(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Multiply-adds and mAP of all rows, as ``out`` with the suffixes svg and png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    colours = get_theme("light")
    fixed = {"svg.hashsalt": "dcs_nas", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10.0}
    with plt.rc_context(fixed):
        figure, axes = plt.subplots(figsize=(7.2, 4.6), facecolor=colours.ground, layout="constrained")
        for how, (family, marker, line) in MARKS.items():
            _series(axes, [r for r in rows if r["network"] == how], how, colours.families[family].line, marker, line)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 3, 5, 7, 10, 15]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("multiply-adds an image (millions)", color=colours.text)
        axes.set_ylabel("mAP on unseen people (%)", color=colours.text)
        seeds = len({r["seed"] for r in rows})
        title = "Chains on synthetic people" + (f"; mean and range of {seeds} seeds" if seeds > 1 else ", one seed")
        axes.set_title(title, loc="left", fontsize=10, color=colours.text)
        axes.grid(color=colours.wire, alpha=0.35, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, loc="lower right", labelcolor=colours.text)
        for form in ("svg", "png"):
            metadata = {"Date": None} if form == "svg" else None
            figure.savefig(out.with_suffix(f".{form}"), dpi=160, metadata=metadata)
    plt.close(figure)


def _series(axes: Any, rows: Sequence[Mapping[str, Any]], how: str, colour: str, marker: str, line: str) -> None:
    """The networks of one kind, and for each beta their mean with bars from the lowest to the highest of the seeds."""
    if not rows:
        return
    betas = sorted({r["beta"] for r in rows}, key=lambda beta: -float(beta or 0))
    points = [[(r["multiply_adds"] / 1e6, r["mAP"]) for r in rows if r["beta"] == beta] for beta in betas]
    means = np.array([np.mean(found, axis=0) for found in points])
    low = means - np.array([np.min(found, axis=0) for found in points])
    high = np.array([np.max(found, axis=0) for found in points]) - means
    order = np.argsort(means[:, 0])
    style = {"color": colour, "marker": marker, "linestyle": line, "capsize": 3, "linewidth": 1.6, "markersize": 7}
    bars = {"xerr": np.stack([low[order, 0], high[order, 0]]), "yerr": np.stack([low[order, 1], high[order, 1]])}
    axes.errorbar(means[order, 0], means[order, 1], **bars, **style, label=LABELS[how], zorder=3)
    every = np.concatenate([np.array(found) for found in points])
    axes.plot(every[:, 0], every[:, 1], marker, color=colour, markersize=3.5, alpha=0.55)
    if how == "searched":
        for beta, (x, y) in zip(betas, means):
            place = {"textcoords": "offset points", "xytext": (7, -14), "fontsize": 9}
            axes.annotate(f"β {beta}", (x, y), color=colour, zorder=4, **place)
