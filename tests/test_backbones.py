"""What every backbone keeps to: output, gradients, attention after its stages, and clear refusals."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES, Backbone, insert_attention, measure_stages
from dcs_nas.models.backbones.osnet import ChannelGate
from dcs_nas.models.blocks import ATTENTION
from dcs_nas.models.blocks.part_aware import PartAware
from dcs_nas.models.depthwise import PointwiseConv
from tests.backbones import FAMILIES, HEIGHT, WIDTH, without_values

# The cheapest images of which every stage keeps a map.
SIZES = dict.fromkeys(("hacnn", "msinet", "osnet_x1_0", "mobilenet_v2", "resnet18"), (64, 32))
DEFAULT_STAGES = {
    "hacnn": ("inception1", "inception2", "inception3"),
    "mobilenet_v2": ("stage2", "stage3", "stage4", "stage7"),
    **dict.fromkeys(("osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x0_25"), ("conv2", "conv3", "conv4")),
    "msinet": ("stage1", "stage2", "stage3"),
    **dict.fromkeys(("resnet18", "resnet50", "resnet50_b"), ("layer1", "layer2", "layer3", "layer4")),
    "transreid": ("block0", "block1"),
    **dict.fromkeys(("vit", "clip", "clip_reid", "dinov2"), ("block2", "block5", "block8")),
    "swin": ("0", "1", "2", "3"),
}
ATTENDED = [(name, "dcs") for name in FAMILIES] + [("resnet18", name) for name in ATTENTION if name != "dcs"]


def build(name: str, **options: Any) -> Backbone:
    height, width = SIZES.get(name, (32, 16))
    return BACKBONES[name](height=height, width=width, **options)


def images(name: str, batch: int) -> Tensor:
    return torch.randn(batch, 3, *SIZES.get(name, (32, 16)))


def vectors(output: Any) -> list[Tensor]:
    return list(output) if isinstance(output, tuple) else [output]


def wake_silent_branches(network: nn.Module) -> None:
    """Weights that start at 0 hide all that is before them from the loss, a gate of two hidden channels may."""
    for module in network.modules():
        if isinstance(module, PartAware):
            nn.init.normal_(module.fuse.weight)
        if isinstance(module, ChannelGate):
            module.fc1.weight.data.abs_()
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and not module.weight.any():
            nn.init.ones_(module.weight)


def keep_last_statistics(network: nn.Module) -> None:
    """Evaluation then sees every layer's outputs normed as the last training batch did: none of them is dead."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0


@pytest.mark.parametrize(("name", "attention"), ATTENDED)
def test_every_family_gives_what_it_states_and_trains_every_parameter(name: str, attention: str) -> None:
    torch.manual_seed(0)  # of other seeds some leave a layer without norm, OSNet's gate, dead behind its ReLU
    backbone = FAMILIES[name]()
    plain = set(backbone.state_dict())
    insert_attention(backbone, attention, None, HEIGHT, WIDTH)
    assert tuple(backbone.attention) == DEFAULT_STAGES[name]
    assert {key for key in backbone.state_dict() if not key.startswith("attention.")} == plain
    check_training(backbone)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_what_it_states(name: str) -> None:
    backbone = without_values(BACKBONES[name], height=HEIGHT, width=WIDTH).eval()
    with torch.no_grad():
        check_output(backbone, backbone(torch.randn(1, 3, HEIGHT, WIDTH)))
    strided = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) < m.stride]
    assert {type(m) for m in strided} <= {PointwiseConv}  # torch's own damages memory: pointwise


def check_training(backbone: Backbone) -> None:
    wake_silent_branches(backbone)
    keep_last_statistics(backbone)
    extra = (torch.tensor([0, 1, 2, 1]),) if backbone.cameras else ()
    x = torch.randn(4, 3, HEIGHT, WIDTH)
    # The batch's own statistics undo a shift or scale in front of them; those of evaluation let its gradient through.
    for training in (True, False):
        output = backbone.train(training)(x, *extra)
        check_output(backbone, output)
        torch.cat([(y * torch.randn_like(y)).flatten() for y in vectors(output)]).sum().backward()
    gradients = {place: parameter.grad for place, parameter in backbone.named_parameters()}
    assert [place for place, g in gradients.items() if g is None or not g.isfinite().all() or not g.any()] == []


def check_output(backbone: Backbone, output: Any) -> None:
    assert isinstance(output, tuple) == (backbone.kind == "vectors")
    assert vectors(output)[0].shape[1] == backbone.num_features
    for tensor in vectors(output):
        assert tensor.ndim == (4 if backbone.kind == "map" else 2)
        assert tensor.isfinite().all()


def test_a_stage_map_is_what_the_attention_there_is_given() -> None:
    backbone = BACKBONES["resnet18"](height=64, width=48)
    assert measure_stages(backbone, 64, 48) == {
        "layer1": (64, 16, 12),
        "layer2": (128, 8, 6),
        "layer3": (256, 4, 3),
        "layer4": (512, 4, 3),
    }


