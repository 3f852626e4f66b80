"""Where architectures stand in a tabular benchmark: all of its scores against multiply-adds, the front, those named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path
from dcs_nas.report.palette import theme
from dcs_nas.space.table import Entry, Table

FORMATS = ("png", "svg", "pdf")


def draw_standing(table: Table, named: Mapping[str, Entry], out: Path) -> None:
    """Draw all entries of ``table`` as points, its Pareto front as a line and the ``named`` ones as labelled stars.

    Raises:
        InputError: a file name that ends in none of png, svg and pdf.
    """
    import matplotlib

    form = out.suffix.lstrip(".").lower()
    if form not in FORMATS:
        raise InputError(f"{out} ends in '{out.suffix}'; expected a picture: .{', .'.join(FORMATS)}")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = theme("light")
    fixed: Any = {"svg.hashsalt": "dcs_nas", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10.0}
    with plt.rc_context(fixed):
        figure, axes = plt.subplots(figsize=(7.2, 4.6), facecolor=colours.ground, layout="constrained")
        everything = [(entry.multiply_adds / 1e6, entry.score) for entry in table]
        axes.plot(*zip(*everything), ".", color=colours.wire, alpha=0.55, label=f"all {len(table)} architectures")
        front = [(entry.multiply_adds / 1e6, entry.score) for entry in table.front]
        axes.plot(*zip(*front), "o-", color=colours.families["separable"].line, markersize=4, label="Pareto front")
        for (name, entry), style in zip(named.items(), _styles()):
            place = entry.multiply_adds / 1e6, entry.score
            axes.plot(*place, marker=style, color=colours.families["attention"].fill, markersize=13, linestyle="none",
                      markeredgecolor=colours.ground, label=f"{name}: rank {entry.rank}", zorder=4)  # fmt: skip
        axes.set_xlabel("multiply-adds of an image (millions)", color=colours.text)
        axes.set_ylabel("mAP on unseen identities (%)", color=colours.text)
        axes.set_title(f"{table.name}, synthetic people", loc="left", fontsize=10, color=colours.text)
        axes.grid(color=colours.wire, alpha=0.35, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, loc="lower right", labelcolor=colours.text)
        with atomic_path(out) as path:
            figure.savefig(path, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)
    plt.close(figure)


def _styles() -> list[str]:
    return ["*", "D", "P", "X", "^", "v", "s", "h"]
