"""The walking skeleton and its projection to the picture plane.

Body axes: x to the person's left, y down from the top of the head, z to the front; the unit is the body height, so
that the ground is at y = 1. Seen from the front, the picture's u axis runs along x; v runs down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dcs_nas.data.synthetic.identity import Build

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
    """Heights of head, shoulders and hips, and the limbs by side: -1 is the person's right, 1 the left."""

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
        """1 where the person walks towards the right of the picture, -1 towards the left."""
        return math.sin(self.yaw)

    def depth(self, point: Point) -> float:
        """How far the point lies towards the viewer."""
        return point[2] * self.front - point[0] * self.side

    def project(self, point: Point) -> tuple[float, float]:
        """(u, v) of the point in body heights; u is 0 at the body's axis."""
        u = point[0] * self.front + point[2] * self.side + self.lean * (1 - point[1])
        return u, point[1] + self.pitch * self.depth(point)

    def half_width(self, across: float, thick: float) -> float:
        """Half the visible width of an elliptic cross section with these half axes."""
        return math.hypot(across * self.front, thick * self.side)


def sample_pose(rng: np.random.Generator, yaw: float) -> Pose:
    """A random moment of a walk, turned by about ``yaw``."""
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
    """The joints of a body in a pose, its lower foot on the ground."""
    swing = math.sin(pose.phase)
    shoulder, hip = build.head + 0.05, 1 - build.legs
    legs = {s: _leg(build, hip, s, s * pose.stride * swing, s * math.cos(pose.phase) * pose.stride) for s in (-1, 1)}
    drop = 1 - 0.02 - max(leg.end[1] for leg in legs.values())
    legs = {s: Limb(*(_shift(p, drop) for p in (leg.top, leg.middle, leg.end))) for s, leg in legs.items()}
    arms = {s: _arm(build, pose, shoulder + drop, s, -s * pose.arm_swing * swing) for s in (-1, 1)}
    return Skeleton(build.head + drop, shoulder + drop, hip + drop, arms, legs)


def _leg(build: Build, hip: float, side: int, angle: float, forward: float) -> Limb:
    """The knee bends while the leg swings forward."""
    length = build.legs - 0.02
    top = (side * build.hips * 0.52, hip, 0.0)
    knee = _reach(top, 0.51 * length, angle)
    return Limb(top, knee, _reach(knee, 0.49 * length, angle - 0.06 - 1.6 * max(0.0, forward)))


def _arm(build: Build, pose: Pose, shoulder: float, side: int, angle: float) -> Limb:
    top = (side * build.shoulders * 0.9, shoulder + 0.012, 0.0)
    elbow = _reach(top, 0.165, angle, side * pose.spread)
    return Limb(top, elbow, _reach(elbow, 0.15, angle + pose.elbow, side * pose.spread * 0.5))


def _reach(start: Point, length: float, angle: float, outward: float = 0.0) -> Point:
    """The other end of a bone that hangs from ``start``, swung forward by ``angle`` and sideways by ``outward``."""
    x, y, z = start
    down = math.cos(angle) * math.cos(outward)
    return x + length * math.sin(outward), y + length * down, z + length * math.sin(angle)


def _shift(point: Point, drop: float) -> Point:
    return point[0], point[1] + drop, point[2]
