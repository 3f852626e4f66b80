"""Occluded-Duke."""

from __future__ import annotations

from pathlib import Path

from dcs_nas.data.datasets.facts import Facts
from dcs_nas.data.datasets.named_boxes import load_named_boxes
from dcs_nas.data.datasets.registry import DATASETS
from dcs_nas.data.records import ReidDataset

_FACTS = Facts(train=(702, 15_618), query=(519, 2_210), gallery=(1_110, 17_661), distractors=0, cameras=8)


@DATASETS.register("occluded_duke")
def occluded_duke(root: Path) -> ReidDataset:
    """Occluded-Duke: DukeMTMC-reID split anew so that every query is occluded.

    Miao, Wu, Liu, Ding, Yang: Pose-Guided Feature Alignment for Occluded Person Re-Identification, ICCV 2019.

    ROOT, or a folder occluded_duke* below it, as the authors' script makes it out of DukeMTMC-reID:
        bounding_box_train/   0001_c2_f0046182.jpg ...   702 people, 15,618 images
        query/                0005_c2_f0046985.jpg ...   519 people, 2,210 images
        bounding_box_test/    0002_c1_f0044158.jpg ...   1,110 people, 17,661 images

    Options: none
    """
    return load_named_boxes(
        root,
        name="occluded_duke",
        title="Occluded-Duke",
        aliases=("occludedduke",),
        example="0001_c2_f0046182.jpg",
        facts=_FACTS,
    )
