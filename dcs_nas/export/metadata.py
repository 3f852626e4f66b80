"""The metadata of an exported file: its input, the distance of its features, and its origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from dcs_nas.errors import InputError
from dcs_nas.settings import Settings, parse

FORMAT = 1
PREFIX = "dcs_nas."


class ExportInfo(Settings):
    """Metadata of an exported feature extractor.

    Attributes:
        format: of this metadata; a newer dcs_nas writes a higher one.
        input: shape and type of the images. Normalisation is the first step of the graph, so ``mean`` and ``std`` (of
            values from 0 to 1, per channel) are information only.
        height: of the images, pixels.
        width: of the images, pixels.
        resize: the interpolation by which training images were resized.
        metric: the distance by which features are compared.
        features: D, numbers per image.
        cameras: ``unused``, or ``unknown``: the network was trained to know the camera and is exported without.
        folded: in files of older versions, the batch norms folded into the layers before them.
        network: the backbone, or the space of the genotype.
        trained_on: version of the training data.
        run: name of the run folder, ``checkpoint`` in it, and the run's ``seed``.
        version: of dcs_nas.
    """

    format: int = FORMAT
    input: Literal["images: uint8 RGB (batch, 3, height, width)"] = "images: uint8 RGB (batch, 3, height, width)"
    output: Literal["features: float32 (batch, features)"] = "features: float32 (batch, features)"
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    resize: str = "bilinear (Pillow)"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    metric: Literal["cosine", "euclidean"]
    features: int = Field(ge=1)
    cameras: Literal["unused", "unknown"]
    folded: int = Field(default=0, ge=0)
    network: str
    trained_on: str
    run: str
    checkpoint: str
    seed: int
    version: str

    def to_properties(self) -> dict[str, str]:
        """Return {``dcs_nas.NAME``: value as JSON}, for formats whose metadata are strings."""
        return {f"{PREFIX}{name}": json.dumps(value) for name, value in self.model_dump(mode="json").items()}


def read_properties(properties: Mapping[str, str], *, source: str) -> ExportInfo:
    """Return the metadata that ``to_properties`` wrote; other properties are ignored.

    Raises:
        InputError: no metadata of ``dcs-nas export``, damaged metadata, or a newer format.
    """
    texts = {name.removeprefix(PREFIX): value for name, value in properties.items() if name.startswith(PREFIX)}
    if not texts:
        raise InputError(
            f"{source} was not written by dcs-nas export: it lacks the metadata '{PREFIX}height'; export the run again"
        )
    try:
        values = {name: json.loads(value) for name, value in texts.items()}
    except (ValueError, RecursionError):
        raise InputError(f"{source} has damaged metadata; export the run again") from None
    if isinstance(values.get("format"), int) and values["format"] > FORMAT:
        raise InputError(f"{source} has metadata of format {values['format']}, this dcs_nas reads {FORMAT}; update it")
    return parse(ExportInfo, values, source=f"metadata of {source}")
