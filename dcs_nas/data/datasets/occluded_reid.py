"""Occluded-REID, a data set for tests only."""

from __future__ import annotations

from pathlib import Path

from dcs_nas.data.datasets.listing import describe_content, find_root, list_folders, list_images, pass_over_files
from dcs_nas.data.datasets.loaders import DATASETS, Facts, add_deviations, report
from dcs_nas.data.records import Record, ReidDataset

_TITLE = "Occluded-REID"
_QUERY, _GALLERY = "occluded_body_images", "whole_body_images"
_FACTS = Facts(query=(200, 1_000), gallery=(200, 1_000), cameras=2)


@DATASETS.register("occluded_reid")
def occluded_reid(root: Path) -> ReidDataset:
    """Occluded-REID: 200 identities, five occluded and five whole images of each; nothing to train on.

    Zhuo, Chen, Lai, Wang: Occluded Person Re-identification, ICME 2018. Models are usually trained on Market-1501.

    ROOT, or a folder occluded_reid* below it:
        occluded_body_images/   001/001_01.tif ...   200 identities, 1,000 images, the queries: camera 0
        whole_body_images/      001/001_01.tif ...   200 identities, 1,000 images, the gallery: camera 1
    The cameras are not known; the two kinds of image count as two cameras, so that no match is filtered out.

    Options: none
    """
    root = find_root(root, parts=(_QUERY, _GALLERY), title=_TITLE, aliases=("occludedreid",))
    query = _records(root, _QUERY, camera=0)
    gallery = _records(root, _GALLERY, camera=1)
    return add_deviations(ReidDataset("occluded_reid", root, (), query, gallery, version=_TITLE), _FACTS)


def _records(root: Path, kind: str, *, camera: int) -> tuple[Record, ...]:
    if not (root / kind).is_dir():
        report("missing part", f"no folder {kind} in {root}; found {describe_content(root)}")
        return ()
    pass_over_files(root, kind, "files beside the folders of identities")
    identities = [name for name in list_folders(root / kind) if _is_number(name, kind)]
    if not identities:
        report("missing part", f"{root / kind} holds no numbered folders; expected one for each identity, such as 001")
    images = ((path, identity) for identity in identities for path in list_images(root, f"{kind}/{identity}"))
    return tuple(Record(path, int(identity), camera) for path, identity in images)


def _is_number(name: str, kind: str) -> bool:
    if len(name) < 10 and name.isascii() and name.isdigit() and int(name) > 0:
        return True
    report(
        "unparsable name", f"the folder name {kind}/{name} does not parse; expected an identity's number, such as 001"
    )
    return False
