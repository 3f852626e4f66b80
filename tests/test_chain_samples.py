"""The benchmark of the front of chains: its random networks have the size asked for, its extremes are extreme."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from _chain_samples import ChainSampler

from dcs_nas.models.chain_space import build_fixed_chain
from dcs_nas.models.flops import count
from tests.chains import chain_space, random_chain

SPACE = chain_space()
SAMPLER = ChainSampler(SPACE, SPACE.network(32, 16))


def test_multiply_adds_are_those_of_the_fixed_network() -> None:
    genotype = random_chain(SPACE, 0)
    assert SAMPLER.multiply_adds(genotype) == count(build_fixed_chain(genotype), 32, 16).macs


def test_no_network_is_smaller_or_larger_than_the_extremes() -> None:
    least, most = (SAMPLER.multiply_adds(SAMPLER.extreme(largest=largest)) for largest in (False, True))
    found = [SAMPLER.multiply_adds(random_chain(SPACE, seed)) for seed in range(20)]
    assert least < min(found)
    assert max(found) < most


def test_choices_are_tilted_until_the_expected_multiply_adds_are_those_wanted() -> None:
    least, most = (SAMPLER.multiply_adds(SAMPLER.extreme(largest=largest)) for largest in (False, True))
    wanted = least + 0.3 * (most - least)
    weights = {label: torch.from_numpy(row)[None] for label, row in SAMPLER.tilted(wanted).items()}
    assert float(SAMPLER.supernet.compute_expected_cost("flops", weights)) == pytest.approx(wanted, rel=1e-6)
    attention = [row for label, row in weights.items() if label.endswith("attention")]
    assert all(torch.allclose(row, row.mean()) for row in attention)


def test_random_networks_have_about_the_multiply_adds_wanted_and_differ_by_seed() -> None:
    wanted = SAMPLER.multiply_adds(random_chain(SPACE, 0))
    drawn = [SAMPLER.random(wanted, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(SAMPLER.multiply_adds(found) == pytest.approx(wanted, rel=0.03) for found in drawn)
    assert drawn[0] == drawn[1] != drawn[2]
