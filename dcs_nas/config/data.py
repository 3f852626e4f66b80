"""Sections ``data``, ``augment`` and ``evaluate``: images, their augmentation, and the comparison of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, field_validator

from dcs_nas.settings import Settings

_FEWEST_RESAMPLES = 100


class DataSource(Settings):
    """A data set by name, its folder, and the options of its loader."""

    name: str
    """Name of the data set, see `dcs-nas datasets`."""
    root: Path | None = None
    """Folder of the data set."""
    options: dict[str, Any] = {}
    """Options of the loader, see `dcs-nas datasets NAME`."""


class DataConfig(Settings):
    """Images, their size and batches.

    In a batch of ``shuffle`` few identities have two images, so pairwise losses get few positive pairs. An epoch shows
    every image about once, or with ``identity_once`` ``images_per_identity`` images of every identity.
    """

    name: str = "market1501"
    """Data set to train on, and to test on unless `test` is given; see `dcs-nas datasets`."""
    root: Path | None = None
    """Folder of the data set. It must be set, usually by `-o data.root=DIR`."""
    options: dict[str, Any] = {}
    """Options of the loader, such as a version or split; see `dcs-nas datasets NAME`."""
    also: tuple[DataSource, ...] = ()
    """Further data sets to train on, their identities counted apart."""
    combine_all: bool = False
    """Train on the test images too, for a model to be used elsewhere; such a run cannot be tested on them."""
    test: DataSource | None = None
    """Another data set to test on (cross-domain); by default the first one."""
    height: int = Field(default=256, ge=8, le=4096)
    """Height of the images in pixels, to which all are resized; 256 is usual for person re-identification."""
    width: int = Field(default=128, ge=8, le=4096)
    """Width of the images in pixels; half the height is usual for person re-identification."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each colour channel, of values from 0 to 1, which is subtracted; that of ImageNet. Change it only for
    weights that were trained with another."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    """Standard deviation of each colour channel, by which it is divided; that of ImageNet."""
    sampler: Literal["identity", "identity_once", "camera_balanced", "shuffle"] = "identity"
    """Sampler of training batches: `identities_per_batch` identities of `images_per_identity` images each (identity),
    each identity once an epoch (identity_once), from as many cameras as possible (camera_balanced), or all images
    shuffled (shuffle)."""
    identities_per_batch: int = Field(default=16, ge=1, le=4096)
    """Identities in a training batch. Lower it where memory runs out; the triplet loss works better with many."""
    images_per_identity: int = Field(default=4, ge=1, le=256)
    """Images of each identity in a training batch; at least 2 for losses of pairs."""
    test_batch: int = Field(default=256, ge=1, le=65536)
    """Images at a time when features are computed; it changes speed and memory, not results."""
    cache: Path | None = None
    """Folder of the decoded images; by default `.cache` in `results`. Set it to a fast disk with room."""

    @property
    def batch_size(self) -> int:
        return self.identities_per_batch * self.images_per_identity

    @property
    def own(self) -> DataSource:
        """The data set ``name``, without those of ``also``."""
        return DataSource(name=self.name, root=self.root, options=self.options)

    @property
    def tests_trained_cameras(self) -> bool:
        """True if the cameras of the test images are those of the training images, with the same numbers."""
        return self.test is None and not self.also

    def on(self, source: DataSource) -> DataConfig:
        """Return the same sizes and batches on one data set alone."""
        one = {"name": source.name, "root": source.root, "options": source.options}
        return self.model_copy(update={**one, "also": (), "combine_all": False, "test": None})


class AugmentConfig(Settings):
    """Augmentation of a training batch. Erasing covers 2 % of an image up to ``erase_area``."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability that an image is mirrored."""
    pad: int = Field(default=10, ge=0, le=512)
    """Pixels of black border before a random crop to the old size; 0 for no crop."""
    erase: float = Field(default=0.5, ge=0, le=1)
    """Probability that a rectangle of the image is erased (random erasing)."""
    erase_area: float = Field(default=0.4, gt=0.02, lt=1)
    """Largest share of the image that is erased."""
    erase_fill: Literal["mean", "noise"] = "mean"
    """Content of the erased rectangle: the mean colour or noise."""
    color_jitter: float = Field(default=0.0, ge=0, le=1)
    """Probability that brightness, contrast, saturation and hue are changed; raise it where lighting differs
    between cameras."""
    translate: float = Field(default=0.0, ge=0, le=1)
    """Probability that an image is enlarged to 9/8 and cropped at random."""
    resized_crop: float = Field(default=0.0, ge=0, le=1)
    """Least area of a random crop that is resized to the whole image; 0.08 for ImageNet, 0 for no such crop."""
    random_patch: float = Field(default=0.0, ge=0, le=1)
    """Probability that a patch of another image of the batch is pasted in."""
    local_gray: float = Field(default=0.0, ge=0, le=1)
    """Probability that a rectangle loses its colours, so that clothing colour counts for less."""
    policy: Literal["none", "randaugment", "autoaugment"] = "none"
    """A set of operations learned elsewhere: RandAugment, or AutoAugment's for ImageNet."""
    policy_probability: float = Field(default=0.1, gt=0, le=1)
    """Share of the images that the policy changes."""
    policy_magnitude: int = Field(default=9, ge=1, le=29)
    """Strength of RandAugment's operations, of 30."""


class EvaluateConfig(Settings):
    """Comparison of features; ``dcs-nas evaluate`` and ``rank`` have an option for each setting, which replaces it.

    With the protocol ``cross_camera`` validation leaves out the query's own camera, otherwise the query's own image
    alone.
    """

    protocol: Literal["cross_camera", "single_gallery_shot", "no_camera_filter"] | None = Field(
        default=None, description="cross_camera, single_gallery_shot or no_camera_filter; by default the data set's."
    )
    metric: Literal["cosine", "euclidean"] = Field(
        default="cosine", description="cosine or euclidean distance; by default the run's, the model's or the file's."
    )
    neck: Literal["after", "before"] = Field(
        default="after", description="Features after or before the batch norm of the head; by default the run's."
    )
    flip: bool = Field(default=False, description="Add the features of the mirrored images.")
    expand: int = Field(
        default=0,
        ge=0,
        description="Average query expansion over this many of the nearest gallery images (5 is usual), 0 for none.",
    )
    expand_alpha: float = Field(
        default=0.0,
        ge=0,
        description="With expand: weights are similarity to this power; 0, the default, is the plain average.",
    )
    rerank: bool = Field(default=False, description="k-reciprocal re-ranking (arXiv 1701.08398).")
    rerank_k1: int = Field(default=20, ge=1, description="With rerank: neighbours; 20 as published.")
    rerank_k2: int = Field(default=6, ge=1, description="With rerank: encodings averaged; 6 as published.")
    rerank_lambda: float = Field(
        default=0.3, ge=0, le=1, description="With rerank: share of the original distance; 0.3 as published."
    )
    average_precision: Literal["hits", "trapezoid"] = Field(
        default="hits", description="hits: at each match; trapezoid: by the trapezoid rule, as in MATLAB."
    )
    confidence: int = Field(
        default=0, ge=0, description="95 % intervals from this many bootstrap resamples of the queries, 100 or more."
    )
    max_rank: int = Field(default=50, ge=1, description="Length of the CMC curve.")

    @field_validator("confidence")
    @classmethod
    def _has_tails(cls, value: int) -> int:
        if 0 < value < _FEWEST_RESAMPLES:
            raise ValueError(
                f"expected 0, or at least {_FEWEST_RESAMPLES} resamples, whose tails an interval is made of"
            )
        return value
