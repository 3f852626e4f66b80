"""Identify the images of a run by a fingerprint of their list, kept in ``data.json``, wherever their folder is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcs_nas.config import Config, DataConfig, DataSource
from dcs_nas.data.datasets.listing import get_status
from dcs_nas.data.records import ReidDataset
from dcs_nas.errors import InputError
from dcs_nas.settings import Settings, make_absolute, parse

DATA_FILE = "data.json"
_SHOWN = 8  # characters


class SourceRecord(Settings):
    """A data set as a run has read it: its folder, the number and fingerprint of its images, and its division.

    ``division`` is empty in the record of an older version.
    """

    name: str
    root: Path
    options: dict[str, Any] = {}
    images: int
    fingerprint: str
    division: str = ""
    trained: bool = True

    @property
    def short(self) -> str:
        return self.fingerprint[:_SHOWN]

    def is_same(self, other: SourceRecord) -> bool:
        """Return whether the images are the same, and the images to train on as far as they are recorded."""
        divided = not (self.division and other.division) or self.division == other.division
        return divided and self.fingerprint == other.fingerprint

    def __str__(self) -> str:
        return f"{self.images:,} images, fingerprint {self.short}"


def record_source(source: DataSource, dataset: ReidDataset, *, trained: bool = True) -> SourceRecord:
    """Return the record of ``source``, loaded as ``dataset``; ``trained`` if it is trained on, not only tested on.

    The fingerprint is the SHA-256 of paths below the root, labels and sizes in bytes of all images, in order of the
    paths: it does not depend on the folder's place or the order of its listing. No image is opened. The division is the
    SHA-256 of the paths of the images to train on.

    Raises:
        InputError: a listed image is absent.
    """
    lines = {
        f"{r.path}\0{r.identity}\0{r.camera}\0{get_status(dataset.root / r.path).st_size}\n" for r in dataset.records
    }
    return SourceRecord(
        name=source.name,
        root=make_absolute(source.root or dataset.root),
        options=source.options,
        images=len({r.path for r in dataset.records}),
        fingerprint=_digest(lines),
        division=_digest({f"{r.path}\n" for r in dataset.train}),
        trained=trained,
    )


def read_sources(folder: Path) -> list[SourceRecord]:
    """Return the records of the run in ``folder``; an empty list for a run of an older version."""
    path = folder / DATA_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return [parse(SourceRecord, source, source=str(path)) for source in data.get("sources", [])]
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it, or train the run again") from None


def require_same_images(folder: Path, now: Sequence[SourceRecord]) -> None:
    """Raise ``InputError`` where a run that is resumed began with other images."""
    for then, current in zip(read_sources(folder), now):
        if not then.is_same(current):
            raise InputError(
                f"{folder} began with other images of {then.name} ({then}, in {then.root}) than {current.root} holds "
                f"({current}), or divides them otherwise; resume with the same images, or use --overwrite"
            )


def at_recorded_roots(config: Config, folder: Path) -> Config:
    """Return the settings of the run in ``folder``; data folders that are absent are replaced by the recorded ones."""
    data, records = config.data, read_sources(folder)
    named: list[DataConfig | DataSource] = [data, *data.also, *([data.test] if data.test is not None else [])]
    if len(records) != len(named):
        return config
    roots = [
        record.root if source.root is None or not make_absolute(source.root).exists() else source.root
        for source, record in zip(named, records)
    ]
    also = tuple(source.model_copy(update={"root": root}) for source, root in zip(data.also, roots[1:]))
    test = data.test and data.test.model_copy(update={"root": roots[-1]})
    changed = data.model_copy(update={"root": roots[0], "also": also, "test": test})
    return config.model_copy(update={"data": changed})


def _digest(lines: set[str]) -> str:
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
