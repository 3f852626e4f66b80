"""``load_published``: networks of published state dicts give the published values, and other states are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dcs_nas
from dcs_nas.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


def published(name: str) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        held = {key: arrays[key] for key in arrays.files}
    state = {key.removeprefix("state/"): torch.from_numpy(held[key]) for key in held if key.startswith("state/")}
    return state, {key: array for key, array in held.items() if not key.startswith("state/")}


def transreid_options(held: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: held[name] for name in ("size", "stride", "heads", "shift", "groups", "sie")}


def relative_error(ours: Tensor, theirs: np.ndarray) -> float:
    expected = torch.from_numpy(theirs)
    return ((ours - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def test_msinet_gives_the_published_test_feature() -> None:
    state, held = published("msinet")
    network = dcs_nas.load_published("msinet", state, genotype=held["genotype"], channels=held["channels"])
    assert relative_error(network(torch.from_numpy(held["x"])), held["feature_eval"]) < 1e-5


@torch.no_grad()
def test_transreid_gives_the_published_feature_before_the_neck() -> None:
    state, held = published("transreid")
    network = dcs_nas.load_published("transreid", state, **transreid_options(held))
    feature = network(torch.from_numpy(held["x"]), torch.from_numpy(held["cameras"]))
    assert relative_error(feature, held["feature_before_neck"]) < 1e-5


def test_unknown_names_and_options_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="unknown published network 'msnet'; did you mean msinet"):
        dcs_nas.load_published("msnet", {})
    with pytest.raises(InputError, match="'msinet' has no option 'genotypes'; did you mean genotype"):
        dcs_nas.load_published("msinet", {}, genotypes=[])
    with pytest.raises(InputError, match="'hacnn' has no option 'height'; it has none"):
        dcs_nas.load_published("hacnn", {}, height=160)
    with pytest.raises(InputError, match="'rga' needs the option height"):
        dcs_nas.load_published("rga", {}, width=8)


@pytest.mark.parametrize("name", ["hacnn", "msinet", "transreid"])
def test_a_state_of_another_network_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="state: no .*; expected .*strip any prefix"):
        dcs_nas.load_published(name, {"conv.weight": torch.ones(2)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": [16, 64, 96, 256]}, r"'.*' has shape .*; expected .*: check the sizes given"),
        ({"genotype": ["exc"] * 12}, "names not expected: cells.0._op2.fc1.bias"),
        ({"genotype": ["exc"] * 11}, "expected 12 names"),
    ],
)
def test_options_that_do_not_fit_msinets_state_are_refused(changed: dict[str, Any], message: str) -> None:
    state, held = published("msinet")
    options = {"genotype": held["genotype"], "channels": held["channels"]} | changed
    with pytest.raises(InputError, match=message):
        dcs_nas.load_published("msinet", state, **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": (256, 128)}, "has 10 patch positions; expected 210 for images of 256 x 128: check size and stride"),
        ({"size": 64}, "expected \\(height, width\\) and one stride"),
        ({"stride": (12, 16)}, "expected \\(height, width\\) and one stride"),
        ({"heads": 7}, "7 heads do not divide its 96 features"),
        ({"shift": 0}, "shift is 0"),
    ],
)
def test_options_that_do_not_fit_transreids_state_are_refused(changed: dict[str, Any], message: str) -> None:
    state, held = published("transreid")
    with pytest.raises(InputError, match=message):
        dcs_nas.load_published("transreid", state, **(transreid_options(held) | changed))
