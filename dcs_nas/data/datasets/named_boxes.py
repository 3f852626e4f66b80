"""Folders of cropped images whose names begin with PERSON_cCAMERA, as Market-1501 introduced them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dcs_nas.data.datasets.facts import Facts
from dcs_nas.data.datasets.files import find_root, list_images
from dcs_nas.data.datasets.problems import report
from dcs_nas.data.records import JUNK, Record, ReidDataset

MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
_NAME = re.compile(r"(-1|[0-9]{1,9})_c([0-9]{1,4})(?![0-9])")


def load_named_boxes(
    root: Path,
    *,
    name: str,
    title: str,
    aliases: tuple[str, ...],
    example: str,
    facts: Facts,
    folders: tuple[str, str, str] = MARKET_FOLDERS,
) -> ReidDataset:
    """A data set of three folders (training, query, gallery) of images named PERSON_cCAMERA...

    ``aliases`` are what its folder may be called below ``root``; ``example`` is a real file name, for error lines.
    """
    root = find_root(root, parts=folders, title=title, aliases=aliases)
    train, query, gallery = (named_records(list_images(root, folder), example=example) for folder in folders)
    return with_deviations(ReidDataset(name, root, train, query, gallery, version=title), facts)


def named_records(paths: Iterable[str], *, example: str) -> tuple[Record, ...]:
    """The records of images named PERSON_cCAMERA..., junk (person -1) dropped, cameras from 0."""
    records = []
    for path in paths:
        match = _NAME.match(path.rpartition("/")[2])
        if match is None or int(match[2]) == 0:
            expected = f"PERSON_cCAMERA..., the camera from 1, such as {example}"
            report("unparsable name", f"the image name {path} does not parse; expected {expected}: rename or remove it")
        elif int(match[1]) != JUNK:
            records.append(Record(path, int(match[1]), int(match[2]) - 1))
    return tuple(records)


def with_deviations(dataset: ReidDataset, facts: Facts) -> ReidDataset:
    """The data set with its deviations from the published facts among its notes."""
    return replace(dataset, notes=dataset.notes + facts.deviations(dataset))