def test_asking_for_stage_maps_changes_nothing() -> None:
    backbone = build("resnet18", attention="dcs", attention_stages=["layer2"])
    layer1 = backbone.get_submodule("layer1").eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    measure_stages(backbone, 64, 32)
    assert list(backbone.attention) == ["layer2"]
    assert backbone.training
    assert not layer1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_attention_settings_reach_the_block_and_stages_may_differ() -> None:
    backbone = build("resnet18", attention="dcs", attention_stages=["layer1"], attention_settings={"tau": 2.5})
    insert_attention(backbone.eval(), "rga", ["layer3"], 64, 32, {"reduction": 4})
    assert backbone.attention["layer1"].tau == 2.5
    assert list(backbone.attention) == ["layer1", "layer3"]
    assert not backbone.attention["layer3"].training


@pytest.mark.parametrize("name", ["resnet18", "hacnn", "vit_small"])
def test_the_inserted_block_acts_on_the_map_that_leaves_its_stage(name: str) -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape[1:]))
            return torch.zeros_like(x)

    seen: list[tuple[int, ...]] = []
    backbone = build(name).eval()
    stage = backbone.stages[1]
    x = images(name, 2)
    with torch.no_grad():
        plain = vectors(backbone(x))[0]
        backbone.attention[stage] = Zero()
        changed = vectors(backbone(x))[0]
    assert seen == [measure_stages(backbone, *SIZES.get(name, (32, 16)))[stage]]
    assert not torch.allclose(plain, changed)


@pytest.mark.parametrize(("name", "smallest"), [("resnet18", 1), ("osnet_x1_0", 16), ("vit_small", 16)])
def test_images_below_the_smallest_size_are_refused(name: str, smallest: int) -> None:
    with pytest.raises(InputError, match=f"got images of width {smallest - 1}; expected at least {smallest}"):
        BACKBONES[name](height=64, width=smallest - 1)


@pytest.mark.parametrize("name", ["resnet18", "osnet_x1_0", "mobilenet_v2", "hacnn", "msinet"])
def test_images_of_the_smallest_size_run(name: str) -> None:
    backbone = build(name).eval()
    with torch.no_grad():
        output = backbone(torch.randn(1, 3, backbone.smallest, backbone.smallest))
    assert all(tensor.isfinite().all() for tensor in vectors(output))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "dsc"}, "unknown attention block 'dsc'; did you mean dcs"),
        ({"attention": "dcs", "attention_settings": {"ta": 1}}, "has no setting 'ta'; did you mean tau"),
        ({"attention": "dcs", "attention_stages": ["layer5"]}, "no stage 'layer5' for attention; did you mean layer"),
        ({"attention": "dcs", "attention_stages": ["layer1", "layer1"]}, "stage 'layer1' would get attention twice"),
        ({"attention": "dcs", "attention_stages": []}, "no stage is named for attention; name some of layer1, layer2"),
        ({"attention_stages": ["layer1"]}, "without attention; name the attention block"),
        ({"attention_settings": {"tau": 1.0}}, "without attention; name the attention block"),
        ({"last_strid": 2}, "has no option 'last_strid'; did you mean last_stride"),
        ({"last_stride": 3}, "last_stride is 3; expected 1 or 2"),
        ({"last_stride": True}, "last_stride: true and false are no numbers"),
        ({"attention": ["dcs"]}, "attention: .* valid string"),
        ({"attention": "dcs", "attention_stages": 5}, "attention_stages"),
        ({"attention": "dcs", "attention_settings": [1]}, "attention_settings: .* valid dictionary"),
        ({"attention": "dcs", "attention_settings": {"tau": "warm"}}, "block 'dcs': tau: .* valid number"),
        ({"attention": "dcs", "attention_settings": {"tau": math.inf}}, "tau: expected .* a finite number, found inf"),
        ({"attention": "dcs", "attention_settings": {"scale": ""}}, "unknown attention scale ''"),
    ],
)
def test_what_a_backbone_cannot_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("resnet18", **options)


def test_every_option_of_every_backbone_is_refused_in_one_line_if_it_is_of_another_type() -> None:
    for name in BACKBONES:
        for option in inspect.signature(BACKBONES[name]).parameters:
            if option in ("height", "width"):
                continue
            with pytest.raises(InputError, match=f"backbone '{name}': {option}") as caught:
                build(name, **{option: {"neither": "nor"}})
            assert "\n" not in str(caught.value)


def test_a_quoted_no_turns_an_option_off() -> None:
    names = [type(module).__name__ for module in build("resnet50", non_local="no").modules()]
    assert "NonLocalBlock" not in names


def test_unknown_backbones_and_attention_given_twice_are_refused() -> None:
    with pytest.raises(InputError, match="unknown backbone 'resnet5'; did you mean resnet50"):
        BACKBONES["resnet5"]
    backbone = build("resnet18", attention="dcs", attention_stages="layer1")
    with pytest.raises(InputError, match="stage 'layer1' would get attention twice"):
        insert_attention(backbone, "rga", ["layer1"], 64, 32)
