"""From a data set on disk to batches: ``ReidData`` lists, caches, relabels, splits and loads.

A batch is a dict: ``images`` (B, 3, H, W) uint8 channels_last, ``labels`` (B,) class of the person in training or the
person's number in tests, ``cameras`` (B,), ``indices`` (B,) into the split.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dcs_nas.config import Config, DataConfig
from dcs_nas.data.cache import Progress, image_cache
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.records import Record, ReidDataset
from dcs_nas.data.samplers import IdentitySampler, SequentialBatches, hold_out_people, split_within_people
from dcs_nas.errors import InputError
from dcs_nas.files import write_json

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]


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
        """The images at ``indices``, in that order, on the same pixels."""
        records = [self.records[i] for i in indices]
        return Images(_Rows(self.pixels, indices), records, self.labels[list(indices)])


class ReidData:
    """A data set as configured: training images with classes from 0, queries and gallery with the people's numbers."""

    def __init__(self, config: Config, *, progress: Callable[[str], Progress] | None = None) -> None:
        self.config, self.settings = config, config.data
        self.dataset: ReidDataset = load(config.data)
        self._progress = progress
        self.people = sorted({r.person for r in self.dataset.train})
        self.num_cameras = 1 + max(
            (r.camera for part in (self.dataset.train, self.dataset.query, self.dataset.gallery) for r in part),
            default=0,
        )

    def save_labels(self, folder: Path) -> None:
        """Keep which of the user's names became which number, where a data set has names: ``labels.json``."""
        maps = {"people": self.dataset.label_map, "cameras": self.dataset.camera_map}
        known = {name: numbers for name, numbers in maps.items() if numbers}
        if known:
            write_json(folder / "labels.json", known)

    @property
    def num_people(self) -> int:
        return len(self.people)

    def train(self) -> Images:
        """All training images; label = class of the person, in the people's order."""
        classes = {person: i for i, person in enumerate(self.people)}
        return self._images("train", self.dataset.train, [classes[r.person] for r in self.dataset.train])

    def test(self) -> tuple[Images, Images]:
        """Queries and gallery; label = the person's number in the data set."""
        query, gallery = self.dataset.query, self.dataset.gallery
        if not query or not gallery:
            raise InputError(f"{self.dataset.name} in {self.dataset.root} has no queries or gallery to evaluate on")
        return (
            self._images("query", query, [r.person for r in query]),
            self._images("gallery", gallery, [r.person for r in gallery]),
        )

    def search_halves(self, *, share: float) -> tuple[Images, Images]:
        """Training images for the weights and for the architecture, split within every person (DARTS)."""
        images = self.train()
        weights, architecture = split_within_people(images.labels.tolist(), share=share, seed=self.config.seed)
        return images.subset(weights), images.subset(architecture)

    def training_and_validation(self, *, share: float) -> tuple[Images, Images | None]:
        """Images to train on, and those of the people held out (none where ``share`` is 0), classes from 0 in each."""
        images = self.train()
        kept, held = hold_out_people(images.labels.tolist(), share=share, seed=self.config.seed)
        if not held:
            return images, None
        training = images.subset(kept)
        training.labels = np.unique(training.labels, return_inverse=True)[1]
        return training, images.subset(held)

    def identity_loader(self, images: Images, *, stream: int, what: str = "training") -> DataLoader:
        """P x K batches; ``stream`` sets loaders of one run apart in their draws."""
        sampler = IdentitySampler(
            images.labels.tolist(),
            people_per_batch=self.settings.people_per_batch,
            images_per_person=self.settings.images_per_person,
            seed=self.config.seed * 16 + stream,
            what=what,
        )
        if not len(sampler):
            raise InputError(
                f"the {what} images do not fill one batch of {sampler.P} people x {sampler.K} images; "
                "lower data.people_per_batch or data.images_per_person"
            )
        return DataLoader(images, sampler=sampler, batch_size=None)

    def test_loader(self, images: Images) -> DataLoader:
        """All images in order, in batches of ``data.test_batch``."""
        return DataLoader(
            images, sampler=SequentialBatches(len(images), size=self.settings.test_batch), batch_size=None
        )

    def _images(self, part: str, records: Sequence[Record], labels: Sequence[int]) -> Images:
        pixels = image_cache(
            self.dataset.root,
            [r.path for r in records],
            height=self.settings.height,
            width=self.settings.width,
            folder=self.settings.cache or self.config.results / ".cache",
            progress=self._progress(f"decoding {len(records):,} {part} images") if self._progress else None,
        )
        return Images(pixels, records, labels)


def load(settings: DataConfig) -> ReidDataset:
    """The data set that the settings name; ``InputError`` where no folder is given."""
    if settings.root is None:
        raise InputError(
            f"data.root is not set; give the folder of {settings.name}, e.g. -o data.root=/data/{settings.name}"
        )
    dataset = load_dataset(settings.name, Path(settings.root).expanduser(), **settings.options)
    for note in dataset.notes:
        log.warning("%s: %s", dataset.name, note)
    return dataset


def file_names(images: Images, indices: Iterable[int]) -> list[str]:
    """The paths of a batch's images, for messages."""
    return [images.records[int(i)].path for i in indices]


class _Rows:
    """Rows of an array by way of another index, read when asked for."""

    def __init__(self, pixels: Pixels, rows: Sequence[int]) -> None:
        self.pixels, self.rows = pixels, np.asarray(rows, dtype=np.int64)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self.pixels[self.rows[indices]]
