"""Loaders of data sets: one file per format of a benchmark, two for user-supplied images, one for classes of images.

To add one, write a function that takes the root folder and keyword options and returns a `ReidDataset`, register it in
`DATASETS`, and import its module here.
"""

from dcs_nas.data.datasets import (  # noqa: F401  importing a module registers its loaders
    csv_list,
    cuhk03,
    image_folders,
    market1501,
    msmt17,
    occluded_reid,
)
from dcs_nas.data.datasets.loaders import DATASETS, check_options, describe, load_dataset

__all__ = ["DATASETS", "check_options", "describe", "load_dataset"]
