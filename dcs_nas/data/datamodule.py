"""From a data set on disk to batches: ``ReidData`` lists, decodes, relabels, splits and loads images.

A batch is a dict: ``images`` (B, 3, H, W) uint8 channels_last, ``labels`` (B,) class of the identity in training, its
number in tests, ``cameras`` (B,), ``indices`` (B,) into the split.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dcs_nas.config import Config, DataConfig, DataSource
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.fingerprint import DATA_FILE, record_source, require_same_images
from dcs_nas.data.images import Bars, open_image_cache
from dcs_nas.data.records import SPLITS, Record, ReidDataset, combine
from dcs_nas.data.samplers import (
    CameraBalancedSampler,
    IdentityOnceSampler,
    IdentitySampler,
    SequentialBatches,
    ShuffledBatches,
    hold_out_identities,
    require_queries,
    split_identities,
    split_within_identities,
)
from dcs_nas.errors import InputError
from dcs_nas.files import write_json
from dcs_nas.processes import get_rank, get_world_size, in_turn, is_first

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]
HALVES = ("weights", "architecture")
"""The two levels of a bilevel search, each on its own half of the images."""


class Pixels(Protocol):
    """Rows of (H, W, 3) uint8 images by an array of indices."""

    def __getitem__(self, indices: Any) -> Any: ...


class Images(Dataset):
    """A split as a map from a list of indices to a batch."""

    def __init__(self, pixels: Pixels, records: Sequence[Record], labels: Sequence[int] | np.ndarray) -> None:
        self.pixels = pixels
        self.records = records
        self.labels = np.asarray(labels, dtype=np.int64)
        self.cameras = np.asarray([r.camera for r in records], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices, dtype=np.int64)
        return {
            "images": torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2),
            "labels": torch.from_numpy(self.labels[rows]),
            "cameras": torch.from_numpy(self.cameras[rows]),
            "indices": torch.from_numpy(rows),
        }

    def subset(self, indices: Sequence[int]) -> Images:
        """Return the images at ``indices``, in that order, on the same pixels."""
        records = [self.records[i] for i in indices]
        return Images(_Rows(self.pixels, indices), records, self.labels[list(indices)])


class ReidData:
    """Data as configured: training images with classes from 0, queries and gallery with the identities' numbers.

    ``dataset`` is trained on, one data set or several combined; ``test_dataset`` is tested on.
    """

    def __init__(self, config: Config, *, progress: Bars | None = None) -> None:
        self.config, self.settings = config, config.data
        self.dataset, self.test_dataset, self.sources = load_both(config.data)
        self._progress = progress
        self.identities = sorted({r.identity for r in self.dataset.train})
        tested = (*self.dataset.query, *self.dataset.gallery) if config.data.tests_trained_cameras else ()
        self.num_cameras = 1 + max((r.camera for r in (*self.dataset.train, *tested)), default=0)

    def save_labels(self, folder: Path) -> None:
        """Record the training data in a run's folder; of several processes only the first writes.

        ``data.json`` holds version, counts, deviations from the published facts and the ``SourceRecord`` of every data
        set; ``labels.json`` the numbers of the user's names of identities and cameras, where a data set has names.

        Raises:
            InputError: the folder's run began with other images.
        """
        if not is_first():
            return
        trained = 1 + len(self.settings.also)
        records = [record_source(*source, trained=i < trained) for i, source in enumerate(self.sources)]
        require_same_images(folder, records)
        sources = [record.model_dump(mode="json") for record in records]
        facts = {**self.dataset.statistics(), "deviations": list(self.dataset.notes), "sources": sources}
        write_json(folder / DATA_FILE, facts)
        maps = {"people": self.dataset.label_map, "cameras": self.dataset.camera_map}
        known = {name: numbers for name, numbers in maps.items() if numbers}
        if known:
            write_json(folder / "labels.json", known)

    @property
    def num_identities(self) -> int:
        return len(self.identities)

    def train(self) -> Images:
        """Return all training images; label = class of the identity, from 0 in the order of the numbers."""
        if not self.identities:
            name, root = self.dataset.name, self.dataset.root
            raise InputError(
                f"{name} in {root} has no images to train on; set data.name and data.root to a data set that "
                "has some, and data.test to this one"
            )
        classes = {identity: i for i, identity in enumerate(self.identities)}
        records = self.dataset.train
        return self._images("train", self.dataset, records, [classes[r.identity] for r in records])

    def test(self) -> tuple[Images, Images]:
        """Return queries and gallery; label = the identity's number in the data set."""
        dataset = self.test_dataset
        if self.settings.combine_all and self.settings.test is None:
            raise InputError(
                f"data.combine_all trains on the test images of {dataset.name}, so it cannot be tested on them; "
                "set data.test to another data set, or give --data and --root"
            )
        if not dataset.query or not dataset.gallery:
            raise InputError(
                f"{dataset.name} in {dataset.root} has no queries or gallery to evaluate on; set data.test to one "
                "that has both, or give --data and --root"
            )
        query, gallery = (
            self._images(part, dataset, records, [r.identity for r in records])
            for part, records in (("query", dataset.query), ("gallery", dataset.gallery))
        )
        return query, gallery

    @property
    def camera_filter(self) -> bool:
        """True if validation leaves out all images by the query's camera, not only the query's own image."""
        return (self.config.evaluate.protocol or self.dataset.protocol) != "no_camera_filter"

    def load_search_halves(
        self, *, share: float, overlap: float = 1.0, validation: float = 0.0
    ) -> tuple[dict[str, Images], Images | None]:
        """Return the training images of the two ``HALVES``, and the images of identities held out of both.

        The images of every identity are split (DARTS) where ``overlap`` is 1; below 1, only that share of the
        identities is in both halves. With ``share`` 1 all images are in the first half, and there is no second.

        Raises:
            InputError: no training images, halves of too few identities, or no identity held out that has a match.
        """
        images = self.train()
        kept, held = self._hold_out(images, validation, "search.validation")
        validation_images = images.subset(held) if held else None
        if share == 1:
            return {HALVES[0]: images.subset(kept)}, validation_images
        labels = images.labels[kept].tolist()
        halves = split_identities(labels, share=share, overlap=overlap, seed=self.config.seed)
        named = {name: images.subset([kept[i] for i in half]) for name, half in zip(HALVES, halves)}
        self._require_shared(labels, named, share)
        return named, validation_images

    def load_training_and_validation(
        self, *, share: float, setting: str = "retrain.validation"
    ) -> tuple[Images, Images | None]:
        """Return images to train on, and images of the identities held out (None where ``share`` is 0).

        Classes count from 0 in each. ``setting`` is named in errors.

        Raises:
            InputError: no training images, or no identity held out that has a match.
        """
        images = self.train()
        kept, held = self._hold_out(images, share, setting)
        if not held:
            return images, None
        training = images.subset(kept)
        training.labels = np.unique(training.labels, return_inverse=True)[1]
        return training, images.subset(held)

    def load_classes_and_validation(self, *, share: float) -> tuple[Images, Images | None]:
        """Return images to learn the classes of, and images of the same classes to validate on.

        The latter are the data set's own, or a ``share`` of every class's images; None without either.

        Raises:
            InputError: no training images, both kinds of validation, or no class with two images.
        """
        images, val = self.train(), self.dataset.val
        if val:
            if share:
                raise InputError(
                    f"pretrain.validation is {share:g}, but {self.dataset.name} in {self.dataset.root} has "
                    f"{len(val):,} images to validate on (val) already; leave pretrain.validation out"
                )
            numbers = {identity: i for i, identity in enumerate(self.identities)}
            return images, self._images("val", self.dataset, val, [numbers[r.identity] for r in val])
        if not share:
            return images, None
        kept, held = split_within_identities(images.labels.tolist(), share=1 - share, seed=self.config.seed)
        if not held:
            raise InputError(
                f"each of the {self.num_identities:,} classes to train on has a single image, so none can be held out; "
                "set pretrain.validation=0 to train without validation"
            )
        return images.subset(kept), images.subset(held)

    def _hold_out(self, images: Images, share: float, setting: str) -> tuple[list[int], list[int]]:
        kept, held = hold_out_identities(images.labels.tolist(), share=share, seed=self.config.seed, setting=setting)
        if held:
            require_queries(images.labels, images.cameras, held, camera_filter=self.camera_filter, setting=setting)
        return kept, held

    def _require_shared(self, labels: Sequence[int], halves: dict[str, Images], share: float) -> None:
        """Raise ``InputError`` where a half lacks identities because their single images are in the other half."""
        identities, images = np.unique(labels, return_counts=True)
        single, fewest = int((images == 1).sum()), min(len(np.unique(half.labels)) for half in halves.values())
        apart = min(max(1, round(share * len(identities))), len(identities) - 1)
        batch, most = self.settings.identities_per_batch, min(apart, len(identities) - apart)
        if not single or fewest >= min(batch, most):
            return
        changes = ["search.identity_overlap=0"]
        changes += ["search.strategy=bilevel"] if self.config.section("search").strategy != "bilevel" else []
        changes += [f"data.identities_per_batch={most}"] if most < batch else []
        raise InputError(
            f"{single} of the {len(identities)} identities to search on have a single image, so one half has "
            f"{fewest} identities, expected at least {batch} for a batch; set {' and '.join(changes)}, "
            "so that each half has its own"
        )

    def make_identity_loader(self, images: Images, *, stream: int, what: str = "training") -> DataLoader:
        """Return a loader of batches by ``data.sampler``; loaders of another ``stream`` draw other batches."""
        settings, labels, seed = self.settings, images.labels.tolist(), self.config.seed * 16 + stream
        if settings.sampler == "shuffle":
            return self._loader(images, ShuffledBatches(len(images), size=settings.batch_size, seed=seed, what=what))
        options: Any = {
            "identities_per_batch": settings.identities_per_batch,
            "images_per_identity": settings.images_per_identity,
            "seed": seed,
            "what": what,
        }
        if settings.sampler == "camera_balanced":
            return self._loader(images, CameraBalancedSampler(labels, images.cameras.tolist(), **options))
        sampler = IdentityOnceSampler if settings.sampler == "identity_once" else IdentitySampler
        return self._loader(images, sampler(labels, **options))

    def make_test_loader(self, images: Images) -> DataLoader:
        """Return a loader of all images in order, in batches of ``data.test_batch``; for W processes every W-th."""
        batches = SequentialBatches(len(images), size=self.settings.test_batch, shard=(get_rank(), get_world_size()))
        return self._loader(images, batches)

    def _loader(self, images: Images, batches: Iterable[list[int]]) -> DataLoader:
        """Return a loader; for a GPU in pinned memory, so that copies overlap with computation."""
        return DataLoader(images, sampler=batches, batch_size=None, pin_memory=self.config.trainer.cuda)

    def _images(self, part: str, dataset: ReidDataset, records: Sequence[Record], labels: Sequence[int]) -> Images:
        folder = self.settings.cache or self.config.results / ".cache"
        with in_turn(folder / ".lock"):
            pixels = open_image_cache(
                dataset.root,
                [r.path for r in records],
                height=self.settings.height,
                width=self.settings.width,
                folder=folder,
                progress=self._progress(f"decoding {len(records):,} {part} images") if self._progress else None,
            )
        return Images(pixels, records, labels)


