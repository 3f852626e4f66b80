"""Attention maps over images: what is noted of each block is what the block computes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.blocks import RGA, DCSAttention, build_attention
from dcs_nas.report.maps import _REGION_COLOURS, collect_maps, draw_attention_maps, has_attention, map_to_colours
from dcs_nas.training.evaluate import load_trained
from tests.run_folders import trained


def _after(block: nn.Module, channels: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), block).eval()


def test_dcs_is_noted_as_the_share_of_channels_that_each_token_keeps() -> None:
    block = DCSAttention(8)
    network = _after(block)
    images = torch.randn(2, 3, 6, 4)
    with collect_maps(network) as seen:
        network(images)
    (noted,) = seen
    assert (noted.block, noted.kind) == ("1", "dcs")
    x = network[0](images)
    for b, h, w in ((0, 0, 0), (1, 5, 3), (0, 2, 1)):
        logits = block.selector.weight @ x[b, :, h, w] + block.selector.bias
        assert float(noted.values[b, h, w]) == pytest.approx(int((logits > 0).sum()) / 8)


def test_harmonious_attention_is_noted_as_soft_mask_and_regions() -> None:
    block = build_attention("harmonious", 8, 8, 4)
    network = _after(block)
    images = torch.randn(2, 3, 8, 4)
    with collect_maps(network) as seen:
        network(images)
    found = {noted.kind: noted for noted in seen}
    assert set(found) == {"soft", "regions"}
    assert {noted.block for noted in seen} == {"1"}
    x = network[0](images)
    torch.testing.assert_close(found["soft"].values, block.soft_attn(x).mean(1))
    torch.testing.assert_close(found["regions"].values, block.hard_attn(x))


@pytest.mark.parametrize("max_nodes", [None, 10])
def test_rga_is_noted_as_weights_of_positions_and_channels(max_nodes: int | None) -> None:
    block = RGA(8, 6, 4, max_nodes=max_nodes)
    network = _after(block)
    images = torch.randn(2, 3, 6, 4)
    with collect_maps(network) as seen:
        network(images)
    positions, channels = seen
    assert (positions.kind, channels.kind) == ("rga", "channels")
    x = network[0](images)
    assert block.spatial is not None
    assert block.channel is not None
    if max_nodes is None:
        torch.testing.assert_close(positions.values, block._position_weights(x, block.spatial)[:, 0])
    else:
        assert positions.values.shape == (2, 3, 2)
    weighed = x * block._position_weights(x, block.spatial)
    torch.testing.assert_close(channels.values, block._channel_weights(weighed, block.channel)[:, :, 0, 0])


def test_nothing_is_noted_after_the_watch_has_ended() -> None:
    network = _after(DCSAttention(8))
    with collect_maps(network) as seen:
        pass
    network(torch.randn(1, 3, 4, 4))
    assert seen == []


def test_every_level_of_hacnn_is_noted() -> None:
    network = BACKBONES["hacnn"](height=64, width=32).eval()
    with collect_maps(network) as seen:
        network(torch.randn(1, 3, 64, 32))
    assert [noted.kind for noted in seen] == ["soft", "regions"] * 3


def test_networks_without_attention_are_told_apart() -> None:
    assert has_attention(_after(DCSAttention(8)))
    assert not has_attention(_after(nn.Identity()))


def test_heat_goes_from_dark_to_bright() -> None:
    colours = map_to_colours(np.linspace(0, 1, 33)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(colours) > 0).all()


def test_a_trained_run_gives_a_picture_for_each_image_and_block(people: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path / "retrain", people)
    found = draw_attention_maps(folder, count=3)
    assert found is not None
    assert len(found.names) == len(found.images) == 3
    assert len(set(found.names)) == 3
    titles = [(block.block, block.title.partition(":")[0]) for block in found.blocks]
    assert titles[0] == ("attention after cell 1", "DCS")
    assert {kind for _, kind in titles} == {"DCS", "HA"}
    for block in found.blocks:
        assert [picture.size for picture in block.pictures] == [(96, 192)] * 3
        if block.span is not None:
            assert 0 <= block.span[0] <= block.span[1] <= 1
    assert found.left_out == 0


def test_regions_are_drawn_where_the_network_looks(people: Path, tmp_path: Path) -> None:
    """A fresh block's centres are tanh((2t + 1) / T - 1): each box is found by the one colour that it alone has."""
    found = draw_attention_maps(trained(tmp_path / "retrain", people), count=1)
    assert found is not None
    pixels = np.asarray(next(block for block in found.blocks if block.span is None).pictures[0])
    _, network = load_trained(tmp_path / "retrain")
    regions = next(m.regions for name, m in network.named_modules() if name.endswith("hard_attn"))
    assert regions == 4
    for i in range(regions):
        colour = tuple(int(_REGION_COLOURS[i][k : k + 2], 16) for k in (1, 3, 5))
        rows, columns = np.nonzero((pixels == colour).all(2))
        middle = (math.tanh((2 * i + 1) / regions - 1) + 1) * 96
        assert rows.min() == pytest.approx(middle - 24, abs=2)
        assert rows.max() == pytest.approx(middle + 24, abs=2)
        assert columns.min() == pytest.approx(0, abs=2 + 2 * i)
        assert columns.max() == pytest.approx(95, abs=2 + 2 * i)


def test_without_attention_there_are_no_maps(people: Path, tmp_path: Path) -> None:
    assert draw_attention_maps(trained(tmp_path / "plain", people, attention=("none", "none")), count=1) is None


def test_maps_of_no_image_are_refused(people: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 0 images for attention maps, expected at least 1"):
        draw_attention_maps(trained(tmp_path / "run", people), count=0)
