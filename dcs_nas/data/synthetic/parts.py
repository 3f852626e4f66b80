"""The pieces that a figure is painted from, and what they need to know of the person and the view."""

from __future__ import annotations

from dataclasses import dataclass

from dcs_nas.data.synthetic.canvas import Fill, Position, box, capsule, ellipse, open_capsule
from dcs_nas.data.synthetic.identity import Looks
from dcs_nas.data.synthetic.pose import Point, Skeleton, View

Ring = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """A filled outline in body heights; parts of greater ``depth`` are nearer and painted later."""

    depth: float
    outline: list[Position]
    fill: Fill


@dataclass(frozen=True)
class Figure:
    """A person at one moment, seen by a camera; ``cloth`` fills the upper and ``lower_cloth`` the lower garment."""

    looks: Looks
    skeleton: Skeleton
    view: View
    cloth: Fill
    lower_cloth: Fill

    def limb(self, a: Point, radius_a: float, b: Point, radius_b: float, fill: Fill, depth: float) -> Part:
        """A tapered limb from ``a`` to ``b``."""
        return Part(depth, capsule(self.view.project(a), radius_a, self.view.project(b), radius_b), fill)

    def sleeve(self, a: Point, radius_a: float, b: Point, radius_b: float, fill: Fill, depth: float) -> Part:
        """A limb's cloth, from ``a`` to a straight hem at ``b``."""
        return Part(depth, open_capsule(self.view.project(a), radius_a, self.view.project(b), radius_b), fill)

    def tube(self, rings: list[Ring], fill: Fill, depth: float) -> Part:
        """An upright body of elliptic rings, each (height, half width, half thickness)."""
        sides = [(self.view.project((0.0, y, 0.0)), self.view.half_width(w, t)) for y, w, t in rings]
        right = [(u + half, v) for (u, v), half in sides]
        left = [(u - half, v) for (u, v), half in reversed(sides)]
        return Part(depth, right + left, fill)

    def ball(self, centre: Point, width: float, thick: float, height: float, fill: Fill, depth: float) -> Part:
        """An ellipsoid with these half axes."""
        return Part(depth, ellipse(self.view.project(centre), self.view.half_width(width, thick), height), fill)

    def block(self, centre: Point, width: float, thick: float, height: float, fill: Fill, depth: float) -> Part:
        """A box with these half sides."""
        return Part(depth, box(self.view.project(centre), self.view.half_width(width, thick), height), fill)

    def strap(self, path: list[Point], width: float, fill: Fill, depth: float) -> Part:
        """A flat band along a path on the body's surface, thinner as it turns away."""
        points = [self.view.project(point) for point in path]
        half = width * max(0.35, abs(self.view.front))
        return Part(depth, [(u - half, v) for u, v in points] + [(u + half, v) for u, v in reversed(points)], fill)