def load_both(settings: DataConfig) -> tuple[ReidDataset, ReidDataset, list[tuple[DataSource, ReidDataset]]]:
    """Return the training set, the test set, and every data set of the settings with its source, each listed once.

    Raises:
        InputError: a data set without a folder, or a fault of a folder.
    """
    own = _load(settings.own, "data")
    further = [_load(source, f"data.also[{i}]") for i, source in enumerate(settings.also)]
    sources = list(zip((settings.own, *settings.also), (own, *further)))
    training = own
    if further or settings.combine_all:
        training = combine([own, *further], splits=SPLITS if settings.combine_all else ("train",))
    if settings.test is None:
        return training, own, sources
    test = _load(settings.test, "data.test")
    if settings.combine_all and any(d.name == test.name and d.root.samefile(test.root) for d in (own, *further)):
        raise InputError(
            f"data.combine_all trains on the test images of {test.name} in {test.root}, which data.test names; "
            "test on another data set"
        )
    return training, test, [*sources, (settings.test, test)]


def _load(source: DataSource, key: str) -> ReidDataset:
    if source.root is None:
        raise InputError(
            f"{key}.root is not set; give the folder of {source.name}, e.g. -o {key}.root=/data/{source.name}"
        )
    dataset = load_dataset(source.name, Path(source.root).expanduser(), **source.options)
    for note in (*dataset.notes, *dataset.passed_over):
        log.warning("%s: %s", dataset.name, note)
    return dataset


def file_names(images: Images, indices: Iterable[int]) -> list[str]:
    """Return the paths of a batch's images, for messages."""
    rows = indices.tolist() if isinstance(indices, torch.Tensor) else indices  # a GPU's at once, not one by one
    return [images.records[int(i)].path for i in rows]


class _Rows:
    """Some rows of an array, read on access."""

    def __init__(self, pixels: Pixels, rows: Sequence[int]) -> None:
        self.pixels, self.rows = pixels, np.asarray(rows, dtype=np.int64)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self.pixels[self.rows[indices]]
