"""The cumulative matching characteristic (CMC) of one or several evaluations as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, PercentFormatter

from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path
from dcs_nas.report.palette import Theme, theme

_FAMILIES = ("separable", "pooling", "dilated", "attention")  # whose lines are four hues told apart by everyone
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v")
_LONGEST_NAME = 40
_MARKED = (1, 5, 10, 20, 50, 100)
_FIXED: Any = {"svg.hashsalt": "dcs_nas", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 11.0}


@dataclass(frozen=True, eq=False)
class CmcCurve:
    """One curve: ``cmc`` (R,) shares at rank 1 to R, and the bounds of its confidence interval (R, 2) if it has one.

    ``style`` counts colours and dashes from 0; without one it is the curve's place among all.
    """

    name: str
    cmc: Sequence[float]
    mAP: float
    interval: Sequence[Sequence[float]] | None = None
    style: int | None = None


def cmc_curve(report: Mapping[str, Any], name: str, *, style: int | None = None) -> CmcCurve:
    """The curve of an evaluation's report (``evaluation.json``)."""
    confidence = report.get("confidence")
    return CmcCurve(name, report["cmc"], report["mAP"], confidence["cmc"] if confidence else None, style)


def read_cmc(path: Path, name: str) -> CmcCurve:
    """The curve of an ``evaluation.json``; ``InputError`` where the file holds no evaluation."""
    try:
        return cmc_curve(json.loads(path.read_text(encoding="utf-8")), name)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; write it with dcs-nas evaluate") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} holds no evaluation; expected what dcs-nas evaluate writes") from None


def draw_cmc(
    curves: Sequence[CmcCurve],
    folder: Path,
    *,
    name: str = "cmc",
    title: str = "",
    formats: Sequence[str] = ("png", "svg"),
    appearance: str = "light",
) -> list[Path]:
    """Draw curves on one axes into ``folder / name.FORMAT``; colour, dashes and marker all tell them apart."""
    if not curves:
        raise InputError("there is no curve to draw; name at least one evaluation")
    colours = theme(appearance)
    with matplotlib.rc_context(_FIXED):
        figure = Figure(figsize=(6.4, 4.4 + 0.26 * len(curves)), facecolor=colours.ground, layout="constrained")
        axes = figure.add_subplot()
        for index, curve in enumerate(curves):
            _plot(axes, curve, index if curve.style is None else curve.style, colours)
        _dress(axes, curves, title, colours)
        figure.legend(loc="outside lower left", frameon=False, labelcolor=colours.text, fontsize=10)
        return [_save(figure, folder / f"{name}.{format}") for format in formats]


def _plot(axes: Axes, curve: CmcCurve, index: int, colours: Theme) -> None:
    ranks = np.arange(1, len(curve.cmc) + 1)
    colour = colours.families[_FAMILIES[index % len(_FAMILIES)]].line
    shares = np.asarray(curve.cmc)
    name = curve.name if len(curve.name) <= _LONGEST_NAME else f"...{curve.name[3 - _LONGEST_NAME :]}"
    axes.plot(
        ranks,
        shares,
        _STYLES[index // len(_FAMILIES) % len(_STYLES)],
        color=colour,
        linewidth=2,
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=6,
        markevery=[k - 1 for k in _MARKED if k <= len(shares)],
        label=f"{_plain(name)}: mAP {100 * curve.mAP:.1f} %, rank-1 {100 * shares[0]:.1f} %",
    )
    if curve.interval is not None:
        low, high = np.asarray(curve.interval).T
        axes.fill_between(ranks, low, high, color=colour, alpha=0.18, linewidth=0)


def _dress(axes: Axes, curves: Sequence[CmcCurve], title: str, colours: Theme) -> None:
    longest = max(len(curve.cmc) for curve in curves)
    lows = [np.asarray(curve.cmc if curve.interval is None else curve.interval).min() for curve in curves]
    axes.set_ylim(max(0.0, np.floor(10 * min(lows) - 0.5) / 10), 1.01)
    axes.set_xlim(1 - 0.02 * longest, longest + 0.02 * longest)
    axes.xaxis.set_major_locator(FixedLocator([k for k in _MARKED if k <= longest]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    band = "; band: 95 % interval" if any(curve.interval is not None for curve in curves) else ""
    axes.set_xlabel("rank", color=colours.text)
    axes.set_ylabel(f"queries matched within rank{band}", color=colours.text)
    axes.set_title(_plain(title), color=colours.text, loc="left", fontsize=11)
    axes.set_facecolor(colours.ground)
    axes.grid(color=colours.wire, alpha=0.35, linewidth=0.8)
    axes.tick_params(colors=colours.text)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colours.wire)


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> Path:
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, dpi=160, metadata=metadata)
    return path
