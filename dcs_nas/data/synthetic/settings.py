"""What can be chosen about a synthetic data set, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from dcs_nas.errors import InputError, choices

SUBJECTS = ("people", "tiles")
# What a random stream is for: the first number after the seed, so that no two uses share a stream.
LOOKS, TRACK, IMAGE, CAMERA, CAST, SCENE = range(6)


def _bounded(default: int, lowest: int, highest: int) -> Any:
    return field(default=default, metadata={"lowest": lowest, "highest": highest})


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """Size and seed of a synthetic data set; the same settings give the same bytes.

    Attributes:
        train_people: identities in ``bounding_box_train``.
        test_people: identities in ``query`` and ``bounding_box_test``, none of them a training identity.
        distractor_people: people in the gallery only, all under the person id 0.
        junk_images: gallery images of partial or missing bodies, under the person id -1.
        cameras: a person passes at least 2 of them, and most of them if there are more.
        images_per_camera: images of a person in each camera passed; for test people the first is the query.
        width, height: of every image, in pixels.
        occlusion: percent of the images in which something stands before the subject.
        misalignment: by how much boxes miss the body, in percent of what a detector's do here.
        subject: ``people``, or ``tiles``: panels of coloured tiles, seen by the same cameras.
        seed: of everything that is random.

    Raises:
        InputError: a setting that is not a whole number within its bounds, or an unknown subject.
    """

    train_people: int = _bounded(100, 2, 4000)
    test_people: int = _bounded(60, 2, 4000)
    distractor_people: int = _bounded(12, 0, 4000)
    junk_images: int = _bounded(60, 0, 100_000)
    cameras: int = _bounded(5, 2, 9)
    images_per_camera: int = _bounded(4, 2, 50)
    width: int = _bounded(64, 16, 512)
    height: int = _bounded(128, 32, 1024)
    occlusion: int = _bounded(22, 0, 100)
    misalignment: int = _bounded(100, 0, 500)
    seed: int = _bounded(0, 0, 2**63 - 1)
    subject: str = "people"

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise InputError(f"unknown subject '{self.subject}'; {choices(self.subject, SUBJECTS)}")
        for setting in (s for s in fields(self) if s.metadata):
            value, lowest, highest = getattr(self, setting.name), *setting.metadata.values()
            if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
                raise InputError(f"{setting.name} is {value!r}: expected a whole number from {lowest} to {highest}")

    def rng(self, stream: int, *key: int) -> np.random.Generator:
        """A random generator of its own for this stream and key, whatever was drawn elsewhere."""
        return np.random.default_rng([self.seed, stream, *key])
