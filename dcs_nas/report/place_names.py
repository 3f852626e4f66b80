"""Words for the place of a module in a network."""

from __future__ import annotations

import re

_WHOLES = {"cells": "cell", "stages": "stage"}


def place_in_words(name: str, *, after: str = "cell") -> str:
    """Return a module's name as words that count from 1; ``after`` is what numbered attention follows.

    >>> place_in_words("attention.0"), place_in_words("attention.1", after="stage"), place_in_words("attention.layer3")
    ('attention after cell 1', 'attention after stage 2', 'attention after layer3')
    >>> place_in_words("cells.2.edges.0"), place_in_words("stem.layers")
    ('cell 3, edges.0', 'stem.layers')
    """
    if not (found := re.fullmatch(r"(cells|stages|attention)\.(\w+)\.?(.*)", name)):
        return name
    kind, key, rest = found.groups()
    number = str(int(key) + 1) if key.isdecimal() else key
    whole = _WHOLES.get(kind, "attention after" + f" {after}" * key.isdecimal())
    return f"{whole} {number}" + f", {rest}" * bool(rest)
