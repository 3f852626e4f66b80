"""Cameras: what each does to colours and sharpness, and from which side it usually sees people."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from dcs_nas.data.synthetic.scene import HEIGHTS, make_scene
from dcs_nas.data.synthetic.settings import CAMERA, SCENE, SyntheticSettings

_USUAL_YAWS = (0.0, math.pi, math.pi / 2, -math.pi / 2, 0.6, math.pi - 0.6)


@dataclass(frozen=True)
class Camera:
    """``gains`` are red, green and blue; ``blur`` and ``noise`` in pixels and grey levels; ``detail`` is the share
    of the resolution that is left; ``usual_yaw`` is the facing most seen.
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


def make_camera(number: int, settings: SyntheticSettings) -> Camera:
    """The camera with this number, from 1."""
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
    """A facing: mostly the camera's usual one, sometimes the opposite one, sometimes any."""
    turn = rng.choice((0.0, math.pi, rng.uniform(-math.pi, math.pi)), p=(0.6, 0.2, 0.2))
    return camera.usual_yaw + float(turn) + rng.normal(0.0, 0.2)


def photograph(image: Image.Image, camera: Camera, exposure: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """What the camera makes of the anti-aliased picture: resolution loss, blur, colours, noise.

    Args:
        image: the picture.
        camera: which takes it.
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
    """Look-up tables (3, 256) of red, green and blue: contrast around the middle, gamma, gain."""
    levels = np.maximum(0.0, 0.5 + camera.contrast * (np.arange(256) / 255 - 0.5)) ** camera.gamma
    curves = 255 * (exposure * camera.gains)[:, None] * levels
    return np.minimum(255, curves).astype(np.float32)
