"""One image: its identity, camera and pose, its composition, and the effect of the camera.

A camera has its own scene, colours and sharpness, and a side from which it usually sees pedestrians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from dcs_nas.data.synthetic.body import draw_pedestrian
from dcs_nas.data.synthetic.canvas import SUPERSAMPLING, Canvas, Frame
from dcs_nas.data.synthetic.identity import Looks, sample_looks
from dcs_nas.data.synthetic.pose import sample_pose
from dcs_nas.data.synthetic.scene import HEIGHTS, draw_occluder, make_scene
from dcs_nas.data.synthetic.tiles import Panel, draw_panel, sample_panel
from dcs_nas.errors import InputError, choices
from dcs_nas.former_keys import read_former_keys

SUBJECTS = ("people", "tiles")
# Uses of random streams: the first number after the seed, so that no two uses share a stream.
LOOKS, TRACK, IMAGE, CAMERA, CAST, SCENE = range(6)


def _make_field(default: int, lowest: int, highest: int) -> Any:
    return field(default=default, metadata={"lowest": lowest, "highest": highest})


@partial(read_former_keys, "synth")
@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """Size and seed of a synthetic data set; the same settings write the same bytes.

    Attributes:
        train_identities: identities in ``bounding_box_train``.
        test_identities: identities in ``query`` and ``bounding_box_test``, none of them a training identity.
        distractor_identities: identities in the gallery only, all under the number 0.
        junk_images: gallery images of partial or missing bodies, under the number -1.
        cameras: an identity is seen by at least 2 of them, and by most of them if there are more.
        images_per_camera: images of an identity in each of its cameras; of a test identity the first is the query.
        width, height: of every image, in pixels.
        occlusion: percent of the images with an occluder before the subject.
        misalignment: error of the boxes, in percent of the usual.
        subject: ``people``, or ``tiles``: panels of coloured tiles, seen by the same cameras.
        seed: of all random draws.

    Raises:
        InputError: a setting that is not a whole number within its bounds, or an unknown subject.
    """

    train_identities: int = _make_field(100, 2, 4000)
    test_identities: int = _make_field(60, 2, 4000)
    distractor_identities: int = _make_field(12, 0, 4000)
    junk_images: int = _make_field(60, 0, 100_000)
    cameras: int = _make_field(5, 2, 9)
    images_per_camera: int = _make_field(4, 2, 50)
    width: int = _make_field(64, 16, 512)
    height: int = _make_field(128, 32, 1024)
    occlusion: int = _make_field(22, 0, 100)
    misalignment: int = _make_field(100, 0, 500)
    seed: int = _make_field(0, 0, 2**63 - 1)
    subject: str = "people"

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise InputError(f"unknown subject '{self.subject}'; {choices(self.subject, SUBJECTS)}")
        for setting in (s for s in fields(self) if s.metadata):
            value, lowest, highest = getattr(self, setting.name), *setting.metadata.values()
            if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
                raise InputError(f"{setting.name} is {value!r}: expected a whole number from {lowest} to {highest}")

    def rng(self, stream: int, *key: int) -> np.random.Generator:
        """Return a random generator for this stream and key, independent of all other draws."""
        return np.random.default_rng([self.seed, stream, *key])


_USUAL_YAWS = (0.0, math.pi, math.pi / 2, -math.pi / 2, 0.6, math.pi - 0.6)


@dataclass(frozen=True)
class Camera:
    """A camera: ``gains`` of red, green and blue, ``blur`` in pixels, ``noise`` in grey levels.

    ``detail`` is the share of the resolution that is left; ``usual_yaw`` is the most frequent facing.
    """

    scene: Image.Image
    gains: tuple[float, float, float]
    gamma: float
    saturation: float
    contrast: float
    blur: float
    noise: float
    detail: float
    pitch: float
    usual_yaw: float


@lru_cache(maxsize=16)
def make_camera(number: int, settings: SyntheticSettings) -> Camera:
    """Return the camera with this number, from 1."""
    rng = settings.rng(CAMERA, number)
    red, green, blue = np.exp(rng.normal(0.0, 0.035, 3)) * rng.uniform(0.94, 1.06)
    pitch = rng.uniform(0.02, 0.2)
    horizon = HEIGHTS * rng.uniform(0.18, 0.62)
    kind = number + settings.seed
    return Camera(
        scene=make_scene(kind, horizon, settings.width, settings.height, settings.rng(SCENE, number)),
        gains=(float(red), float(green), float(blue)),
        gamma=rng.uniform(0.9, 1.15),
        saturation=rng.uniform(0.75, 1.05),
        contrast=rng.uniform(0.85, 1.08),
        blur=rng.uniform(0.1, 0.7),
        noise=rng.uniform(2.0, 7.0),
        detail=rng.uniform(0.5, 1.0),
        pitch=pitch,
        usual_yaw=_USUAL_YAWS[(number - 1) % len(_USUAL_YAWS)],
    )


def sample_yaw(camera: Camera, rng: np.random.Generator) -> float:
    """Return a facing: mostly the camera's usual one, sometimes the opposite one, sometimes any."""
    turn = rng.choice((0.0, math.pi, rng.uniform(-math.pi, math.pi)), p=(0.6, 0.2, 0.2))
    return camera.usual_yaw + float(turn) + rng.normal(0.0, 0.2)


