"""A dressed, walking pedestrian: parts are placed in space, projected, and painted from far to near.

Depths are body heights towards the viewer, plus an offset per body part: legs lie below the torso's clothes, and the
head above them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from dcs_nas.data.synthetic.canvas import Canvas, Frame, darker, ellipse
from dcs_nas.data.synthetic.clothes import make_bag, make_cloth, make_hat
from dcs_nas.data.synthetic.identity import Looks
from dcs_nas.data.synthetic.pose import Figure, Limb, Part, Point, Pose, Ring, View, make_skeleton


def draw_pedestrian(
    canvas: Canvas, looks: Looks, pose: Pose, pitch: float, frame: Frame, *, subject: bool = True
) -> None:
    """Paint a pedestrian on the canvas.

    Args:
        canvas: what to paint on.
        looks: the identity.
        pose: the moment of the walk and the facing.
        pitch: of the camera, see ``View``.
        frame: the place of the top of the head of an upright body, and canvas pixels per body height.
        subject: whether this is the subject of the picture, see ``Canvas.polygon``.
    """
    figure = _dress(canvas.image.size, looks, pose, View(pose.yaw, pitch, pose.lean), frame)
    parts = (make_legs, make_torso, make_arms, make_head, make_hat, make_bag)
    for part in sorted(chain.from_iterable(make(figure) for make in parts), key=lambda part: part.depth):
        canvas.polygon(frame.place(part.outline), part.fill, edge=0.006 * frame.scale, subject=subject)


def _dress(size: tuple[int, int], looks: Looks, pose: Pose, view: View, frame: Frame) -> Figure:
    skeleton = make_skeleton(looks.build, pose)
    squeeze = view.half_width(1.0, 0.6)
    middles = ((0.0, (skeleton.shoulder + skeleton.hip) / 2, 0.0), (0.0, skeleton.hip + 0.2, 0.0))
    upper, lower = frame.place([view.project(middle) for middle in middles])
    cloth = make_cloth(looks.upper, size, upper, frame.scale, squeeze)
    return Figure(looks, skeleton, view, cloth, make_cloth(looks.lower, size, lower, frame.scale, squeeze))


_LEGS, _LOWER, _BEHIND_NECK, _TORSO, _ON_TORSO, _ARMS, _HEAD = -0.5, -0.1, -0.01, 0.0, 0.004, 0.03, 0.12
_LONG_SLEEVED = ("long sleeve", "jacket", "coat")


def make_legs(figure: Figure) -> Iterator[Part]:
    """Yield both legs, skin below trousers or shorts; the skin of the far leg is a little darker."""
    for limb in figure.skeleton.legs.values():
        depth = _LEGS + figure.view.depth(limb.middle)
        dim = 0.82 if figure.view.depth(limb.middle) < -0.02 else 1.0
        yield from _bare_leg(figure, limb, depth, dim)
        if figure.looks.upper.kind != "dress":
            yield from _leg_clothes(figure, limb, depth)


def _bare_leg(figure: Figure, limb: Limb, depth: float, dim: float) -> Iterator[Part]:
    looks, girth = figure.looks, figure.looks.build.girth
    skin, shoes = darker(looks.skin, dim), darker(looks.shoes, dim)
    yield figure.limb(limb.top, 0.62 * girth, limb.middle, 0.42 * girth, skin, depth)
    yield figure.limb(limb.middle, 0.42 * girth, limb.end, 0.26 * girth, skin, depth + 0.001)
    x, y, z = limb.end
    yield figure.limb((x, y + 0.006, z - 0.012), 0.018, (x, y + 0.014, z + 0.05), 0.013, shoes, depth + 0.004)
    if looks.boots:
        yield figure.limb(_between(limb.middle, limb.end, 0.55), 0.031, limb.end, 0.024, shoes, depth + 0.003)


def _leg_clothes(figure: Figure, limb: Limb, depth: float) -> Iterator[Part]:
    lower, girth, cloth = figure.looks.lower, figure.looks.build.girth, figure.lower_cloth
    if lower.kind == "skirt":
        return
    if lower.kind == "shorts":
        hem = _between(limb.top, limb.middle, 0.6 + 0.35 * lower.length)
        yield figure.sleeve(limb.top, 0.72 * girth, hem, 0.68 * girth, cloth, depth + 0.002)
        return
    wide = 0.36 + 0.16 * lower.length
    yield figure.limb(limb.top, 0.70 * girth, limb.middle, 0.54 * girth, cloth, depth + 0.002)
    yield figure.sleeve(limb.middle, 0.54 * girth, limb.end, wide * girth, cloth, depth + 0.002)
    if lower.pattern == "side stripe" and not figure.looks.boots:
        yield from _side_stripe(figure, limb, depth + 0.0025)


def _side_stripe(figure: Figure, limb: Limb, depth: float) -> Iterator[Part]:
    """Yield a band along the outside of the leg."""
    out = (1 if limb.top[0] > 0 else -1) * 0.5 * figure.looks.build.girth
    points = [(x + out, y, z) for x, y, z in (limb.top, limb.middle, limb.end)]
    if figure.view.depth(points[1]) > figure.view.depth(limb.middle) - 0.012:
        for a, b in ((points[0], points[1]), (points[1], points[2])):
            yield figure.limb(a, 0.009, b, 0.008, figure.looks.lower.pattern_colour, depth)


def make_torso(figure: Figure) -> Iterator[Part]:
    """Yield the upper garment, the skirt below it, and from the front an open jacket or a logo."""
    looks, skeleton, build = figure.looks, figure.skeleton, figure.looks.build
    loose = 1.1 if looks.upper.kind in ("jacket", "coat") else 1.0
    top, hip = skeleton.shoulder, skeleton.hip
    rings: list[Ring] = [
        (top - 0.02, 0.42 * build.shoulders, 0.03),
        (top - 0.006, 0.8 * build.shoulders * loose, 0.5 * build.girth),
        (top + 0.014, 0.96 * build.shoulders * loose, 0.6 * build.girth),
        (top + 0.09, 0.92 * build.shoulders * loose, 0.78 * build.girth * loose),
        (hip - 0.10, 0.86 * build.hips * loose, 0.74 * build.girth * loose),
        (hip + 0.02, 1.0 * build.hips * loose, 0.82 * build.girth * loose),
    ]
    yield from _skirt(figure)
    yield figure.tube(rings + _tail(figure), figure.cloth, _TORSO)
    if figure.view.front > 0.15:
        yield from _front(figure)


def _tail(figure: Figure) -> list[Ring]:
    """Return the rings of a coat or a dress below the hips."""
    upper, build, hip = figure.looks.upper, figure.looks.build, figure.skeleton.hip
    if upper.kind == "coat":
        return [(hip + 0.1 + 0.14 * upper.length, 1.2 * build.hips, build.girth * 1.15)]
    if upper.kind == "dress":
        return [(hip + 0.14 + 0.2 * upper.length, 1.45 * build.hips, build.girth * 1.6)]
    return []


def _skirt(figure: Figure) -> Iterator[Part]:
    looks, build, hip = figure.looks, figure.looks.build, figure.skeleton.hip
    if looks.lower.kind != "skirt" or looks.upper.kind == "dress":
        return
    length = 0.12 + 0.24 * looks.lower.length
    rings = [(hip - 0.05, 0.9 * build.hips, 0.8 * build.girth), (hip + 0.04, 1.08 * build.hips, build.girth)]
    yield figure.tube([*rings, (hip + length, 1.35 * build.hips, 1.5 * build.girth)], figure.lower_cloth, _LOWER)


def _front(figure: Figure) -> Iterator[Part]:
    looks, skeleton, view = figure.looks, figure.skeleton, figure.view
    top, hip, chest = skeleton.shoulder, skeleton.hip, 0.7 * looks.build.girth
    if looks.upper.kind in ("jacket", "coat"):
        end = hip + (0.08 if looks.upper.kind == "coat" else 0.02)
        path: list[Point] = [(0.0, top - 0.015, 0.4 * chest), (0.0, top + 0.06, chest), (0.0, end, chest)]
        yield figure.strap(path, 0.028, looks.inner, _ON_TORSO)
    elif looks.upper.pattern == "logo":
        centre = view.project((0.0, top + 0.115, chest))
        yield Part(_ON_TORSO, _logo(looks.logo, centre, view.front), looks.upper.pattern_colour)


def _logo(kind: str, centre: tuple[float, float], front: float) -> list[tuple[float, float]]:
    u, v = centre
    if kind == "disc":
        return ellipse(centre, 0.045 * front, 0.045)
    if kind == "triangle":
        return [(u - 0.055 * front, v - 0.04), (u + 0.055 * front, v - 0.04), (u, v + 0.055)]
    half_width, half_height = (0.04, 0.042) if kind == "square" else (0.07, 0.02)
    w = half_width * front
    return [(u - w, v - half_height), (u + w, v - half_height), (u + w, v + half_height), (u - w, v + half_height)]


def make_arms(figure: Figure) -> Iterator[Part]:
    """Yield both arms, skin below sleeves; from the side the torso hides the far arm."""
    for limb in figure.skeleton.arms.values():
        depth = _ARMS + figure.view.depth(limb.top)
        yield from _bare_arm(figure, limb, depth)
        yield from _sleeve(figure, limb, depth)


def _bare_arm(figure: Figure, limb: Limb, depth: float) -> Iterator[Part]:
    girth, skin = figure.looks.build.girth, figure.looks.skin
    yield figure.limb(limb.top, 0.30 * girth, limb.middle, 0.24 * girth, skin, depth)
    yield figure.limb(limb.middle, 0.24 * girth, limb.end, 0.17 * girth, skin, depth + 0.001)
    yield figure.ball(_between(limb.middle, limb.end, 1.1), 0.016, 0.018, 0.021, skin, depth + 0.002)


def _sleeve(figure: Figure, limb: Limb, depth: float) -> Iterator[Part]:
    upper, girth = figure.looks.upper, figure.looks.build.girth
    cloth = figure.cloth if upper.pattern != "colour block" else upper.colour
    thick = 0.40 if upper.kind in ("jacket", "coat") else 0.35
    if upper.kind in _LONG_SLEEVED:
        yield figure.limb(limb.top, thick * girth, limb.middle, 0.85 * thick * girth, cloth, depth + 0.003)
        yield figure.sleeve(limb.middle, 0.85 * thick * girth, limb.end, 0.7 * thick * girth, cloth, depth + 0.004)
    elif upper.kind == "t-shirt" or upper.length > 0.4:
        hem = _between(limb.top, limb.middle, 0.4 + 0.5 * upper.length)
        yield figure.sleeve(limb.top, thick * girth, hem, 1.05 * thick * girth, cloth, depth + 0.003)


def make_head(figure: Figure) -> Iterator[Part]:
    """Yield neck, face and hair; the face lies at the front of the skull and the hair at its back."""
    looks, skeleton, front = figure.looks, figure.skeleton, figure.view.front
    half, middle = looks.build.head / 2, skeleton.chin - looks.build.head / 2
    neck = (0.0, skeleton.shoulder - 0.01, 0.0)
    yield figure.limb((0.0, middle, 0.0), 0.026, neck, 0.032, darker(looks.skin, 0.85), _TORSO - 0.002)
    yield figure.ball(
        (0.0, middle + 0.004, 0.012), 0.70 * half, 0.74 * half, 0.93 * half, looks.skin, _HEAD + 0.02 * front
    )
    if looks.hair != "bald":
        yield from _hair(figure, middle, half)


def _hair(figure: Figure, middle: float, half: float) -> Iterator[Part]:
    looks, front, colour = figure.looks, figure.view.front, figure.looks.hair_colour
    crown = middle - 0.12 * half
    yield figure.ball((0.0, crown, -0.014), 0.78 * half, 0.78 * half, 0.92 * half, colour, _HEAD + 0.001)
    if front > 0.0:
        yield Part(_HEAD + 0.03, _fringe(figure, crown, half), colour)
    if looks.hair == "long":
        rings: list[Ring] = [(crown, 0.74 * half, 0.6 * half), (middle + 2.2 * half, 0.98 * half, 0.5 * half)]
        shift, depth = -0.022 * figure.view.side, _BEHIND_NECK if front > 0.3 else _HEAD - 0.002
        yield Part(depth, [(u + shift, v) for u, v in figure.tube(rings, colour, depth).outline], colour)
    elif looks.hair == "bun":
        yield figure.ball((0.0, crown - 0.62 * half, -0.75 * half), 0.026, 0.026, 0.024, colour, _HEAD - 0.05 * front)


def _fringe(figure: Figure, crown: float, half: float) -> list[tuple[float, float]]:
    """Return the hair above the forehead, as the upper part of an ellipse."""
    width = figure.view.half_width(0.72 * half, 0.62 * half)
    return ellipse(figure.view.project((0.0, crown - 0.15 * half, 0.0)), width, 0.72 * half, 3.3, 6.1)


def _between(a: Point, b: Point, share: float) -> Point:
    """Return the point at this share of the way from ``a`` to ``b``."""
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])
