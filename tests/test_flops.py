"""Costs: layer by layer against hand counts, and whole networks against published figures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.backbones.mobilenet import InvertedResidual
from dcs_nas.models.backbones.vit import TransformerBlock
from dcs_nas.models.blocks import ATTENTION, build_attention
from dcs_nas.models.flops import Cost, count, count_map
from dcs_nas.models.operations import build_operation

MILLION, BILLION = 1e6, 1e9


def parameters_by_use(cost: Cost) -> int:
    """Parameters, those of a layer that runs n times counted n times, as in the figures of torchreid's model zoo.

    HA-CNN, whose local layers serve four regions, stands there with 4.5 M, though it has 2.9 M.
    """
    return sum(layer.parameters * max(1, layer.uses) for layer in cost.layers)


class Sampler(nn.Module):
    """One of each kind of work."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
        self.grouped = nn.Conv2d(8, 4, 1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 6)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.grouped(self.depthwise(self.conv(x)).relu())).flatten(2).transpose(1, 2)
        tokens = F.scaled_dot_product_attention(tokens, tokens, self.linear(tokens))
        return (tokens * self.scale) @ tokens.mT


def test_every_kind_of_product_is_counted_as_by_hand() -> None:
    cost = count(Sampler(), 8, 4)
    macs = {layer.name: layer.macs for layer in cost.layers}
    n = 4 * 2  # places after the stride, tokens later
    assert macs["conv"] == n * 8 * 3 * 9
    assert macs["depthwise"] == n * 8 * 25
    assert macs["grouped"] == n * 4 * 4
    assert macs["linear"] == n * 4 * 6
    assert macs["norm"] == 0
    assert macs[""] == n * n * 4 + n * n * 6 + n * 6 * n  # attention's two products and the one written out
    assert cost.macs == sum(macs.values())


def test_parameters_are_counted_once_and_by_use() -> None:
    layer = nn.Linear(3, 3, bias=False)
    shared = nn.Sequential(nn.Flatten(2), nn.Linear(8, 3), layer, layer)
    cost = count(shared, 2, 4)
    assert cost.parameters == 8 * 3 + 3 + 9
    assert parameters_by_use(cost) == 8 * 3 + 3 + 2 * 9
    assert [(row.name, row.uses, row.macs) for row in cost.layers] == [("1", 1, 3 * 24), ("2", 2, 2 * 3 * 9)]


