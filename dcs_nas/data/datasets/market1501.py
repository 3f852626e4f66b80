"""Market-1501, its 500,000 distractors, and synthetic data sets of the same layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dcs_nas.data.datasets.facts import Facts
from dcs_nas.data.datasets.files import list_images
from dcs_nas.data.datasets.named_boxes import load_named_boxes, named_records
from dcs_nas.data.datasets.registry import DATASETS
from dcs_nas.data.records import DISTRACTOR, Record, ReidDataset

_EXAMPLE = "0002_c1s1_000451_03.jpg"
_FACTS = Facts(train=(751, 12_936), query=(750, 3_368), gallery=(750, 15_913), distractors=2_798, cameras=6)
_500K = 500_000


@DATASETS.register("market1501")
def market1501(root: Path, *, distractors_500k: bool = False) -> ReidDataset:
    """Market-1501: 1,501 people, 6 cameras, 32,668 boxes found by a detector.

    Zheng, Shen, Tian, Wang, Wang, Tian: Scalable Person Re-identification: A Benchmark, ICCV 2015.

    ROOT, or a folder market* below it:
        bounding_box_train/   0002_c1s1_000451_03.jpg ...   751 people, 12,936 images
        query/                0001_c1s1_001051_00.jpg ...   750 people, 3,368 images
        bounding_box_test/    -1_c1s1_000401_03.jpg ...     19,732 images: 3,819 junk (person -1, left out),
                                                            2,798 distractors (0000), 13,115 of 750 people
        images/               the 500,000 distractors, where the option asks for them

    Options:
        distractors_500k (true or false, default false): put the images of images/ into the gallery too
    """
    dataset = load_named_boxes(
        root,
        name="market1501",
        title="Market-1501",
        aliases=("market",),
        example=_EXAMPLE,
        facts=_FACTS,
    )
    return _with_500k(dataset) if distractors_500k else dataset


@DATASETS.register("synthetic")
def synthetic(root: Path) -> ReidDataset:
    """Any data set in Market-1501 layout of which nothing was published, such as those `dcs-nas synth` draws.

    ROOT, or a folder synth* below it:
        bounding_box_train/   0002_c1s1_000451_03.jpg ...
        query/                0003_c2s1_000151_00.jpg ...
        bounding_box_test/    with junk (person -1, left out) and distractors (0000)

    Options: none
    """
    return load_named_boxes(
        root, name="synthetic", title="synthetic", aliases=("synth",), example=_EXAMPLE, facts=Facts()
    )


def _with_500k(dataset: ReidDataset) -> ReidDataset:
    """The gallery extended by every image of images/, which show nobody of the test set whatever they are called."""
    extra = tuple(
        Record(r.path, DISTRACTOR, r.camera)
        for r in named_records(list_images(dataset.root, "images"), example=_EXAMPLE)
    )
    found = len(extra)
    notes = () if found == _500K else (f"images of the 500k distractors: {found:,} found, {_500K:,} published",)
    return replace(
        dataset,
        gallery=dataset.gallery + extra,
        version=f"{dataset.version} + 500k distractors",
        notes=dataset.notes + notes,
    )
