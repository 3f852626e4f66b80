"""The networks are the published ones: by their published parameter names, against plain functional forms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES, Backbone
from dcs_nas.models.backbones.hacnn import HACNN
from dcs_nas.models.backbones.resnet import DotProductNonLocal
from dcs_nas.models.backbones.vit import TransformerBlock, VisionTransformer
from dcs_nas.models.blocks.parts import drop_path

State = Mapping[str, Tensor]


def with_random_statistics(name: str, height: int, width: int, **options: int) -> Backbone:
    torch.manual_seed(0)
    backbone = BACKBONES[name](height=height, width=width, **options).eval()
    for module in backbone.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            state = module.state_dict()
            state["running_mean"].normal_(0, 0.1)
            state["running_var"].uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return backbone


def conv(s: State, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    weight = s[f"{name}.weight"]
    return F.conv2d(x, weight, s.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)


def norm(s: State, name: str, x: Tensor) -> Tensor:
    """Batch norm, or instance norm where the state holds no running statistics; nothing where it holds no norm."""
    if f"{name}.weight" not in s:
        return x
    if f"{name}.running_mean" not in s:
        return F.instance_norm(x, weight=s[f"{name}.weight"], bias=s[f"{name}.bias"])
    mean, var, weight, bias = (s[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)


def resnet_by_names(s: State, x: Tensor, last_stride: int) -> Tensor:
    x = F.max_pool2d(norm(s, "bn1", conv(s, "conv1", x, 2)).relu(), 3, 2, 1)
    for layer, first_stride in ((1, 1), (2, 2), (3, 2), (4, last_stride)):
        block = 0
        while f"layer{layer}.{block}.conv1.weight" in s:
            p, stride = f"layer{layer}.{block}", first_stride if block == 0 else 1
            shortcut = (
                norm(s, f"{p}.downsample.1", conv(s, f"{p}.downsample.0", x, stride))
                if block == 0 and (f"{p}.downsample.0.weight" in s)
                else x
            )
            if f"{p}.conv3.weight" in s:
                y = norm(s, f"{p}.bn1", conv(s, f"{p}.conv1", x)).relu()
                y = norm(s, f"{p}.bn2", conv(s, f"{p}.conv2", y, stride)).relu()
                y = norm(s, f"{p}.bn3", conv(s, f"{p}.conv3", y))
            else:
                y = norm(s, f"{p}.bn1", conv(s, f"{p}.conv1", x, stride)).relu()
                y = norm(s, f"{p}.bn2", conv(s, f"{p}.conv2", y))
            x, block = (y + shortcut).relu(), block + 1
    return x


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_resnet_is_torchvisions_by_its_names(name: str, last_stride: int) -> None:
    backbone, x = with_random_statistics(name, 64, 32, last_stride=last_stride), torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        output = backbone(x)
        expected = resnet_by_names(backbone.state_dict(), x, last_stride)
    assert output.shape[2:] == ((4, 2) if last_stride == 1 else (2, 1))
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def mobilenet_by_names(s: State, x: Tensor) -> Tensor:
    def layer(name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        return norm(s, f"{name}.1", conv(s, f"{name}.0", x, stride, groups)).clamp(0, 6)

    x = layer("features.0", x, 2)
    for n in range(1, 18):
        p, stride = f"features.{n}.conv", 2 if n in (2, 4, 7, 14) else 1
        expanded = x if n == 1 else layer(f"{p}.0", x)
        at = 0 if n == 1 else 1
        y = layer(f"{p}.{at}", expanded, stride, expanded.shape[1])
        y = norm(s, f"{p}.{at + 2}", conv(s, f"{p}.{at + 1}", y))
        x = x + y if x.shape == y.shape else y
    return layer("features.18", x)


def test_mobilenet_v2_is_torchvisions_by_its_names() -> None:
    backbone, x = with_random_statistics("mobilenet_v2", 64, 64), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        output = backbone(x)
        torch.testing.assert_close(output, mobilenet_by_names(backbone.state_dict(), x), rtol=1e-4, atol=1e-4)
    assert output.shape == (2, 1280, 2, 2)


def test_last_stride_1_doubles_mobilenets_map() -> None:
    backbone = BACKBONES["mobilenet_v2"](height=64, width=64, last_stride=1).eval()
    assert backbone(torch.randn(1, 3, 64, 64)).shape == (1, 1280, 4, 4)
    with pytest.raises(InputError, match="last_stride is 4"):
        BACKBONES["mobilenet_v2"](height=64, width=64, last_stride=4)


def osnet_by_names(s: State, x: Tensor) -> Tensor:
    def layer(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return norm(s, f"{name}.bn", conv(s, f"{name}.conv", x, stride))

    def light(name: str, x: Tensor) -> Tensor:
        y = conv(s, f"{name}.conv1", x)
        return norm(s, f"{name}.bn", conv(s, f"{name}.conv2", y, groups=y.shape[1])).relu()

    def block(name: str, x: Tensor) -> Tensor:
        start, total = layer(f"{name}.conv1", x).relu(), torch.zeros(())
        for stream, depth in zip("abcd", (1, 2, 3, 4)):
            y = start
            for n in range(depth):
                y = light(f"{name}.conv2{stream}" + (f".{n}" if depth > 1 else ""), y)
            pooled = F.adaptive_avg_pool2d(y, 1)
            total = total + y * conv(s, f"{name}.gate.fc2", conv(s, f"{name}.gate.fc1", pooled).relu()).sigmoid()
        shortcut = layer(f"{name}.downsample", x) if f"{name}.downsample.conv.weight" in s else x
        y = layer(f"{name}.conv3", total)
        if f"{name}.conv3.bn.weight" not in s:  # OSNet-AIN: the instance norm takes its place
            return (norm(s, f"{name}.IN", y) + shortcut).relu()
        return norm(s, f"{name}.IN", y + shortcut).relu()

    x = F.max_pool2d(layer("conv1", x, 2).relu(), 3, 2, 1)
    for stage in ("conv2", "conv3", "conv4"):
        x = block(f"{stage}.1", block(f"{stage}.0", x))
        if f"{stage}.2.0.conv.weight" in s:
            x = F.avg_pool2d(layer(f"{stage}.2.0", x).relu(), 2)
    pooled = layer("conv5", x).relu().mean((2, 3))
    return norm(s, "fc.1", pooled @ s["fc.0.weight"].T + s["fc.0.bias"]).relu()


@pytest.mark.parametrize(
    ("name", "stem", "widths", "millions"),
    [  # widths: torchreid/models/osnet.py; millions of parameters: deep-person-reid, docs/MODEL_ZOO.md
        ("osnet_x1_0", 64, (256, 384, 512), 2.2),
        ("osnet_x0_75", 48, (192, 288, 384), 1.3),
        ("osnet_x0_5", 32, (128, 192, 256), 0.6),
        ("osnet_x0_25", 16, (64, 96, 128), 0.2),
        ("osnet_ibn_x1_0", 64, (256, 384, 512), 2.2),
        ("osnet_ain_x1_0", 64, (256, 384, 512), 2.2),
        ("osnet_ain_x0_75", 48, (192, 288, 384), 1.3),
        ("osnet_ain_x0_5", 32, (128, 192, 256), 0.6),
        ("osnet_ain_x0_25", 16, (64, 96, 128), 0.2),
    ],
)
def test_osnet_is_torchreids_by_its_names_and_widths(
    name: str, stem: int, widths: tuple[int, ...], millions: float
) -> None:
    backbone, x = with_random_statistics(name, 64, 32), torch.randn(2, 3, 64, 32)
    state = backbone.state_dict()
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), osnet_by_names(state, x), rtol=1e-4, atol=1e-5)
    assert state["conv1.conv.weight"].shape == (stem, 3, 7, 7)
    for stage, width in zip(("conv2", "conv3", "conv4"), widths, strict=True):
        assert state[f"{stage}.1.conv3.conv.weight"].shape == (width, width // 4, 1, 1)
    assert state["fc.0.weight"].shape == (512, widths[-1])
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 1) == millions


def instance_norms(backbone: Backbone) -> list[str]:
    return [name for name, module in backbone.named_modules() if isinstance(module, nn.InstanceNorm2d)]


def test_instance_norms_stand_where_the_published_networks_have_them() -> None:
    def of(name: str, **options: str) -> list[str]:
        with torch.device("meta"):
            return instance_norms(BACKBONES[name](height=64, width=32, **options))

    # torchreid/models/osnet.py (IN=True) and osnet_ain.py; ibnnet/resnet_ibn.py of XingangPan/IBN-Net
    assert of("osnet_ibn_x1_0") == ["conv1.bn", "conv2.0.IN", "conv2.1.IN"]
    assert of("osnet_ain_x1_0") == ["conv1.bn", "conv2.0.IN", "conv2.1.IN", "conv3.1.IN", "conv4.0.IN"]
    assert of("resnet50") == []
    assert of("resnet50", ibn="b") == ["bn1", "layer1.2.IN", "layer2.3.IN"]
    assert of("resnet18", ibn="b") == ["bn1", "layer1.1.IN", "layer2.1.IN"]
    blocks = [(1, 3), (2, 4), (3, 23)]
    assert of("resnet101", ibn="a") == [f"layer{n}.{k}.bn1.IN" for n, depth in blocks for k in range(depth)]


def test_osnet_ain_loads_by_torchreids_names() -> None:
    names = {
        "conv2.0.conv2.0.layers.0.bn.weight": "conv2.0.conv2a.bn.weight",
        "conv2.0.conv2.1.layers.1.conv1.weight": "conv2.0.conv2b.1.conv1.weight",
        "conv4.1.conv2.3.layers.3.conv2.weight": "conv4.1.conv2d.3.conv2.weight",
        "conv3.1.conv2.2.layers.0.conv1.weight": "conv3.1.conv2c.0.conv1.weight",
        "pool2.0.conv.weight": "conv2.2.0.conv.weight",
        "pool3.0.bn.bias": "conv3.2.0.bn.bias",
        "conv3.1.IN.bias": "conv3.1.IN.bias",
        "conv1.bn.weight": "conv1.bn.weight",
    }
    network = BACKBONES["osnet_ain_x0_25"](height=64, width=32)
    assert list(network.adapt_weights(dict.fromkeys(names, torch.zeros(1)))) == list(names.values())
    assert set(names.values()) <= set(network.state_dict())


def test_non_local_blocks_are_agws_dot_product_and_start_as_the_identity() -> None:
    block, x = DotProductNonLocal(8).eval(), torch.randn(2, 8, 3, 2)
    assert torch.equal(block(x), x)
    nn.init.normal_(block.W[1].weight)
    g, theta, phi = (layer(x).flatten(2) for layer in (block.g, block.theta, block.phi))
    weights = theta.transpose(1, 2) @ phi / 6  # (B, N, N)
    y = (weights @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, (3, 2))
    torch.testing.assert_close(block(x), x + block.W(y))


def test_agws_non_local_blocks_follow_the_last_blocks_of_two_stages() -> None:
    seen: list[str] = []
    network = BACKBONES["resnet50"](height=64, width=32, non_local=True).eval()
    for name, module in network.named_modules():
        if name.count(".") == 1 and name.startswith(("layer2", "layer3", "NL_")):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    network(torch.randn(1, 3, 64, 32))
    assert seen[:6] == ["layer2.0", "layer2.1", "layer2.2", "NL_2.0", "layer2.3", "NL_2.1"]
    assert seen[6:] == [
        *(f"layer3.{n}" for n in range(4)), "NL_3.0", "layer3.4", "NL_3.1", "layer3.5", "NL_3.2",
    ]  # fmt: skip


def test_ibn_of_another_kind_or_on_small_images_is_refused() -> None:
    with pytest.raises(InputError, match="ibn is 'c'; expected a, b, or null for none"):
        BACKBONES["resnet50"](height=64, width=32, ibn="c")
    with pytest.raises(InputError, match="images of 16 x 16 are too small for ibn; expected one side of at least 17"):
        BACKBONES["resnet50"](height=16, width=16, ibn="a")


def test_hacnn_has_torchreids_names_and_gives_its_feature() -> None:
    with np.load(Path(__file__).parent / "golden" / "hacnn.npz") as arrays:
        published = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    state = {name[6:]: tensor for name, tensor in published.items() if name.startswith("state/")}
    network = HACNN(channels=tuple(published["nchannels"].tolist()), features=int(published["feat_dim"])).eval()
    loaded = network.load_state_dict(state, strict=False)
    assert loaded.missing_keys == []
    assert all(name.startswith("classifier_") for name in loaded.unexpected_keys)
    with torch.no_grad():
        feature = torch.cat([F.normalize(half) for half in network(published["x"])], dim=1)
    torch.testing.assert_close(feature, published["feature_eval"], rtol=1e-5, atol=1e-7)


def test_hacnns_local_layers_norm_each_region_by_itself_as_torchreid_does() -> None:
    network = BACKBONES["hacnn"](height=64, width=32)
    network(torch.randn(4, 3, 64, 32))
    state = network.state_dict()
    assert state["local_conv1.stream1.0.bn.num_batches_tracked"] == 4
    assert state["inception1.0.stream1.0.bn.num_batches_tracked"] == 1


def test_hacnn_without_regions_gives_the_global_vector_alone() -> None:
    backbone = BACKBONES["hacnn"](height=64, width=32, learn_region=False).eval()
    assert [tuple(x.shape) for x in backbone(torch.randn(2, 3, 64, 32))] == [(2, 512)]
    with pytest.raises(InputError, match="expected multiples of 4"):
        HACNN(channels=(16, 30, 32))


def test_the_transformer_block_is_torchs_pre_norm_encoder_layer() -> None:
    ours = TransformerBlock(32, 4, drop_path=0.0).eval()
    torchs = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "linear1"}
    names |= {"mlp.fc2": "linear2"}
    state = {f"{b}.{p}": ours.state_dict()[f"{a}.{p}"] for a, b in names.items() for p in ("weight", "bias")}
    state |= {f"self_attn.in_proj_{p}": ours.state_dict()[f"attn.qkv.{p}"] for p in ("weight", "bias")}
    torchs.load_state_dict(state)
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-6)


def tiny_vit(**options: float) -> VisionTransformer:
    height, width = int(options.pop("height", 32)), int(options.pop("width", 32))
    return VisionTransformer(height=height, width=width, embedding=24, depth=4, heads=3, **options)  # type: ignore[arg-type]


def test_vit_has_timms_names_and_shapes() -> None:
    shapes = {name: tuple(t.shape) for name, t in BACKBONES["vit_small"](height=224, width=224).state_dict().items()}
    block: dict[str, list[tuple[int, ...]]] = {
        "norm1": [(384,), (384,)],
        "attn.qkv": [(1152, 384), (1152,)],
        "attn.proj": [(384, 384), (384,)],
        "norm2": [(384,), (384,)],
        "mlp.fc1": [(1536, 384), (1536,)],
        "mlp.fc2": [(384, 1536), (384,)],
    }
    expected: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 197, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
    }
    expected |= {"patch_embed.proj.bias": (384,), "norm.weight": (384,), "norm.bias": (384,)}
    for n in range(12):
        for name, pair in block.items():
            expected |= {f"blocks.{n}.{name}.{leaf}": shape for leaf, shape in zip(("weight", "bias"), pair)}
    assert shapes == expected


def test_vit_is_patches_positions_blocks_and_a_normed_class_token() -> None:
    network, x = tiny_vit(height=32, width=48).eval(), torch.randn(2, 3, 32, 48)
    projection, tokens = network.patch_embed.proj, [network.cls_token[0].expand(2, -1)]
    for row in range(2):
        for column in range(3):
            patch = x[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].flatten(1)
            tokens.append(F.linear(patch, projection.weight.flatten(1), projection.bias))
    y = torch.stack(tokens, dim=1) + network.pos_embed
    for block in network.blocks:
        y = block(y)
    torch.testing.assert_close(network(x), network.norm(y)[:, 0], rtol=1e-5, atol=1e-5)


def test_overlapping_patches_follow_transreids_count() -> None:
    # He et al., ICCV 2021, section 3.1: floor((side - 16 + stride) / stride) patches along a side.
    assert tiny_vit(height=256, width=128, stride=12).grid == (21, 10)
    assert tiny_vit(height=256, width=128).grid == (16, 8)
    assert tiny_vit(height=40, width=30, stride=12).eval()(torch.randn(1, 3, 40, 30)).shape == (1, 24)


def test_attention_in_a_transformer_leaves_the_class_token_of_its_block_as_it_is() -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    network = tiny_vit().eval()
    tokens = torch.randn(2, 5, 24)
    network.attention["block0"] = Zero()
    changed = network.attend_patches("block0", tokens)
    assert torch.equal(changed[:, 0], tokens[:, 0])
    assert not changed[:, 1:].any()
    assert "block3" not in network.stages


def test_the_camera_embedding_is_added_to_all_tokens_with_its_weight() -> None:
    network, x = tiny_vit(cameras=3, camera_weight=2.0).eval(), torch.randn(2, 3, 32, 32)
    plain, cameras = network.embed(x, torch.tensor([0, 2])), torch.tensor([1, 2])
    difference = network.embed(x, cameras) - plain
    vectors = network.state_dict()["sie_embed"]
    vector = 2.0 * (vectors[1] - vectors[0])
    torch.testing.assert_close(difference[0], vector.expand(5, -1))
    assert not difference[1].any()


def test_unknown_cameras_get_the_mean_vector_in_evaluation_and_are_refused_in_training() -> None:
    network, x = tiny_vit(cameras=3, drop_path=0.0), torch.randn(1, 3, 32, 32)
    with pytest.raises(InputError, match="give the images' cameras in training"):
        network(x)
    known = torch.stack([network.embed(x, torch.tensor([camera])) for camera in range(3)])
    torch.testing.assert_close(network.eval().embed(x, None), known.mean(0))
    assert network.cameras
    assert not tiny_vit().cameras


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    kept = drop_path(torch.ones(4000, 2, 4), 0.25, training=True)[:, 0, 0]
    assert sorted(kept.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop_path(torch.ones(3, 2, 4), 0.25, training=False), torch.ones(3, 2, 4))
    assert [b.drop_path for b in tiny_vit(drop_path=0.3).blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride is 0"),
        ({"cameras": -1}, "cameras is -1"),
        ({"drop_path": 1.0}, r"drop_path is 1\.0"),
        ({"camera_weight": float("nan")}, "camera_weight is nan"),
    ],
)
def test_transformer_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_vit(**options)


def test_a_transformer_refuses_images_of_another_size() -> None:
    with pytest.raises(InputError, match="images are 32 x 48; expected 32 x 32, which this transformer was built for"):
        tiny_vit()(torch.randn(1, 3, 32, 48))
