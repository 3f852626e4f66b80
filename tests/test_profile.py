"""Profiles: rows and totals by hand, and the command on everything that it may be pointed at."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.cell_space import build_fixed_network
from dcs_nas.models.flops import count
from dcs_nas.models.latency import LatencyTable
from dcs_nas.models.network_profile import profile
from dcs_nas.space import CellStructure, Genotype, NetworkSpec, SpaceReference
from tests.command_line import refused, run_command

CPU = torch.device("cpu")


class Small(nn.Module):
    """Images (B, 3, 8, 4) through a convolution, norm and ReLU to 5 channels, and one more convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU())
        self.own = nn.Parameter(torch.ones(2, 5, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(self.body(x), self.own)


def test_rows_and_totals_are_those_of_a_count_by_hand() -> None:
    places, number = 8 * 4, 4  # bytes of a number
    found = profile(Small(), 8, 4, device=CPU, batch=3, depth=2, rounds=2)
    rows = {row.name: row for row in found.layers}
    assert list(rows) == ["", "body", "body.0", "body.1", "body.2"]
    assert [row.output for row in found.layers] == [(2, 8, 4), *[(5, 8, 4)] * 4]
    assert [row.parameters for row in found.layers] == [10, 0, 15, 10, 0]
    assert [row.macs for row in found.layers] == [places * 10, 0, places * 15, 0, 0]
    assert rows["body.0"].activation_bytes == places * 3 * number  # the images
    statistics = round(2 * 5 * number / 3)  # mean and deviation, once for the batch of 3
    assert rows["body.1"].activation_bytes == places * 5 * number + statistics
    assert rows["body.2"].activation_bytes == places * 5 * number
    assert rows[""].activation_bytes == 0  # the second convolution reads what the ReLU keeps
    assert (found.parameters, found.macs) == (35, places * 25)
    assert found.activation_bytes == sum(row.activation_bytes for row in found.layers)
    assert found.microseconds is not None
    assert found.microseconds > 0
    assert all(row.microseconds is not None and row.microseconds > 0 for row in found.layers)
    assert (found.batch, found.rounds, found.height, found.width) == (3, 2, 8, 4)


def test_modules_below_the_depth_are_added_up() -> None:
    deep, flat = (profile(Small(), 8, 4, device=CPU, depth=depth, rounds=1).layers for depth in (2, 1))
    assert [row.name for row in flat] == ["", "body"]
    for amount in ("parameters", "macs", "activation_bytes"):
        inside = sum(getattr(row, amount) for row in deep if row.name.startswith("body"))
        assert abs(getattr(flat[1], amount) - inside) <= 1  # rounded bytes
    assert flat[1].kind == "Sequential"


@pytest.mark.parametrize("name", ["resnet10_small", "vit_small"])
def test_rows_add_up_to_the_cost_of_the_network(name: str) -> None:
    options = {"cameras": 3, "drop_path": 0.0} if name == "vit_small" else {}
    network = BACKBONES[name](height=64, width=32, **options)
    found, cost = profile(network, 64, 32, device=CPU, rounds=0, depth=3), count(network, 64, 32)
    assert sum(row.parameters for row in found.layers) == found.parameters == cost.parameters
    assert sum(row.macs for row in found.layers) == found.macs == cost.macs
    assert found.activation_bytes > 0
    assert found.microseconds is None
    assert all(row.microseconds is None for row in found.layers)


def test_profiling_changes_nothing() -> None:
    network = Small().train()
    network.body[2].eval()
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    profile(network, 8, 4, device=CPU, rounds=1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.body] == [True, True, False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), generator)


# The command


def _profiled(capsys: pytest.CaptureFixture, folder: Path, *arguments: object) -> dict:
    code, _, err = run_command(
        capsys, "profile", *arguments, "--rounds", 0, "--device", "cpu", "--json", folder / "found.json"
    )
    assert code == 0, err
    return json.loads((folder / "found.json").read_text())


def _small_genotype() -> Genotype:
    operations = ["none", "sep_conv_3x3", "max_pool_3x3"]
    structure = CellStructure(nodes=1, operations=operations, attention=["none", "dcs"])
    network = NetworkSpec(channels=4, cells=3, reductions=(1, 2), height=32, width=16)
    nodes = [[{"op": "sep_conv_3x3", "from": 0}, {"op": "max_pool_3x3", "from": 1}]]
    cells = {"normal": {"nodes": nodes, "attention": "dcs"}, "reduce": {"nodes": nodes}}
    return Genotype(space=SpaceReference.of(structure, "small"), network=network, cells=cells)


@pytest.fixture
def genotype(tmp_path: Path) -> Path:
    path = tmp_path / "genotype.yaml"
    path.write_text(_small_genotype().to_yaml())
    return path


def test_a_genotype_is_profiled_at_its_own_or_another_size(
    capsys: pytest.CaptureFixture, genotype: Path, tmp_path: Path
) -> None:
    fixed = count(build_fixed_network(_small_genotype()), 32, 16)
    found = _profiled(capsys, tmp_path, genotype)
    assert (found["parameters"], found["macs"]) == (fixed.parameters, fixed.macs)
    assert [row["name"] for row in found["layers"]][:3] == ["", "stem", "stem.layers"]
    wider = _profiled(capsys, tmp_path, genotype, "--channels", 8, "--cells", 6, "--height", 64)
    assert "6 cells of space small, width 8, stem" in wider["title"]
    assert wider["parameters"] > found["parameters"]


def test_the_table_shows_every_row_and_the_totals(
    capsys: pytest.CaptureFixture, genotype: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run_command(
        capsys, "profile", genotype, "--rounds", 1, "--depth", 1, "--device", "cpu", "--threads", 1
    )
    assert code == 0
    for word in ("stem", "cells", "attention", "total", "parameters", "FLOPs (M)", "latency (ms)"):
        assert word in out
    assert f"{count(build_fixed_network(_small_genotype()), 32, 16).parameters:,}" in out
    assert "batch 1, median of 1" in err


def test_a_configuration_with_a_backbone_stands_for_it(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    override = ["-o", "retrain.backbone_options={attention: dcs}"]
    found = _profiled(capsys, tmp_path, "attention_blocks", *override, "--height", 32, "--depth", 1)
    assert found["title"] == "resnet10_small of attention_blocks, images 32 x 32"
    assert found["macs"] == count(BACKBONES["resnet10_small"](height=32, width=32, attention="dcs"), 32, 32).macs


def test_a_configuration_of_a_search_stands_for_its_supernet(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    space = {
        "cells": 3,
        "channels": 4,
        "nodes": 1,
        "operations": ["none", "sep_conv_3x3"],
        "attention": ["none", "dcs"],
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(space))
    (tmp_path / "job.yaml").write_text(f"search: {{space: {tmp_path / 'tiny.yaml'}}}\n")
    options = ["--channels", 2, "--height", 16, "--width", 16, "--rounds", 0, "--json", tmp_path / "found.json"]
    code, out, _ = run_command(capsys, "profile", tmp_path / "job.yaml", *options)
    assert code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["title"] == f"supernet of {tmp_path / 'tiny.yaml'}, images 16 x 16"
    assert "space.cells.0" in [row["name"] for row in found["layers"]]
    for words in (
        "candidates: the mean",
        "sep_conv_3x3",
        "normal attention",
        "networks of this space",
        "multiply-adds",
    ):
        assert words in out


def test_run_folders_are_profiled_as_what_they_searched_or_trained(
    capsys: pytest.CaptureFixture, genotype: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    data = "data: {height: 32, width: 16}\n"
    (run / "config.yaml").write_text(f"name: a\n{data}search: {{space: demo_cells}}\nretrain: {{channels: 6}}\n")
    assert "has no genotype.yaml yet; finish the run with --resume" in refused(capsys, "profile", run)
    (run / "genotype.yaml").write_text(genotype.read_text())
    assert ", width 4," in _profiled(capsys, tmp_path, run)["title"]
    (run / "finished.yaml").write_text("epochs: 1\n")
    assert ", width 6," in _profiled(capsys, tmp_path, run)["title"]
    (run / "genotype.yaml").unlink()
    (run / "config.yaml").write_text(f"name: a\n{data}retrain: {{backbone: resnet10_small}}\n")
    assert _profiled(capsys, tmp_path, run)["title"].startswith("resnet10_small of ")


def test_a_latency_table_is_measured_once_and_kept(
    capsys: pytest.CaptureFixture, genotype: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tables" / "latency.yaml"
    options = ["--rounds", 1, "--depth", 1, "--device", "cpu", "--latency-table", file]
    code, _, err = run_command(capsys, "profile", genotype, *options)
    assert code == 0
    assert f"-o search.cost.kind=latency -o search.cost.latency_table={file}" in err
    first = LatencyTable.read(file)
    assert "sep_conv_3x3 stride 2 8x16x8 to 8x8x4" in first.microseconds
    assert all(value >= 0 for value in first.microseconds.values())
    assert "was measured before" in run_command(capsys, "profile", genotype, *options)[2]
    assert LatencyTable.read(file) == first
    assert "has batch '1', not '2'; give another file, or use --overwrite" in refused(
        capsys, "profile", genotype, *options, "--batch", 2
    )
    assert run_command(capsys, "profile", genotype, *options, "--batch", 2, "--overwrite")[0] == 0
    assert LatencyTable.read(file).batch == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such"], "there is no file no_such; known: "),
        (["market1501_retrain"], "names neither a search space (search.space) nor a backbone (retrain.backbone)"),
        (["attention_blocks", "--channels", 8], "--channels is 8, but backbone 'resnet10_small' has its own"),
        (["attention_blocks", "--latency-table", "t.yaml", "--rounds", 1], "belongs to no space"),
        (["demo", "--latency-table", "t.yaml", "--rounds", 0], "--latency-table needs rounds"),
        (["demo", "--device", "tpu"], "device 'tpu' cannot be used here"),
        (["demo", "--batch", 0], "--batch"),
    ],
)
def test_what_cannot_be_profiled_is_refused(
    capsys: pytest.CaptureFixture, arguments: list[object], message: str
) -> None:
    assert message in refused(capsys, "profile", *arguments)


def test_a_genotype_takes_no_overrides(capsys: pytest.CaptureFixture, genotype: Path) -> None:
    line = refused(capsys, "profile", genotype, "-o", "search.epochs=3")
    assert "is not a configuration, so -o search.epochs=3 has nothing to replace" in line
