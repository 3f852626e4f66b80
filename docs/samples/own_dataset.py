"""A data set in another format: train, query and gallery hold images IDENTITY-CAMERA-NUMBER.jpg."""

from dcs_nas.data.datasets import DATASETS
from dcs_nas.data.datasets.labels import LabelledImage, from_labels


@DATASETS.register("dashes")
def dashes(root, *, suffix: str = ".jpg"):
    """Images SPLIT/IDENTITY-CAMERA-NUMBER.jpg; suffix (default .jpg) is what their names end with."""
    images = []
    for split in ("train", "query", "gallery"):
        for file in sorted((root / split).glob(f"*{suffix}")):
            identity, camera, _ = file.stem.split("-")
            images.append(LabelledImage(f"{split}/{file.name}", identity, camera, split))
    return from_labels(images, name="dashes", root=root, version=f"dashes {root.name}", protocol="cross_camera")
