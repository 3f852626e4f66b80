"""Families of operations and their colours, distinct in any kind of colour vision, on light and on dark."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dcs_nas.errors import InputError, choices

_PATTERNS = {
    "separable": r"sep_conv_\d+x\d+",
    "dilated": r"dil_conv_\d+x\d+",
    "pooling": r"(max|avg)_pool_\d+x\d+",
    "skip": r"skip_connect|exc",
    "attention": r"dcs(_window)?|harmonious|nonlocal|part_aware|rga(_spatial|_channel)?|ag|cross_att",
    "none": r"none",
}
_PRETTY = {
    "skip_connect": "skip",
    "dcs": "DCS",
    "dcs_window": "DCS window",
    "harmonious": "HA",
    "nonlocal": "non-local",
    "part_aware": "part-aware",
    "rga": "RGA",
    "rga_spatial": "RGA spatial",
    "rga_channel": "RGA channel",
    "ag": "channel gate",
    "cross_att": "cross attention",
    "exc": "exchange",
}

FAMILIES = {
    "separable": "separable convolution",
    "dilated": "dilated convolution",
    "pooling": "pooling",
    "skip": "skip connection",
    "attention": "attention",
    "custom": "custom operation",
    "none": "no connection",
}
CHANGES = {"kept": "in both", "removed": "removed", "added": "added"}


def get_family(op: str) -> str:
    """Return the family of an operation, a key of ``FAMILIES``; ``custom`` for a custom operation."""
    return next((name for name, pattern in _PATTERNS.items() if re.fullmatch(pattern, op)), "custom")


def split_label(op: str) -> tuple[str, ...]:
    """Return the lines in an operation's box; the words of a custom name are unchanged.

    >>> split_label("sep_conv_3x3")
    ('sep conv', '3×3')
    """
    if op in _PRETTY:
        return tuple(_PRETTY[op].split())
    if get_family(op) == "custom":
        return _break_name(op)
    name, size = op.rsplit("_", 1) if "_" in op else (op, "")
    return tuple(part for part in (name.replace("_", " "), size.replace("x", "×")) if part)


def _break_name(name: str) -> tuple[str, ...]:
    """Return a long name in lines of about 12 characters, broken after separators.

    >>> _break_name("squeeze_excite_conv")
    ('squeeze_', 'excite_conv')
    """
    rows = [""]
    for part in re.findall(r"[^_.-]{1,12}[_.-]*|[_.-]{1,12}", name):
        if rows[-1] and len(rows[-1]) + len(part) > 12:
            rows.append("")
        rows[-1] += part
    return tuple(rows)


@dataclass(frozen=True)
class Paint:
    """The colours of a box: of its fill, its outline and its text (``#rrggbb``)."""

    fill: str
    line: str
    text: str


@dataclass(frozen=True)
class Theme:
    """The colours of a picture: its ground, its plain text and wires, and a paint per family, role and change."""

    ground: str
    text: str
    wire: str
    state: Paint
    families: dict[str, Paint]
    changes: dict[str, Paint]


# The hues are those of Okabe and Ito (2008), darkened or lightened until text on them has a contrast of 4.5.
_LIGHT = Theme(
    ground="#ffffff",
    text="#1f2328",
    wire="#8a929b",
    state=Paint("#f3f4f6", "#57606a", "#1f2328"),
    families={
        "separable": Paint("#d8e8f8", "#0b62a8", "#0a2a47"),
        "dilated": Paint("#c9f0e2", "#00855f", "#053b2b"),
        "pooling": Paint("#fdeac2", "#c77c02", "#4a2f00"),
        "skip": Paint("#ffffff", "#7d858d", "#3a4047"),
        "attention": Paint("#a8286f", "#6d0f45", "#ffffff"),
        "custom": Paint("#ffffff", "#16191d", "#16191d"),
        "none": Paint("#ffffff", "#c3c8ce", "#6a727a"),
    },
    changes={
        "kept": Paint("#ffffff", "#9aa1a9", "#57606a"),
        "removed": Paint("#ffffff", "#c04a00", "#8f3700"),
        "added": Paint("#cfe5fb", "#0b62a8", "#0a2a47"),
    },
)
_DARK = Theme(
    ground="#14171c",
    text="#e8ebef",
    wire="#7b8591",
    state=Paint("#262b33", "#a4adb8", "#f0f2f5"),
    families={
        "separable": Paint("#15395c", "#7cc0f7", "#dcedfc"),
        "dilated": Paint("#0f4a38", "#1f9e78", "#d3f6ea"),
        "pooling": Paint("#46340c", "#eab545", "#fbeccb"),
        "skip": Paint("#14171c", "#868f99", "#d0d5db"),
        "attention": Paint("#e58cbd", "#ffc4e1", "#2a0419"),
        "custom": Paint("#14171c", "#f5f7f9", "#f5f7f9"),
        "none": Paint("#14171c", "#4a525c", "#8d97a3"),
    },
    changes={
        "kept": Paint("#14171c", "#6f7883", "#a4adb8"),
        "removed": Paint("#14171c", "#f08a4b", "#f7b58d"),
        "added": Paint("#123453", "#5fb0f2", "#dcedfc"),
    },
)
THEMES = {"light": _LIGHT, "dark": _DARK}


def get_theme(name: str) -> Theme:
    """Return the theme called ``light`` or ``dark``; ``InputError`` for another name."""
    if name not in THEMES:
        raise InputError(f"unknown theme '{name}'; {choices(name, THEMES)}")
    return THEMES[name]


def choose_paint(theme: Theme, role: str, family: str, change: str) -> Paint:
    """Return the colours of a box: by its change, else by its family, else as a state."""
    if change in theme.changes or change == "changed":
        return theme.changes["added" if change == "changed" else change]
    if not family:
        return theme.state
    colours = theme.families[family]
    if role == "stage":  # a cell that holds attention, not attention itself
        return Paint(theme.state.fill, colours.fill, theme.state.text)
    return colours
