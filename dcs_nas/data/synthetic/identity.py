"""The looks of an identity: everything that is the same in all cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Colour = tuple[int, int, int]
T = TypeVar("T")

COLOURS: dict[str, Colour] = {
    "black": (36, 36, 40),
    "grey": (122, 122, 126),
    "white": (222, 222, 218),
    "navy": (44, 54, 92),
    "denim": (84, 108, 146),
    "red": (168, 48, 48),
    "beige": (178, 156, 120),
    "brown": (98, 68, 48),
}
_SKINS: tuple[Colour, ...] = ((230, 190, 162), (196, 148, 114), (128, 88, 64))
_HAIRS: tuple[Colour, ...] = ((30, 26, 24), (30, 26, 24), (70, 48, 36), (176, 142, 90))

_UPPER_COLOURS = {"black": 4, "grey": 3, "white": 3, "navy": 2, "red": 1}
_LOWER_COLOURS = {"black": 4, "denim": 3, "beige": 1}
_ACCENT_COLOURS = {"black": 3, "white": 3, "red": 1}
_BAG_COLOURS = {"black": 4, "red": 1, "brown": 1}
_SHOE_COLOURS = {"black": 3, "white": 2}

_UPPER_KINDS = {"t-shirt": 6, "long sleeve": 4, "jacket": 5, "coat": 2, "dress": 2}
_LOWER_KINDS = {"trousers": 6, "shorts": 3, "skirt": 2}
_PATTERNS = {
    "plain": 3, "horizontal stripes": 3, "vertical stripes": 2, "checks": 2, "dots": 2, "colour block": 3, "logo": 3,
}  # fmt: skip
_LOWER_PATTERNS = {"plain": 8, "side stripe": 2, "checks": 1}
_HAIR_STYLES = {"short": 5, "long": 4, "bun": 2, "bald": 1}
_BAGS = {"none": 4, "backpack": 4, "shoulder bag": 3, "hand bag": 2}
_HATS = {"none": 9, "cap": 2, "beanie": 1, "brim hat": 1}
_LOGOS = {"disc": 1, "square": 1, "bar": 1, "triangle": 1}


@dataclass(frozen=True)
class Build:
    """Body proportions in body heights; ``shoulders``, ``hips`` and ``girth`` are half widths."""

    shoulders: float
    hips: float
    girth: float
    legs: float
    head: float


@dataclass(frozen=True)
class Garment:
    """``period`` is the size of the pattern, ``length`` (0 to 1) that of sleeves, skirts and coats."""

    kind: str
    colour: Colour
    pattern: str
    pattern_colour: Colour
    period: float
    length: float


@dataclass(frozen=True)
class Accessory:
    """A bag or a hat; ``size`` is relative to the usual one, ``side`` is -1 or 1."""

    kind: str
    colour: Colour
    size: float
    side: int


@dataclass(frozen=True)
class Looks:
    """Body, clothes and accessories of an identity."""

    build: Build
    skin: Colour
    hair: str
    hair_colour: Colour
    upper: Garment
    inner: Colour
    logo: str
    lower: Garment
    shoes: Colour
    boots: bool
    bag: Accessory
    hat: Accessory


def sample_looks(rng: np.random.Generator) -> Looks:
    """Draw one identity; common kinds and colours have higher weights, so that identities share them."""
    return Looks(
        build=Build(
            shoulders=rng.uniform(0.104, 0.138),
            hips=rng.uniform(0.090, 0.118),
            girth=rng.uniform(0.072, 0.108),
            legs=rng.uniform(0.455, 0.515),
            head=rng.uniform(0.128, 0.146),
        ),
        skin=_SKINS[rng.integers(len(_SKINS))],
        hair=_draw_weighted(rng, _HAIR_STYLES),
        hair_colour=_HAIRS[rng.integers(len(_HAIRS))],
        upper=_sample_garment(rng, _UPPER_KINDS, _UPPER_COLOURS, _PATTERNS),
        inner=COLOURS[_draw_weighted(rng, _ACCENT_COLOURS)],
        logo=_draw_weighted(rng, _LOGOS),
        lower=_sample_garment(rng, _LOWER_KINDS, _LOWER_COLOURS, _LOWER_PATTERNS),
        shoes=COLOURS[_draw_weighted(rng, _SHOE_COLOURS)],
        boots=bool(rng.random() < 0.25),
        bag=_sample_accessory(rng, _BAGS),
        hat=_sample_accessory(rng, _HATS),
    )


def _sample_garment(
    rng: np.random.Generator, kinds: Mapping[str, int], colours: Mapping[str, int], patterns: Mapping[str, int]
) -> Garment:
    colour = _draw_weighted(rng, colours)
    accents = {name: weight for name, weight in _ACCENT_COLOURS.items() if name != colour}
    return Garment(
        kind=_draw_weighted(rng, kinds),
        colour=COLOURS[colour],
        pattern=_draw_weighted(rng, patterns),
        pattern_colour=COLOURS[_draw_weighted(rng, accents)],
        period=rng.uniform(0.055, 0.100),
        length=rng.uniform(0.0, 1.0),
    )


def _sample_accessory(rng: np.random.Generator, kinds: Mapping[str, int]) -> Accessory:
    return Accessory(
        kind=_draw_weighted(rng, kinds),
        colour=COLOURS[_draw_weighted(rng, _BAG_COLOURS)],
        size=rng.uniform(0.8, 1.25),
        side=int(rng.choice((-1, 1))),
    )


def _draw_weighted(rng: np.random.Generator, weights: Mapping[T, int]) -> T:
    pick = rng.integers(sum(weights.values()))
    for item, weight in weights.items():
        pick -= weight
        if pick < 0:
            return item
    raise AssertionError("the pick is below the sum of the weights")
