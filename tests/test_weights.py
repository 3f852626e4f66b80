"""Weights files of other projects: what loads, what is reported, what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES, Backbone
from dcs_nas.models.backbones.vit import VisionTransformer
from dcs_nas.models.interop import load_hacnn
from dcs_nas.models.weights import load_weights


class Small(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)


def resnet18(**options: object) -> Backbone:
    return BACKBONES["resnet18"](height=32, width=16, **options)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def arrays_of(module: nn.Module) -> Any:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def test_a_plain_state_dict_loads_whole(tmp_path: Path) -> None:
    source, target = Small(), Small()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    assert set(report.matched) == set(source.state_dict())
    assert report.skipped == {}
    assert report.missing == ()
    for name, tensor in target.state_dict().items():
        torch.testing.assert_close(tensor, source.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_nested_state_dicts_and_one_prefix_are_seen_through(tmp_path: Path, nest: str, prefix: str) -> None:
    source, target = Small(), Small()
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    torch.save({nest: state, "epoch": 3, "rank1": np.float64(0.9), "best": np.float32(0.5)}, tmp_path / "w.pth.tar")
    report = load_weights(target, tmp_path / "w.pth.tar")
    assert len(report.matched) == len(state)
    torch.testing.assert_close(target.conv.weight, source.conv.weight)


def test_a_classifier_of_other_classes_is_skipped_with_the_reason(tmp_path: Path) -> None:
    torch.save(Small(751).state_dict(), tmp_path / "w.pth")
    target = Small(5)
    before = target.fc.weight.clone()
    report = load_weights(target, tmp_path / "w.pth")
    assert report.skipped == {
        "fc.weight": "its shape is (751, 4), the network's (5, 4)",
        "fc.bias": "its shape is (751,), the network's (5,)",
    }
    assert report.missing == ("fc.weight", "fc.bias")
    assert torch.equal(target.fc.weight, before)
    assert report.summary() == (
        "7 tensors loaded; skipped from the file: fc.weight, fc.bias; not in the file: fc.weight, fc.bias"
    )


def test_names_that_the_network_lacks_are_skipped_and_absent_counters_are_not_missed(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in tensors_of(Small()).items() if "num_batches" not in name}
    torch.save({**state, "head.weight": torch.ones(2)}, tmp_path / "w.pth")
    report = load_weights(Small(), tmp_path / "w.pth")
    assert report.skipped == {"head.weight": "the network has no parameter of this name"}
    assert report.missing == ()


def test_names_outside_the_prefix_do_not_overwrite_those_inside(tmp_path: Path) -> None:
    source = Small()
    state = {f"base.{name}": tensor for name, tensor in tensors_of(source).items()}
    torch.save({**state, "fc.weight": torch.full((5, 4), 7.0)}, tmp_path / "w.pth")
    target = Small()
    report = load_weights(target, tmp_path / "w.pth")
    assert set(report.skipped) == {"fc.weight"}
    torch.testing.assert_close(target.fc.weight, source.fc.weight)


def test_half_precision_files_load_into_a_float_network(tmp_path: Path) -> None:
    source, target = Small(), Small()
    torch.save(
        {name: t.half() if t.is_floating_point() else t for name, t in tensors_of(source).items()}, tmp_path / "w"
    )
    load_weights(target, tmp_path / "w")
    assert target.conv.weight.dtype == torch.float32
    torch.testing.assert_close(target.conv.weight, source.conv.weight.half().float())


def test_npz_and_safetensors_files_load(tmp_path: Path) -> None:
    source = Small()
    np.savez(tmp_path / "w.npz", **arrays_of(source))
    write_safetensors(tmp_path / "w.safetensors", tensors_of(source))
    for name in ("w.npz", "w.safetensors"):
        target = Small()
        assert len(load_weights(target, tmp_path / name).matched) == 9
        torch.testing.assert_close(target.conv.weight, source.conv.weight)


def test_attention_keeps_its_start_when_a_plain_backbone_is_loaded(tmp_path: Path) -> None:
    source = resnet18()
    torch.save(
        {**tensors_of(source), "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}, tmp_path / "r.pth"
    )
    target = resnet18(attention="dcs").eval()
    report = load_weights(target, tmp_path / "r.pth")
    assert set(report.skipped) == {"fc.weight", "fc.bias"}
    assert report.missing
    assert all(name.startswith("attention.") for name in report.missing)
    x = torch.randn(2, 3, 32, 16)
    torch.testing.assert_close(target(x), source.eval()(x), rtol=1e-5, atol=1e-5)


def vit(height: int, width: int) -> VisionTransformer:
    return VisionTransformer(height=height, width=width, embedding=24, depth=2, heads=3)


def test_position_embeddings_of_a_square_grid_are_resized_bilinearly(tmp_path: Path) -> None:
    source, target = vit(64, 64), vit(48, 32)
    torch.save({"model": {f"base.{name}": t for name, t in tensors_of(source).items()}}, tmp_path / "v.pth")
    report = load_weights(target, tmp_path / "v.pth")
    assert report.skipped == {}
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    grid = target.pos_embed[0, 1:].reshape(3, 2, 24)
    for row in range(3):
        for column in range(2):
            expected = bilinear(source.pos_embed[0, 1:].reshape(4, 4, 24), (row + 0.5) * 4 / 3 - 0.5, column * 2 + 0.5)
            torch.testing.assert_close(grid[row, column], expected)


def bilinear(table: Tensor, row: float, column: float) -> Tensor:
    """The table at fractional indices inside it, by the definition."""
    top, left = int(row), int(column)
    down, right = row - top, column - left
    below, beside = min(top + 1, len(table) - 1), min(left + 1, table.shape[1] - 1)
    upper = (1 - right) * table[top, left] + right * table[top, beside]
    lower = (1 - right) * table[below, left] + right * table[below, beside]
    return (1 - down) * upper + down * lower


def test_position_embeddings_of_another_oblong_grid_are_skipped(tmp_path: Path) -> None:
    torch.save(tensors_of(vit(64, 32)), tmp_path / "v.pth")
    report = load_weights(vit(48, 32), tmp_path / "v.pth")
    assert report.skipped == {"pos_embed": "its shape is (1, 9, 24), the network's (1, 7, 24)"}
    assert report.missing == ("pos_embed",)


class Bomb:
    def __reduce__(self) -> tuple:
        return (print, ("this must not run",))


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"state_dict": Small().state_dict(), "x": Bomb()}, tmp_path / "w.pth")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("w.pth", "w.pkl"):
        with pytest.raises(
            InputError, match="cannot be read: it is no pickle, or one that needs code to be run"
        ) as caught:
            load_weights(Small(), tmp_path / name)
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ending", ["pth", "npz", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.9])
def test_truncated_files_give_one_line(tmp_path: Path, ending: str, kept: float) -> None:
    path = tmp_path / f"w.{ending}"
    state = tensors_of(Small())
    if ending == "pth":
        torch.save(state, path)
    elif ending == "npz":
        np.savez(path, **arrays_of(Small()))
    else:
        write_safetensors(path, state)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_weights(Small(), path)
    assert "\n" not in str(caught.value)


def test_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", x=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(Small(), tmp_path / "w.npz")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}, torch.ones(2)])
def test_files_without_tensors_by_name_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="without tensors by name; expected a state dict"):
        load_weights(Small(), tmp_path / "w.pth")


def test_a_missing_path_a_folder_and_a_text_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("not weights")
    for name, message in (("w.pth", "does not exist"), (".", "is a folder"), ("w.txt", "cannot be read")):
        with pytest.raises(InputError, match=message):
            load_weights(Small(), tmp_path / name)


def test_a_file_of_another_network_is_refused_with_names_of_both(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"fits Small: the file has layer\.weight; expected conv\.weight, conv\.bias"):
        load_weights(Small(), tmp_path / "w.pth")


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "golden" / "hacnn.npz") as arrays:
        return dict(arrays)


def hacnn_state(published: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name[6:]: torch.from_numpy(array) for name, array in published.items() if name.startswith("state/")}


def test_load_hacnn_gives_the_published_feature(published: dict[str, np.ndarray]) -> None:
    network = load_hacnn(hacnn_state(published))
    assert not network.training
    with torch.no_grad():
        feature = network(torch.from_numpy(published["x"]))
        halves = network.backbone(torch.from_numpy(published["x"]))
    expected = torch.from_numpy(published["feature_eval"])
    torch.testing.assert_close(feature, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.cat([F.normalize(half) for half in halves], dim=1), expected, rtol=1e-5, atol=1e-7)


def test_load_hacnn_reads_off_whether_there_is_a_local_branch(published: dict[str, np.ndarray]) -> None:
    state = {name: t for name, t in hacnn_state(published).items() if "local" not in name}
    feature = load_hacnn(state)(torch.from_numpy(published["x"]))
    assert feature.shape == (2, 24)


def test_load_hacnn_refuses_other_states(published: dict[str, np.ndarray]) -> None:
    state = hacnn_state(published)
    with pytest.raises(InputError, match=r"no matrix 'ha1\.hard_attn\.fc\.weight'"):
        load_hacnn({f"module.{name}": t for name, t in state.items()})
    with pytest.raises(InputError, match=r"names missing: conv\.bn\.bias"):
        load_hacnn({name: t for name, t in state.items() if name != "conv.bn.bias"})
    with pytest.raises(InputError, match=r"'conv\.conv\.weight' has shape \(8, 3, 3, 3\)"):
        load_hacnn({**state, "conv.conv.weight": torch.ones(8, 3, 3, 3)})


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, tensor in tensors.items():
        blob = tensor.numpy().tobytes()
        offsets = [offset, offset + len(blob)]
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
