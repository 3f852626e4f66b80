"""A dressed, walking person: parts are laid out in space, projected, and painted from far to near."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from dcs_nas.data.synthetic.accessories import bag, hat
from dcs_nas.data.synthetic.body import arms, head, legs, torso
from dcs_nas.data.synthetic.canvas import Canvas, Frame
from dcs_nas.data.synthetic.identity import Looks
from dcs_nas.data.synthetic.parts import Figure, Part
from dcs_nas.data.synthetic.pose import Pose, View, make_skeleton
from dcs_nas.data.synthetic.textures import make_cloth


def draw_person(canvas: Canvas, looks: Looks, pose: Pose, pitch: float, frame: Frame, *, person: bool = True) -> None:
    """Paints a person on the canvas.

    Args:
        canvas: what to paint on.
        looks: the identity.
        pose: the moment of the walk and the facing.
        pitch: of the camera, see ``View``.
        frame: the place of the top of the head of an upright body, and canvas pixels per body height.
        person: whether this is whom the picture is of, see ``Canvas.polygon``.
    """
    figure = _dress(canvas.image.size, looks, pose, View(pose.yaw, pitch, pose.lean), frame)
    for part in sorted(_parts(figure), key=lambda part: part.depth):
        canvas.polygon(frame.place(part.outline), part.fill, edge=0.006 * frame.scale, person=person)


def _dress(size: tuple[int, int], looks: Looks, pose: Pose, view: View, frame: Frame) -> Figure:
    skeleton = make_skeleton(looks.build, pose)
    squeeze = view.half_width(1.0, 0.6)
    middles = ((0.0, (skeleton.shoulder + skeleton.hip) / 2, 0.0), (0.0, skeleton.hip + 0.2, 0.0))
    upper, lower = frame.place([view.project(middle) for middle in middles])
    cloth = make_cloth(looks.upper, size, upper, frame.scale, squeeze)
    return Figure(looks, skeleton, view, cloth, make_cloth(looks.lower, size, lower, frame.scale, squeeze))


def _parts(figure: Figure) -> Iterator[Part]:
    return chain(legs(figure), torso(figure), arms(figure), head(figure), hat(figure), bag(figure))
