"""Backbones with published weights give the values of the published code, from the same state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.backbones.msinet import MSMT_GENOTYPE, MSINet, PublishedMSINet
from dcs_nas.models.heads import Embedding

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "fiu"}


def state_of(published: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("state/"): tensor for name, tensor in published.items() if name.startswith("state/")}


def require_close(ours: Tensor, published: Tensor, *, relative: float = 1e-5) -> None:
    """Of the largest published value."""
    torch.testing.assert_close(ours, published, rtol=0, atol=relative * published.abs().max().item())


def published_msinet() -> tuple[PublishedMSINet, dict[str, Tensor]]:
    published = golden("msinet")
    with np.load(GOLDEN / "msinet.npz") as arrays:
        assert tuple(arrays["genotype"].tolist()) == MSMT_GENOTYPE
    network = PublishedMSINet(7, channels=published["channels"].tolist())
    network.load_state_dict(state_of(published))
    return network, published


def test_msinet_gives_the_published_maps_features_and_gradients() -> None:
    network, published = published_msinet()
    x = published["x"].requires_grad_()
    feature = network.eval()(x)
    feature.square().sum().backward()
    assert x.grad is not None
    require_close(network.maps(x)[0], published["map_eval"])
    require_close(feature, published["feature_eval"])
    require_close(x.grad, published["grad_x_eval"])
    network.after_neck = True
    require_close(network(x), published["feature_eval_after_neck"])


def test_msinet_trains_on_the_published_features_and_scores() -> None:
    network, published = published_msinet()
    embedding = network.train()(published["x"])
    assert isinstance(embedding, Embedding)
    assert embedding.logits is not None
    # Batch statistics of 24 places a channel amplify rounding: the published float32 values are themselves 1.5e-4 and
    # 3.5e-4 away from this network in float64.
    require_close(embedding.features, published["feature_train"], relative=2e-4)
    require_close(torch.stack(embedding.logits), published["logits_train"], relative=5e-4)


def test_msinet_has_its_published_size() -> None:
    # Counted in vimar-gu/MSINet at 2a8845b: msinet_x1_0 without its two classifiers.
    network = PublishedMSINet(1)
    classifiers = sum(p.numel() for name, p in network.named_parameters() if "classifier" in name)
    assert sum(p.numel() for p in network.parameters()) - classifiers == 2_328_035


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genotype": ["ag"] * 11}, "expected 12 names of none, exc, ag, cross_att"),
        ({"genotype": "ag"}, "expected 12 names of none, exc, ag, cross_att"),
        ({"genotype": ["cros_att"] * 12}, "unknown interaction 'cros_att'; did you mean cross_att"),
        ({"channels": [16, 64, 96]}, "expected 4 numbers: of the stem and three stages"),
        ({"channels": [16, 64, 96, 130]}, r"MSINet's channels\[3\] is 130; expected a multiple of 4, at least 64"),
        ({"channels": [16, 32, 96, 128]}, r"MSINet's channels\[1\] is 32; expected a multiple of 4, at least 64"),
        ({"channels": [0, 64, 96, 128]}, r"MSINet's channels\[0\] is 0; expected a whole number of at least 1"),
    ],
)
def test_msinets_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BACKBONES["msinet"](height=64, width=32, **options)


def test_a_genotype_without_gates_may_be_narrow() -> None:
    network = MSINet(genotype=["exc", "none", "cross_att"] * 4, channels=[4, 8, 12, 16]).eval()
    assert [tuple(v.shape) for v in network(torch.randn(2, 3, 32, 32))] == [(2, 16), (2, 256)]