def photograph(image: Image.Image, camera: Camera, exposure: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return the anti-aliased picture as the camera shows it: with resolution loss, blur, colours and noise.

    Args:
        image: the picture.
        camera: takes the picture.
        exposure: brightness of red, green and blue in the light of the moment, around 1.
        rng: draws the noise.
    """
    width, height = image.size
    small = (max(8, round(width * camera.detail)), max(16, round(height * camera.detail)))
    image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(camera.blur * height / 128))
    pixels = _tone_curves(camera, exposure)[np.arange(3), np.asarray(image)]
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + camera.saturation * (pixels - grey)
    pixels += camera.noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _tone_curves(camera: Camera, exposure: np.ndarray) -> np.ndarray:
    """Return look-up tables (3, 256) of red, green and blue: contrast around the middle, gamma, gain."""
    levels = np.maximum(0.0, 0.5 + camera.contrast * (np.arange(256) / 255 - 0.5)) ** camera.gamma
    curves = 255 * (exposure * camera.gains)[:, None] * levels
    return np.minimum(255, curves).astype(np.float32)


@dataclass(frozen=True)
class Shot:
    """The content of an image: ``identity`` numbers all subjects of the data set, ``take`` counts within the camera."""

    identity: int
    camera: int
    take: int
    junk: bool = False


@dataclass(frozen=True)
class _Track:
    """Common properties of the images of one walk past a camera: facing, place in the scene and light."""

    yaw: float
    place: tuple[float, float]
    exposure: np.ndarray


def take_picture(shot: Shot, settings: SyntheticSettings) -> Image.Image:
    """Draw one image of ``settings.width`` x ``settings.height`` pixels; the same shot has the same pixels."""
    camera = make_camera(shot.camera, settings)
    track = _sample_track(camera, settings.rng(TRACK, shot.identity, shot.camera))
    rng = settings.rng(IMAGE, shot.identity, shot.camera, shot.take)
    canvas = Canvas(_background(camera, track, settings, rng))
    height = settings.height * SUPERSAMPLING
    frame = _junk_frame(canvas, height, rng) if shot.junk else _box_frame(canvas, height, settings.misalignment, rng)
    if frame is not None and settings.subject == "tiles":
        draw_panel(canvas, _panel(shot.identity, settings), track.yaw + rng.normal(0.0, 0.1), frame)
    elif frame is not None:
        draw_pedestrian(canvas, _looks(shot.identity, settings), sample_pose(rng, track.yaw), camera.pitch, frame)
    if rng.random() < settings.occlusion / 100:
        draw_occluder(canvas, rng)
    return photograph(_light(canvas, rng), camera, track.exposure * rng.uniform(0.93, 1.07), rng)


@lru_cache(maxsize=512)
def _looks(identity: int, settings: SyntheticSettings) -> Looks:
    return sample_looks(settings.rng(LOOKS, identity))


@lru_cache(maxsize=512)
def _panel(number: int, settings: SyntheticSettings) -> Panel:
    return sample_panel(settings.rng(LOOKS, number))


def _sample_track(camera: Camera, rng: np.random.Generator) -> _Track:
    warm = 1 + rng.normal(0.0, 0.04) * np.array([1.0, 0.0, -1.0])
    return _Track(sample_yaw(camera, rng), (rng.random(), rng.random()), warm * rng.uniform(0.8, 1.2))


def _background(camera: Camera, track: _Track, settings: SyntheticSettings, rng: np.random.Generator) -> Image.Image:
    """Return a piece of the camera's scene, near the track's place."""
    width, height = settings.width * SUPERSAMPLING, settings.height * SUPERSAMPLING
    wander = np.clip(np.array(track.place) + rng.normal(0.0, 0.06, 2), 0.0, 1.0)
    left, top = (round(w * (whole - part)) for w, whole, part in zip(wander, camera.scene.size, (width, height)))
    return camera.scene.crop((left, top, left + width, top + height))


def _box_frame(canvas: Canvas, height: float, misalignment: int, rng: np.random.Generator) -> Frame:
    """Return the place of the body in a detector's box, which is a little too large, too small or shifted."""
    error = misalignment / 100
    scale = height * rng.uniform(0.8, 1.04) ** error
    left = canvas.image.size[0] / 2 + height * rng.normal(0.0, 0.02 * error)
    return Frame(left, 0.5 * (height - scale) + height * rng.normal(0.0, 0.035 * error), scale)


def _junk_frame(canvas: Canvas, height: float, rng: np.random.Generator) -> Frame | None:
    """Return the place of half a body, of a body much too small or large, or None for no body."""
    kind = rng.integers(4)
    if kind == 0:
        return None
    if kind == 1:
        scale = height * rng.uniform(1.8, 2.6)
        return Frame(canvas.image.size[0] / 2, -rng.uniform(0.0, 0.6) * scale, scale)
    scale = height * rng.uniform(0.5, 1.0)
    off = 0.17 * scale if kind == 2 else 0.0
    left = rng.choice((off, canvas.image.size[0] - off))
    return Frame(float(left), rng.uniform(-0.4, 0.6) * height, scale)


def _light(canvas: Canvas, rng: np.random.Generator) -> Image.Image:
    """Return the shrunk canvas, with the body darkened towards its edges and uneven light over all."""
    image, mask = canvas.shrink()
    radius = 0.03 * image.size[1]
    body = np.asarray(mask, dtype=np.float32)[:, :, None] / 255
    inside = np.asarray(mask.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)[:, :, None] / 255
    shade = 1 - body * 0.45 * (1 - inside)
    folds = rng.integers(96, 160, (16, 8), dtype=np.uint8)
    light = np.asarray(Image.fromarray(folds).resize(image.size, Image.Resampling.BICUBIC), dtype=np.float32) / 128
    pixels = np.asarray(image, dtype=np.float32) * shade * (0.5 + 0.5 * light[:, :, None])
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
