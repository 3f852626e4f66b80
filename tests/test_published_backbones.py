"""Backbones with published weights give the values of the published code, from the same state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.backbones.msinet import MSMT_GENOTYPE, MSINet, PublishedMSINet
from dcs_nas.models.backbones.resnet import InstanceBatchNorm
from dcs_nas.models.backbones.swin import PatchMerging, SwinTransformer
from dcs_nas.models.backbones.transreid import PublishedTransReID, TransReID
from dcs_nas.models.backbones.vit import VisionTransformer
from dcs_nas.models.backbones.vit_variants import CLIPReIDTransformer, CLIPVisionTransformer, DINOv2
from dcs_nas.models.heads import Embedding
from dcs_nas.models.weights import load_weights

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "fiu"}


def state_of(published: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("state/"): tensor for name, tensor in published.items() if name.startswith("state/")}


def require_close(ours: Tensor, published: Tensor, *, relative: float = 1e-5) -> None:
    """Of the largest published value."""
    torch.testing.assert_close(ours, published, rtol=0, atol=relative * published.abs().max().item())


def published_msinet() -> tuple[PublishedMSINet, dict[str, Tensor]]:
    published = golden("msinet")
    with np.load(GOLDEN / "msinet.npz") as arrays:
        assert tuple(arrays["genotype"].tolist()) == MSMT_GENOTYPE
    network = PublishedMSINet(7, channels=published["channels"].tolist())
    network.load_state_dict(state_of(published))
    return network, published


def test_msinet_gives_the_published_maps_features_and_gradients() -> None:
    network, published = published_msinet()
    x = published["x"].requires_grad_()
    feature = network.eval()(x)
    feature.square().sum().backward()
    assert x.grad is not None
    require_close(network.maps(x)[0], published["map_eval"])
    require_close(feature, published["feature_eval"])
    require_close(x.grad, published["grad_x_eval"])
    network.after_neck = True
    require_close(network(x), published["feature_eval_after_neck"])


def test_msinet_trains_on_the_published_features_and_scores() -> None:
    network, published = published_msinet()
    embedding = network.train()(published["x"])
    assert isinstance(embedding, Embedding)
    assert embedding.logits is not None
    # Batch statistics of 24 places a channel amplify rounding: the published float32 values are themselves 1.5e-4 and
    # 3.5e-4 away from this network in float64.
    require_close(embedding.features, published["feature_train"], relative=2e-4)
    require_close(torch.stack(embedding.logits), published["logits_train"], relative=5e-4)


def test_msinet_has_its_published_size() -> None:
    # Counted in vimar-gu/MSINet at 2a8845b: msinet_x1_0 without its two classifiers.
    network = PublishedMSINet(1)
    classifiers = sum(p.numel() for name, p in network.named_parameters() if "classifier" in name)
    assert sum(p.numel() for p in network.parameters()) - classifiers == 2_328_035


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genotype": ["ag"] * 11}, "expected 12 names of none, exc, ag, cross_att"),
        ({"genotype": "ag"}, "backbone 'msinet': genotype: .* valid tuple, found 'ag'"),
        ({"genotype": ["cros_att"] * 12}, "unknown interaction 'cros_att'; did you mean cross_att"),
        ({"channels": [16, 64, 96]}, "expected 4 numbers: of the stem and three stages"),
        ({"channels": [16, 64, 96, 130]}, r"MSINet's channels\[3\] is 130; expected a multiple of 4, at least 64"),
        ({"channels": [16, 32, 96, 128]}, r"MSINet's channels\[1\] is 32; expected a multiple of 4, at least 64"),
        ({"channels": [0, 64, 96, 128]}, r"MSINet's channels\[0\] is 0; expected a whole number of at least 1"),
    ],
)
def test_msinets_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BACKBONES["msinet"](height=64, width=32, **options)


def test_a_genotype_without_gates_may_be_narrow() -> None:
    network = MSINet(genotype=["exc", "none", "cross_att"] * 4, channels=[4, 8, 12, 16]).eval()
    assert [tuple(v.shape) for v in network(torch.randn(2, 3, 32, 32))] == [(2, 16), (2, 256)]


TRANSREID = {"height": 64, "width": 32, "embedding": 96, "depth": 3, "heads": 4, "cameras": 6}


def published_transreid() -> tuple[PublishedTransReID, dict[str, Tensor]]:
    published = golden("transreid")
    network = PublishedTransReID(7, **TRANSREID).eval()
    network.load_state_dict(network.adapt_weights(state_of(published)))
    return network, published


def test_transreid_gives_the_published_features_and_gradients() -> None:
    network, published = published_transreid()
    x = published["x"].requires_grad_()
    feature = network(x, published["cameras"])
    feature.square().sum().backward()
    assert x.grad is not None
    require_close(feature, published["feature_before_neck"])
    # The last norm keeps the sum of squares all but constant: its gradient is what rounding leaves of it, and the
    # published float32 values are 5.4e-4 away from this network in float64.
    require_close(x.grad, published["grad_x"], relative=2e-3)
    network.after_neck = True
    require_close(network(x, published["cameras"]), published["feature_after_neck"])


def test_transreid_trains_each_of_its_five_vectors() -> None:
    network, published = published_transreid()
    embedding = network.train()(published["x"], published["cameras"])
    assert embedding.features.shape == (3, 5 * 96)
    assert [tuple(scores.shape) for scores in embedding.logits] == [(3, 7)] * 5


@pytest.mark.parametrize("prefix", ["", "module.", "teacher.backbone."])
def test_a_vit_starts_both_branches_of_transreid(tmp_path: Path, prefix: str) -> None:
    vit = VisionTransformer(height=64, width=32, embedding=96, depth=3, heads=4, stride=12)
    torch.save({f"{prefix}{name}": tensor for name, tensor in vit.state_dict().items()}, tmp_path / "vit.pth")
    network = TransReID(**TRANSREID)
    report = load_weights(network, tmp_path / "vit.pth")
    assert report.missing == ("base.sie_embed",)
    ours, theirs = network.state_dict(), vit.state_dict()
    for branch in ("b1", "b2"):
        assert torch.equal(ours[f"{branch}.0.mlp.fc1.weight"], theirs["blocks.2.mlp.fc1.weight"])
        assert torch.equal(ours[f"{branch}.1.weight"], theirs["norm.weight"])
    assert torch.equal(ours["base.blocks.1.attn.qkv.weight"], theirs["blocks.1.attn.qkv.weight"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_transreids_own_file_keeps_its_two_branches_apart(tmp_path: Path, prefix: str) -> None:
    state = state_of(golden("transreid"))
    state["b2.0.attn.qkv.weight"] += 1  # as training would
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "transreid.pth")
    network = TransReID(**TRANSREID)
    report = load_weights(network, tmp_path / "transreid.pth")
    assert report.missing == ()
    assert torch.equal(network.state_dict()["b2.0.attn.qkv.weight"], state["b2.0.attn.qkv.weight"])
    assert torch.equal(network.state_dict()["b1.0.attn.qkv.weight"], state["b1.0.attn.qkv.weight"])


def test_of_two_networks_in_a_file_the_key_names_one(tmp_path: Path) -> None:
    vit = VisionTransformer(height=64, width=32, embedding=96, depth=3, heads=4, stride=12).state_dict()
    torch.save({"first": vit, "second": dict(vit)}, tmp_path / "both.pth")
    network = TransReID(**TRANSREID)
    with pytest.raises(InputError, match="holds 2 networks: first., second.; choose one by retrain.weights_key"):
        load_weights(network, tmp_path / "both.pth")
    assert load_weights(network, tmp_path / "both.pth", key="second").missing == ("base.sie_embed",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 32, "width": 16}, "the images have 2 patches; expected at least 4, one for each part"),
        ({"shift": 11}, "shift is 11, and the images have 10 patches"),
        ({"shift": 0}, "shift is 0"),
        ({"groups": 3}, "groups is 3, which divides neither 10, the number of patches, nor one more"),
    ],
)
def test_jigsaws_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TransReID(**(TRANSREID | options))


def test_clip_gives_the_published_feature_of_openais_names() -> None:
    published = golden("clip_visual")  # openai/CLIP, clip/model.py, VisionTransformer(64, 16, 32, 2, 4, 16), random
    network = CLIPVisionTransformer(height=64, width=64, embedding=32, depth=2, heads=4, projection=16).eval()
    whole = {f"visual.{name}": tensor for name, tensor in state_of(published).items()}
    network.load_state_dict(network.adapt_weights(whole | {"ln_final.weight": torch.ones(8)}))
    require_close(network(published["x"]), published["feature"])


def test_clip_reids_vectors_are_clips_token_its_projection_and_the_token_before_the_last_block() -> None:
    published = golden("clip_visual")
    size = {"height": 64, "width": 64, "embedding": 32, "depth": 2, "heads": 4}
    network, plain = CLIPReIDTransformer(**size, projection=16).eval(), CLIPVisionTransformer(**size).eval()
    for one in (network, plain):
        one.load_state_dict(one.adapt_weights(state_of(published)))
    token, projected, earlier = network(published["x"])
    require_close(projected, published["feature"])
    torch.testing.assert_close(token, plain(published["x"]))
    tokens = plain.blocks[0](plain.embed(published["x"], None))  # openai's model has two blocks here
    torch.testing.assert_close(earlier, tokens[:, 0])


@pytest.mark.parametrize("kind", [CLIPVisionTransformer, CLIPReIDTransformer])
def test_clip_with_projection_loads_on_another_grid(kind: type[CLIPVisionTransformer]) -> None:
    network = kind(height=64, width=32, embedding=32, depth=2, heads=4, projection=16)
    network.load_state_dict(network.adapt_weights(state_of(golden("clip_visual"))))
    assert network.interpolated == {"pos_embed": "4 x 4 to 4 x 2"}


def test_clip_without_projection_on_another_grid_loads_the_rest() -> None:
    network = CLIPVisionTransformer(height=64, width=32, embedding=32, depth=2, heads=4)
    adapted = network.adapt_weights(state_of(golden("clip_visual")))
    network.load_state_dict(adapted)
    assert adapted["pos_embed"].shape == (1, 9, 32)
    assert network.num_features == 32


def test_dinov2_gives_the_published_feature() -> None:
    published = golden("dinov2")  # facebookresearch/dinov2, DinoVisionTransformer of width 32, depth 2, 4 registers
    network = DINOv2(height=28, width=28, embedding=32, depth=2, heads=4, registers=4).eval()
    network.load_state_dict(network.adapt_weights(state_of(published)))
    require_close(network(published["x"]), published["feature"])


def test_weights_with_registers_need_a_network_with_as_many() -> None:
    network = DINOv2(height=28, width=28, embedding=32, depth=2, heads=4)
    with pytest.raises(InputError, match=r"registers \('register_tokens'\) are \(1, 4, 32\); expected 0 of them"):
        network.adapt_weights(state_of(golden("dinov2")))


def test_ibn_norms_half_of_the_channels_by_image() -> None:
    published = golden("reid_heads")
    norm = InstanceBatchNorm(16)
    names = ("IN.weight", "IN.bias", "BN.weight", "BN.bias")
    state = {name: published[f"ibn_{name.lower().replace('.', '_')}"] for name in names}
    norm.load_state_dict(state, strict=False)
    require_close(norm(published["ibn_x"]), published["ibn_y_train"])


def small_swin(**options: float) -> SwinTransformer:
    return SwinTransformer(embedding=8, depths=(2, 2, 2, 2), heads=1, **options).eval()  # type: ignore[arg-type]


def test_swin_gives_the_published_map_of_solider() -> None:
    # tinyvision/SOLIDER-REID at 8c08e1c, SwinTransformer of width 8, random; 100 x 60 is no multiple of windows.
    published = golden("swin")
    network = small_swin(semantic_weight=float(published["semantic_weight"]))
    loaded = network.load_state_dict(network.adapt_weights(state_of(published)), strict=False)
    assert all(name.endswith("relative_position_index") for name in loaded.missing_keys)  # equal ones are kept once
    assert loaded.unexpected_keys == []
    output = network(published["x"])
    require_close(output, published["map"])
    require_close(output.mean((2, 3)), published["feature"])


def test_a_file_of_solider_loads_with_and_without_its_semantic_weight(tmp_path: Path) -> None:
    state = state_of(golden("swin"))
    torch.save({"teacher": {f"backbone.{name}": tensor for name, tensor in state.items()}}, tmp_path / "solider.pth")
    for options, semantic in (({}, False), ({"semantic_weight": 1.0}, True)):
        report = load_weights(small_swin(**options), tmp_path / "solider.pth")
        assert not [name for name in report.missing if not name.endswith("relative_position_index")]
        assert any(name.startswith("semantic_embed_w.") for name in report.matched) == semantic


def test_microsofts_swin_loads_under_its_names_and_order_of_merging(tmp_path: Path) -> None:
    # microsoft/Swin-Transformer, models/swin_transformer.py: the four places are joined column by column.
    source = small_swin().state_dict()
    renamed = {
        "stages.": "layers.", ".w_msa.": ".", ".ffn.layers.0.0.": ".mlp.fc1.", ".ffn.layers.1.": ".mlp.fc2.",
        "projection": "proj", "norm3.": "norm.",
    }  # fmt: skip
    state = {}
    for name, tensor in source.items():
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        state[name] = tensor
    norm, reduction = torch.rand(32), torch.randn(16, 32)
    state |= {"layers.0.downsample.norm.weight": norm, "layers.0.downsample.reduction.weight": reduction}
    torch.save({"model": state | {"layers.0.blocks.1.attn_mask": torch.zeros(1)}}, tmp_path / "swin.pth")
    network = small_swin()
    assert load_weights(network, tmp_path / "swin.pth").missing == ()
    merging = network.get_submodule("stages.0.downsample")
    assert isinstance(merging, PatchMerging)
    x = torch.randn(1, 4, 6, 8)
    joined = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
    expected = torch.nn.functional.layer_norm(joined, (32,), norm) @ reduction.T
    torch.testing.assert_close(merging(x), expected)


def test_swins_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"drop_path is 1\.0"):
        small_swin(drop_path=1.0)
    with pytest.raises(InputError, match=r"semantic_weight is 1\.5; expected a number from 0 to 1"):
        small_swin(semantic_weight=1.5)
