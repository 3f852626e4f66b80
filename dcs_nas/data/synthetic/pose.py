"""The walking skeleton, its projection to the picture plane, and the parts from which a figure is painted.

Body axes: x to the body's left, y down from the top of the head, z to the front; the unit is the body height, so that
the ground is at y = 1. Seen from the front, the picture's u axis runs along x; v runs down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dcs_nas.data.synthetic.canvas import Fill, Position, box, capsule, ellipse, open_capsule
from dcs_nas.data.synthetic.identity import Build, Looks

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Pose:
    """One moment of a walk: ``yaw`` is 0 from the front and pi from behind, all angles in radians."""

    yaw: float
    phase: float
    stride: float
    arm_swing: float
    elbow: float
    spread: float
    lean: float


@dataclass(frozen=True)
class Limb:
    """The three joints of an arm (shoulder, elbow, wrist) or a leg (hip, knee, ankle)."""

    top: Point
    middle: Point
    end: Point


@dataclass(frozen=True)
class Skeleton:
    """Heights of head, shoulders and hips, and the limbs by side: -1 is the body's right, 1 the left."""

    chin: float
    shoulder: float
    hip: float
    arms: dict[int, Limb]
    legs: dict[int, Limb]


@dataclass(frozen=True)
class View:
    """Orthographic projection after a turn by ``yaw``; ``pitch`` moves near points down, as seen from above."""

    yaw: float
    pitch: float
    lean: float

    @property
    def front(self) -> float:
        """1 from the front, 0 from the side, -1 from behind."""
        return math.cos(self.yaw)

    @property
    def side(self) -> float:
        """1 where the body walks towards the right of the picture, -1 towards the left."""
        return math.sin(self.yaw)

    def depth(self, point: Point) -> float:
        """Return the distance of the point towards the viewer."""
        return point[2] * self.front - point[0] * self.side

    def project(self, point: Point) -> tuple[float, float]:
        """Return (u, v) of the point in body heights; u is 0 at the body's axis."""
        u = point[0] * self.front + point[2] * self.side + self.lean * (1 - point[1])
        return u, point[1] + self.pitch * self.depth(point)

    def half_width(self, across: float, thick: float) -> float:
        """Return half the visible width of an elliptic cross section with these half axes."""
        return math.hypot(across * self.front, thick * self.side)


def sample_pose(rng: np.random.Generator, yaw: float) -> Pose:
    """Return a random moment of a walk, turned by about ``yaw``."""
    return Pose(
        yaw=yaw + rng.normal(0.0, 0.12),
        phase=rng.uniform(0.0, 2 * math.pi),
        stride=rng.uniform(0.28, 0.5),
        arm_swing=rng.uniform(0.15, 0.55),
        elbow=rng.uniform(0.1, 0.6),
        spread=rng.uniform(0.04, 0.16),
        lean=rng.normal(0.0, 0.02),
    )


def make_skeleton(build: Build, pose: Pose) -> Skeleton:
    """Return the joints of a body in a pose, its lower foot on the ground."""
    swing = math.sin(pose.phase)
    shoulder, hip = build.head + 0.05, 1 - build.legs
    legs = {s: _leg(build, hip, s, s * pose.stride * swing, s * math.cos(pose.phase) * pose.stride) for s in (-1, 1)}
    drop = 1 - 0.02 - max(leg.end[1] for leg in legs.values())
    legs = {s: Limb(*(_shift(p, drop) for p in (leg.top, leg.middle, leg.end))) for s, leg in legs.items()}
    arms = {s: _arm(build, pose, shoulder + drop, s, -s * pose.arm_swing * swing) for s in (-1, 1)}
    return Skeleton(build.head + drop, shoulder + drop, hip + drop, arms, legs)


def _leg(build: Build, hip: float, side: int, angle: float, forward: float) -> Limb:
    """Return the joints of a leg, whose knee bends while it swings forward."""
    length = build.legs - 0.02
    top = (side * build.hips * 0.52, hip, 0.0)
    knee = _reach(top, 0.51 * length, angle)
    return Limb(top, knee, _reach(knee, 0.49 * length, angle - 0.06 - 1.6 * max(0.0, forward)))


def _arm(build: Build, pose: Pose, shoulder: float, side: int, angle: float) -> Limb:
    top = (side * build.shoulders * 0.9, shoulder + 0.012, 0.0)
    elbow = _reach(top, 0.165, angle, side * pose.spread)
    return Limb(top, elbow, _reach(elbow, 0.15, angle + pose.elbow, side * pose.spread * 0.5))


def _reach(start: Point, length: float, angle: float, outward: float = 0.0) -> Point:
    """Return the other end of a bone that hangs from ``start``, turned forward by ``angle`` and out by ``outward``."""
    x, y, z = start
    down = math.cos(angle) * math.cos(outward)
    return x + length * math.sin(outward), y + length * down, z + length * math.sin(angle)


def _shift(point: Point, drop: float) -> Point:
    return point[0], point[1] + drop, point[2]


Ring = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """A filled outline in body heights; parts of greater ``depth`` are nearer and painted later."""

    depth: float
    outline: list[Position]
    fill: Fill


@dataclass(frozen=True)
class Figure:
    """A pedestrian at one moment, seen by a camera; ``cloth`` fills the upper and ``lower_cloth`` the lower garment."""

    looks: Looks
    skeleton: Skeleton
    view: View
    cloth: Fill
    lower_cloth: Fill

    def limb(self, a: Point, radius_a: float, b: Point, radius_b: float, fill: Fill, depth: float) -> Part:
        """Return a tapered limb from ``a`` to ``b``."""
        return Part(depth, capsule(self.view.project(a), radius_a, self.view.project(b), radius_b), fill)

    def sleeve(self, a: Point, radius_a: float, b: Point, radius_b: float, fill: Fill, depth: float) -> Part:
        """Return a limb's cloth, from ``a`` to a straight hem at ``b``."""
        return Part(depth, open_capsule(self.view.project(a), radius_a, self.view.project(b), radius_b), fill)

    def tube(self, rings: list[Ring], fill: Fill, depth: float) -> Part:
        """Return an upright body of elliptic rings, each (height, half width, half thickness)."""
        sides = [(self.view.project((0.0, y, 0.0)), self.view.half_width(w, t)) for y, w, t in rings]
        right = [(u + half, v) for (u, v), half in sides]
        left = [(u - half, v) for (u, v), half in reversed(sides)]
        return Part(depth, right + left, fill)

    def ball(self, centre: Point, width: float, thick: float, height: float, fill: Fill, depth: float) -> Part:
        """Return an ellipsoid with these half axes."""
        return Part(depth, ellipse(self.view.project(centre), self.view.half_width(width, thick), height), fill)

    def block(self, centre: Point, width: float, thick: float, height: float, fill: Fill, depth: float) -> Part:
        """Return a box with these half sides."""
        return Part(depth, box(self.view.project(centre), self.view.half_width(width, thick), height), fill)

    def strap(self, path: list[Point], width: float, fill: Fill, depth: float) -> Part:
        """Return a flat band along a path on the body's surface, thinner as it turns away."""
        points = [self.view.project(point) for point in path]
        half = width * max(0.35, abs(self.view.front))
        return Part(depth, [(u - half, v) for u, v in points] + [(u + half, v) for u, v in reversed(points)], fill)
