"""The published derivation rule against a reading of it word by word."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from dcs_nas.models.cell_kind import CellKind
from dcs_nas.space import AnyGenotype, CellStructure, NetworkSpec, Origin, SpaceReference, edge_index
from dcs_nas.strategies.derive import draw_likely
from dcs_nas.strategies.record import alpha_entropy

OPERATIONS = ["none", "skip_connect", "sep_conv_3x3", "dcs"]


def _by_the_word(weights: torch.Tensor, nodes: int, keep: int) -> list[set[tuple[int, str]]]:
    """Strength of an edge: its largest weight but that of none. The strongest edges of each node stay."""
    kept = []
    for node in range(nodes):
        strengths = []
        for source in range(node + 2):
            row = weights[edge_index(node, source)]
            candidates = [(float(row[k]), op) for k, op in enumerate(OPERATIONS) if op != "none"]
            strength, op = max(candidates)
            strengths.append((strength, source, op))
        strengths.sort(reverse=True)
        kept.append({(source, op) for _, source, op in strengths[:keep]})
    return kept


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_the_strongest_edges_and_operations_stay(seed: int, keep: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    structure = CellStructure(nodes=4, edges_per_node=keep, operations=OPERATIONS, attention=["none", "dcs"])
    network = NetworkSpec(channels=4, cells=1, height=8, width=8)
    weights = {"normal": torch.rand(14, 4, generator=generator), "normal_attention": torch.tensor([[0.4, 0.6]])}
    cell = CellKind().derive(weights, SpaceReference.of(structure, "s"), network, origin=Origin()).cells["normal"]
    assert [{(e.source, e.op) for e in edges} for edges in cell.nodes] == _by_the_word(weights["normal"], 4, keep)
    assert cell.attention == "dcs"


def test_draws_keep_the_weights_of_edges() -> None:
    operations = ("skip_connect", "sep_conv_3x3")
    structure = CellStructure(nodes=1, edges_per_node=1, operations=operations, attention=["none"])
    network = NetworkSpec(channels=4, cells=1, height=8, width=8)
    space = SpaceReference.of(structure, "s")
    edges = torch.tensor([[0.999], [0.001]])  # partial channels with edge normalization
    weights = {"normal": edges * torch.tensor([[0.5, 0.5]]), "normal_attention": torch.ones(1, 1)}

    def derive(drawn: Mapping[str, torch.Tensor]) -> AnyGenotype:
        torch.testing.assert_close(drawn["normal"].sum(1).float(), edges[:, 0])
        return CellKind().derive(drawn, space, network, origin=Origin())

    drawn = draw_likely(weights, derive, candidates=4, seed=0)
    assert {edge.source for one in drawn for edge in one.cells["normal"].nodes[0]} == {0}
    assert {edge.op for one in drawn for edge in one.cells["normal"].nodes[0]} == {*operations}


def test_entropy_is_one_for_equal_weights_and_zero_for_a_decision() -> None:
    assert alpha_entropy({"a": torch.full((3, 4), 0.25)})["a"] == pytest.approx(1)
    assert alpha_entropy({"a": torch.eye(4)})["a"] == pytest.approx(0, abs=1e-6)
    assert alpha_entropy({"a": torch.ones(1, 1)})["a"] == 0
