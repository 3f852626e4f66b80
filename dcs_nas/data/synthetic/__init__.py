"""Synthetic pedestrians: a person re-identification data set drawn from a seed, in Market-1501 layout.

An identity has body proportions, hair, clothes, patterns, shoes, bag and hat (``identity``). Every image adds a
walking pose (``pose``), a camera with its own scene, colours and sharpness (``camera``, ``scene``), occluders and an
inexact bounding box (``shot``). Colours come from a palette so small that they alone do not distinguish identities.
"""

from dcs_nas.data.synthetic.shot import SyntheticSettings
from dcs_nas.data.synthetic.writer import write_synthetic

__all__ = ["SyntheticSettings", "write_synthetic"]
