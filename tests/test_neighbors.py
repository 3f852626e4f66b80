"""Neighbours of a genotype, and genotypes that are one network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcs_nas.models.space_kinds import kind_of
from dcs_nas.space import Origin, find_shipped_file, load_space
from dcs_nas.space.architectures import decode, encode
from dcs_nas.space.table import SIZE, TABLES
from dcs_nas.strategies.neighbors import Neighborhood
from tests.trial_searches import CHAIN


@pytest.mark.parametrize("name", [*TABLES, "msi"])
def test_neighbors_are_the_architectures_of_the_space_that_differ_in_one_choice(name: str) -> None:
    """Against every change of one of NNI's labels to a value that it has in some genotype."""
    space = load_space(find_shipped_file("search_spaces", name))
    network = space.network(*SIZE)
    kind, generator = kind_of(space), np.random.default_rng(0)
    drawn = [kind.random_genotype(space, network, generator, origin=Origin()) for _ in range(200)]
    options: dict[str, list[Any]] = {}
    for label, value in (pair for each in drawn for pair in each.to_sample().items()):
        if value not in options.setdefault(label, []):
            options[label].append(value)
    for genotype in drawn[:4]:
        sample, expected = genotype.to_sample(), set()
        for label, values in options.items():
            for value in values:
                changed = kind.genotype_of({**sample, label: value}, space, network, origin=Origin())
                expected.add(str(changed.one_hot()))
        found = list(Neighborhood(space, network, Origin()).random(genotype, np.random.default_rng(1)))
        assert len(found) == len({str(each.one_hot()) for each in found})
        assert {str(each.one_hot()) for each in found} == expected - {str(genotype.one_hot())}


def test_a_chains_left_out_blocks_have_no_choices_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(CHAIN)
    space = load_space(tmp_path / "chain.yaml")
    network = space.network(16, 8)
    skipped = decode("k3e1w8&skip+none", space, 16, 8)
    found = {encode(each) for each in Neighborhood(space, network, Origin()).random(skipped, np.random.default_rng(0))}
    assert found == {
        "k5e1w8&skip+none", "k3e2w8&skip+none", "k3e1w12&skip+none", "k3e1w8&k3e1w8+none", "k3e1w8&skip+dcs",
    }  # fmt: skip


def test_cells_that_differ_in_the_order_of_their_nodes_have_one_identity() -> None:
    space = load_space(find_shipped_file("search_spaces", "bench_cells"))
    texts = [
        "skip_connect~0|sep_conv_3x3~1+none",
        "sep_conv_3x3~1|skip_connect~0+none",
        "skip_connect~0|dil_conv_3x3~1+none",
    ]
    first, same, other = (decode(text, space, *SIZE).identity() for text in texts)
    assert first == same != other