def test_counting_changes_nothing_and_needs_no_arithmetic() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert count(model, 4096, 4096).macs == 4096 * 4096 * 12
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# One block of each kind on C = 16 channels and N = 8 x 4 places, its multiply-adds in order of computation.
C, N = 16, 8 * 4
BY_HAND = [
    # selector; X M by itself and the affinities times X; depthwise 3x3
    ("dcs", N * C * C + N * N * C + N * N * C + N * C * 9),
    # FC to 4 regions of 2 numbers, depthwise 3x3; spatial: 3x3 of stride 2 on one channel, 1x1; channel: C -> 1 -> C;
    # 1x1 of their product
    ("harmonious", C * 8 + N * C * 9 + (N // 4) * 9 + N + C + C + N * C * C),
    # theta, phi, g: C -> 3 * 2; W_in phi and W_out theta for 4 relations; their product with [theta; phi]; 4 -> 1;
    # the logit
    ("rga_spatial", N * C * 6 + 2 * 4 * N * 2 + 4 * 4 * N + 4 * N + N),
    # the same with 16 nodes of 32 features: 3 * 4 embedded features, 2 relations, joined with g before
    # one product to the hidden unit
    ("rga_channel", C * N * 12 + 2 * 2 * C * 4 + 2 * 8 * C + 3 * C + C),
    # theta, phi, g: C -> 8; theta phi^T and its product with g; back to C
    ("nonlocal", 3 * N * C * 8 + N * N * 8 + N * N * 8 + N * 8 * C),
    # means of 4 parts of 8 rows of means, C -> C for each, T T^T and its product with T, C -> C, back to 8
    # rows; C -> C of the map
    ("part_aware", C * 8 * 4 + 4 * C * C + 2 * 4 * 4 * C + 4 * C * C + C * 4 * 8 + N * C * C),
    ("sep_conv_3x3", 2 * (N * C * 9 + N * C * C)),
    ("sep_conv_5x5", 2 * (N * C * 25 + N * C * C)),
    ("dil_conv_3x3", N * C * 9 + N * C * C),
    ("dil_conv_5x5", N * C * 25 + N * C * C),
    ("max_pool_3x3", 0),
    ("avg_pool_3x3", 0),
    ("none", 0),
]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("name", "macs"), [*BY_HAND, ("skip_connect", 0)])
def test_operations_cost_what_a_count_by_hand_gives(name: str, macs: int, stride: int) -> None:
    operation = build_operation(name, C, stride, height=8, width=4, affine=True)
    cost, given = count_map(operation, (C, 8 * stride, 4 * stride))
    reduces = stride == 2 and (name in ATTENTION or name == "skip_connect")  # by two 1x1 convolutions C -> C / 2
    assert given == (C, 8, 4)
    assert cost.macs == macs + (2 * N * C * (C // 2) if reduces else 0)


def test_an_inverted_residual_costs_what_a_count_by_hand_gives() -> None:
    cost, given = count_map(InvertedResidual(16, 24, expansion=6, stride=2), (16, 16, 8))
    assert given == (24, 8, 4)
    assert cost.macs == 128 * 16 * 96 + 32 * 96 * 9 + 32 * 96 * 24  # expand at full size, 3x3 and project at half


def test_a_transformer_block_costs_what_a_count_by_hand_gives() -> None:
    tokens, width = 9, 32
    cost, _ = count_map(TransformerBlock(width, 4, drop_path=0.0), (tokens, width))
    attention = 4 * tokens * tokens * (8 + 8)  # four heads of 8: q k^T, and its product with v
    layers = tokens * width * 3 * width + tokens * width * width + 2 * tokens * width * 4 * width  # qkv, proj, MLP
    assert cost.macs == attention + layers
    assert cost.parameters == (3 + 1) * width**2 + 4 * width + 8 * width**2 + 5 * width + 4 * width  # and two norms


@pytest.mark.parametrize("name", ATTENTION)
def test_every_attention_block_is_counted(name: str) -> None:
    cost, given = count_map(build_attention(name, C, 8, 4), (C, 8, 4))
    assert cost.macs > 0
    assert given == (C, 8, 4)


def test_rga_costs_its_spatial_and_its_channel_part() -> None:
    rga, _ = count_map(build_operation("rga", C, 1, height=8, width=4, affine=True), (C, 8, 4))
    assert rga.macs == dict(BY_HAND)["rga_spatial"] + dict(BY_HAND)["rga_channel"]


# Published parameters and multiply-adds. "head" is the 1000-class classifier that the figure includes.
PUBLISHED = [
    # torchvision's model metadata (num_params, GFLOPS): https://pytorch.org/vision/stable/models.html
    ("resnet18", {"last_stride": 2}, 224, 224, 1000, 11_689_512, 1.81),
    ("resnet34", {"last_stride": 2}, 224, 224, 1000, 21_797_672, 3.66),
    ("resnet50", {"last_stride": 2}, 224, 224, 1000, 25_557_032, 4.09),
    ("resnet101", {"last_stride": 2}, 224, 224, 1000, 44_549_160, 7.80),
    ("mobilenet_v2", {}, 224, 224, 1000, 3_504_872, 0.30),
    ("swin_tiny", {}, 224, 224, 1000, 28_288_354, None),
    ("swin_small", {}, 224, 224, 1000, 49_606_258, None),
    ("swin_base", {}, 224, 224, 1000, 87_768_224, None),
    ("vit_base", {}, 224, 224, 1000, 86_567_656, 17.56),
    # timm, results/benchmark-infer: vit_small_patch16_224 with 22.05 M and 4.61 GMACs.
    ("vit_small", {}, 224, 224, 1000, 22.05 * MILLION, 4.61),
    # Counted in the published code: openai/CLIP, facebookresearch/dinov2 (without its mask token), damo-cv/TransReID,
    # XingangPan/IBN-Net, KaiyangZhou/deep-person-reid.
    ("clip_vit_base", {"projection": 512}, 224, 224, 0, 86_192_640, None),
    ("clip_reid_vit_base", {}, 224, 224, 0, 86_192_640, None),
    ("dinov2_vit_small", {}, 518, 518, 0, 22_056_576, None),
    ("dinov2_vit_base", {}, 518, 518, 0, 86_580_480, None),
    ("transreid_vit_base", {"cameras": 6}, 256, 128, 0, 92_903_424, None),
    ("resnet50", {"ibn": "a"}, 224, 224, 0, 23_508_032, None),
    ("resnet50", {"ibn": "b"}, 224, 224, 0, 23_509_568, None),
    ("resnet101", {"ibn": "a"}, 224, 224, 0, 42_500_160, None),
    ("resnet101", {"ibn": "b"}, 224, 224, 0, 42_501_696, None),
    ("osnet_ibn_x1_0", {}, 256, 128, 0, 2_170_532, None),
    ("osnet_ain_x1_0", {}, 256, 128, 0, 2_169_508, None),
    # deep-person-reid, docs/MODEL_ZOO.md; last stride 2, classifiers left out.
    ("resnet50", {"last_stride": 2}, 256, 128, 0, 23.5 * MILLION, 2.7),
    ("mobilenet_v2", {}, 256, 128, 0, 2.2 * MILLION, None),
    ("osnet_x1_0", {}, 256, 128, 0, 2.2 * MILLION, 0.98),
]


@pytest.mark.parametrize(("name", "options", "height", "width", "head", "parameters", "billions"), PUBLISHED)
def test_costs_are_within_2_percent_of_the_published(
    name: str, options: dict, height: int, width: int, head: int, parameters: float, billions: float | None
) -> None:
    with torch.device("meta"):  # no memory, no first values
        backbone = BACKBONES[name](height=height, width=width, **options)
    cost = count(backbone, height, width)
    classifier = (backbone.num_features + 1) * head
    assert cost.parameters + classifier == pytest.approx(parameters, rel=0.02)
    if billions is not None:
        assert cost.macs + backbone.num_features * head == pytest.approx(billions * BILLION, rel=0.02)
    assert sum(layer.parameters for layer in cost.layers) == cost.parameters
    assert sum(layer.macs for layer in cost.layers) == cost.macs


def test_hacnn_has_the_published_parameters_when_shared_layers_are_counted_by_use() -> None:
    """deep-person-reid's docs/MODEL_ZOO.md gives 4.5 M and 0.5 GFLOPs.

    Its compute_model_complexity counts a layer's parameters at each call, and HA-CNN's local layers are called for each
    of four regions; the network of that very code has 2.9 M different ones. (The same counting gives OSNet 2,193,616.)
    """
    cost = count(BACKBONES["hacnn"](height=160, width=64), 160, 64)
    local = sum(layer.parameters for layer in cost.layers if layer.name.startswith("local_conv"))
    assert parameters_by_use(cost) == pytest.approx(4.5 * MILLION, rel=0.02)
    assert cost.parameters == parameters_by_use(cost) - 3 * local == 2_929_112
    assert cost.macs / BILLION == pytest.approx(0.5, abs=0.05)
    osnet = count(BACKBONES["osnet_x1_0"](height=256, width=128), 256, 128)
    assert parameters_by_use(osnet) == 2_193_616
