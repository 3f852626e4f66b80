"""Words for the place of a module in a network."""

from __future__ import annotations

import re

_WHOLES = {"cells": "cell", "stages": "stage"}


def describe_place(name: str, *, after: str = "cell") -> str:
    """Return a module's name as words that count from 1; ``after`` names the blocks that attention follows.

    >>> describe_place("attention.0"), describe_place("attention.1", after="stage"), describe_place("attention.layer3")
    ('attention after cell 1', 'attention after stage 2', 'attention after layer3')
    >>> describe_place("cells.2.edges.0"), describe_place("stem.layers")
    ('cell 3, edges.0', 'stem.layers')
    """
    if not (match := re.fullmatch(r"(cells|stages|attention)\.(\w+)\.?(.*)", name)):
        return name
    kind, key, rest = match.groups()
    number = str(int(key) + 1) if key.isdecimal() else key
    whole = _WHOLES.get(kind, "attention after" + f" {after}" * key.isdecimal())
    return f"{whole} {number}" + f", {rest}" * bool(rest)
