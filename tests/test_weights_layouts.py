"""Files of the layouts that other projects publish, made here of small widths: what they are and that they load whole.

The names and nests are those of the projects' own files; docs/weights.md lists them.
"""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcs_nas import api
from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES, Backbone
from dcs_nas.models.backbones.backbone import register_backbone
from dcs_nas.models.backbones.swin import SwinTransformer
from dcs_nas.models.backbones.transreid import TransReID
from dcs_nas.models.backbones.vit import VisionTransformer
from dcs_nas.models.backbones.vit_variants import CLIPVisionTransformer, DINOv2
from dcs_nas.models.weights import load_weights
from dcs_nas.models.weights_file import read_weights
from dcs_nas.models.weights_survey import fit_backbone, read_weights_file
from dcs_nas.report.page import write_report
from tests.command_line import refused, run_command

SIZE: dict[str, int] = {"height": 64, "width": 32}
TOKENS: dict[str, int] = {"embedding": 32, "depth": 3, "heads": 4}
State = dict[str, Tensor]


def vit(**options: Any) -> VisionTransformer:
    return VisionTransformer(**(SIZE | TOKENS | options))


def state_of(network: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def with_positions(state: Mapping[str, Tensor], count: int) -> State:
    return {**state, "pos_embed": torch.full((1, count, 32), 0.5)}


def torchvision_resnet(network: Backbone) -> Any:
    return state_of(network) | {"fc.weight": torch.ones(1000, network.num_features), "fc.bias": torch.ones(1000)}


def luperson(network: Backbone) -> Any:
    query, key = (below(f"module.encoder_{k}.", torchvision_resnet(network)) for k in "qk")
    return {"epoch": 200, "arch": "resnet", "state_dict": query | key | {"module.queue": torch.ones(128, 8)}}


def torchreid_osnet(network: Backbone) -> Any:
    state = below("module.", state_of(network)) | {"module.classifier.weight": torch.ones(751, 512)}
    return {"state_dict": state, "rank1": np.float64(0.94), "epoch": 250}


def timm_vit(network: Backbone) -> Any:
    return with_positions(state_of(network), 197) | {"head.weight": torch.ones(1000, 32), "head.bias": torch.ones(1000)}


def deit_distilled(network: Backbone) -> Any:
    return {"model": with_positions(state_of(network), 198) | {"dist_token": torch.ones(1, 1, 32)}}


def dino(network: Backbone) -> Any:
    state = below("module.backbone.", with_positions(state_of(network), 197)) | {
        "module.head.mlp.0.bias": torch.ones(8)
    }
    return {"student": state, "teacher": below("", state), "epoch": 100, "args": argparse.Namespace(arch="vit_small")}


def mae(network: Backbone) -> Any:
    decoder = {"mask_token": torch.ones(1, 1, 16), "decoder_pos_embed": torch.ones(1, 197, 16)}
    return {"model": with_positions(state_of(network), 197) | decoder | {"decoder_blocks.0.norm1.bias": torch.ones(16)}}


def hap(network: Backbone) -> Any:
    return {"model": with_positions(state_of(network), 129)}


def pass_(network: Backbone) -> Any:
    parts = {f"part_token{n}": torch.ones(1, 1, 32) for n in (1, 2, 3)}
    places = {f"part{n}_pos": torch.ones(1, 1, 32) for n in (1, 2, 3)} | {"cls_pos": torch.ones(1, 1, 32)}
    return {"teacher": below("backbone.", with_positions(state_of(network), 128) | parts | places)}


def clip(network: Backbone) -> Any:
    state: State = {"ln_final.weight": torch.ones(8), "transformer.resblocks.0.ln_1.bias": torch.ones(8)}
    names = (
        ("blocks.", "transformer.resblocks."), ("cls_token", "class_embedding"), ("pos_embed", "positional_embedding"),
        ("patch_embed.proj.", "conv1."), ("norm_pre.", "ln_pre."), (".norm1.", ".ln_1."), (".norm2.", ".ln_2."),
        (".attn.qkv.", ".attn.in_proj_"), (".attn.proj.", ".attn.out_proj."), (".mlp.fc1.", ".mlp.c_fc."),
        (".mlp.fc2.", ".mlp.c_proj."),
    )  # fmt: skip
    for name, tensor in with_positions(state_of(network), 197).items():
        theirs = "ln_post." + name.removeprefix("norm.") if name.startswith("norm.") else name
        for ours, replacement in names:
            theirs = theirs.replace(ours, replacement)
        state[f"visual.{theirs}"] = tensor.half()
    state["visual.class_embedding"] = state["visual.class_embedding"].flatten()
    state["visual.positional_embedding"] = state["visual.positional_embedding"][0]
    return state | {"visual.proj": torch.ones(32, 16).half()}


def clip_reid(network: Backbone) -> Any:
    whole = clip(network)
    return {name.replace("visual.", "image_encoder."): t for name, t in whole.items() if name.startswith("visual.")}


def clip_transformers(network: Backbone) -> Any:
    """The names of the package transformers, CLIPModel."""
    state: State = {"logit_scale": torch.ones(()), "text_model.embeddings.position_embedding.weight": torch.ones(77, 8)}
    for name, tensor in clip(network).items():
        if not name.startswith("visual."):
            continue
        theirs = name.removeprefix("visual.").replace("transformer.resblocks.", "encoder.layers.")
        for openai, replacement in (
            ("class_embedding", "embeddings.class_embedding"), ("conv1.", "embeddings.patch_embedding."),
            ("positional_embedding", "embeddings.position_embedding.weight"), ("ln_pre.", "pre_layrnorm."),
            ("ln_post.", "post_layernorm."), (".ln_1.", ".layer_norm1."), (".ln_2.", ".layer_norm2."),
            (".attn.out_proj.", ".self_attn.out_proj."), (".mlp.c_fc.", ".mlp.fc1."), (".mlp.c_proj.", ".mlp.fc2."),
        ):  # fmt: skip
            theirs = theirs.replace(openai, replacement)
        if ".attn.in_proj_" in theirs:
            for part, values in zip("qkv", tensor.chunk(3)):
                state["vision_model." + theirs.replace(".attn.in_proj_", f".self_attn.{part}_proj.")] = values
        elif theirs == "proj":
            state["visual_projection.weight"] = tensor.T
        else:
            state[f"vision_model.{theirs}"] = tensor
    return state | {"vision_model.embeddings.position_ids": torch.arange(197)}


def dinov2(network: Backbone) -> Any:
    return with_positions(state_of(network), 1370) | {"mask_token": torch.ones(1, 32)}


def solider(network: Backbone) -> Any:
    state = below("backbone.", state_of(network))
    return {"student": state, "teacher": below("", state) | {"head.mlp.0.weight": torch.ones(4, 4)}}


def timm_ema(network: Backbone) -> Any:
    return {"state_dict": state_of(network), "state_dict_ema": state_of(network), "arch": "resnet"}


LAYOUTS: dict[str, tuple[str, str, Callable[[Backbone], Any]]] = {
    "torchvision": ("resnet10_small", "ResNet of basic blocks, torchvision's names", torchvision_resnet),
    "timm_ema": ("resnet10_small", "ResNet of basic blocks, torchvision's names", timm_ema),
    "luperson": ("resnet10_small", "ResNet of basic blocks, torchvision's names", luperson),
    "torchreid": ("osnet_x0_25", "OSNet, torchreid's names", torchreid_osnet),
    "timm_vit": ("tiny_vit", "ViT, timm's names", timm_vit),
    "deit": ("tiny_vit", "ViT with a distillation token (DeiT)", deit_distilled),
    "dino": ("tiny_vit", "ViT, timm's names", dino),
    "mae": ("tiny_vit", "masked autoencoder with a ViT (MAE)", mae),
    "hap": ("tiny_vit", "ViT, timm's names", hap),
    "pass": ("tiny_vit", "ViT with part tokens (PASS)", pass_),
    "clip": ("tiny_clip", "image encoder of CLIP, OpenAI's names", clip),
    "clip_reid": ("tiny_clip", "image encoder of CLIP, OpenAI's names", clip_reid),
    "clip_transformers": (
        "tiny_clip",
        "image encoder of CLIP, names of the package transformers",
        clip_transformers,
    ),
    "dinov2": ("tiny_dinov2", "DINOv2", dinov2),
    "dinov2_registers": ("tiny_dinov2", "DINOv2", dinov2),
    "solider": ("tiny_swin", "Swin, SOLIDER's names", solider),
}


@pytest.fixture(autouse=True, scope="module")
def tiny_backbones() -> Iterator[None]:
    """Registered networks of the kinds of which all published ones are large."""

    @register_backbone("tiny_vit")
    def tiny_vit(*, height: int, width: int) -> Backbone:
        return vit(height=height, width=width)

    @register_backbone("tiny_transreid")
    def tiny_transreid(*, height: int, width: int, cameras: int = 0) -> Backbone:
        return TransReID(height=height, width=width, cameras=cameras, **TOKENS)

    @register_backbone("tiny_clip")
    def tiny_clip(*, height: int, width: int) -> Backbone:
        return CLIPVisionTransformer(height=height, width=width, **TOKENS)

    @register_backbone("tiny_dinov2")
    def tiny_dinov2(*, height: int, width: int, registers: int = 0) -> Backbone:
        return DINOv2(height=height, width=width, registers=registers, **TOKENS)

    @register_backbone("tiny_swin")
    def tiny_swin(*, height: int, width: int) -> Backbone:
        return SwinTransformer(embedding=8, depths=(1, 1, 2, 1), heads=1)

    yield
    for name in ("tiny_vit", "tiny_transreid", "tiny_clip", "tiny_dinov2", "tiny_swin"):
        del BACKBONES[name]


def write(layout: str, folder: Path) -> tuple[Path, Backbone, str, dict[str, Any]]:
    """A file, the network that it is of, the name of the backbone and its options."""
    name, _, make = LAYOUTS[layout]
    options = {"registers": 4} if layout == "dinov2_registers" else {}
    source = BACKBONES[name](**SIZE, **options)
    torch.save(make(source), folder / f"{layout}.pth")
    return folder / f"{layout}.pth", source, name, options


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_loads_whole(tmp_path: Path, layout: str) -> None:
    path, source, name, options = write(layout, tmp_path)
    target = BACKBONES[name](**SIZE, **options)
    report = load_weights(target, path)
    assert (report.missing, report.supplied) == ((), report.numbers)
    theirs = source.state_dict()
    for key, tensor in target.state_dict().items():
        if key == "pos_embed":
            torch.testing.assert_close(tensor[:, 1:], torch.full_like(tensor[:, 1:], 0.5))
        else:
            torch.testing.assert_close(tensor, theirs[key], rtol=1e-3, atol=1e-3)
    assert bool(report.interpolated) == (name in ("tiny_vit", "tiny_clip", "tiny_dinov2"))


@pytest.mark.parametrize("projection", [None, 16])
def test_clip_under_the_names_of_transformers_is_clip_under_openais(projection: int | None) -> None:
    source = CLIPVisionTransformer(**SIZE, **TOKENS)
    network = CLIPVisionTransformer(**SIZE, **TOKENS, projection=projection)
    expected, found = (network.adapt_weights(make(source)) for make in (clip, clip_transformers))
    assert ("head.weight" in expected) == (projection is not None)
    assert set(found) == set(expected) == set(network.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_is_told_by_its_names(tmp_path: Path, layout: str) -> None:
    path, _, name, options = write(layout, tmp_path)
    file = read_weights_file(path)
    assert file.family == LAYOUTS[layout][1]
    fit = fit_backbone(file, name, **SIZE)
    assert (fit.problem, fit.share, fit.options) == (None, 1.0, options)


def test_the_command_lists_the_backbones_that_a_file_fits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, *_ = write("dino", tmp_path)
    code, out, _ = run_command(capsys, "weights", path, "--height", 64, "--width", 32)
    assert code == 0
    first, several, *fits = out.splitlines()
    assert "PyTorch file; names below teacher.module.backbone; " in first
    assert "ViT, timm's names; patches of 16, width 32; 197 positions (14 x 14 patches)" in first
    assert several == "several networks: teacher, student; teacher is loaded, --key chooses another"
    assert "tiny_vit: 100.0 % of its numbers, fits, pos_embed interpolated from 14 x 14 to 4 x 2" in fits
    assert any(line.startswith("tiny_transreid: 100.0 %") for line in fits)


def test_the_command_reports_what_one_backbone_gets(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, *_ = write("dinov2_registers", tmp_path)
    code, out, _ = run_command(capsys, "weights", path, "--backbone", "tiny_dinov2")
    assert code == 0
    assert "tiny_dinov2 with registers=4" in out
    assert out.splitlines()[-1] == "fits"
    path, *_ = write("dinov2", tmp_path)
    _, out, _ = run_command(capsys, "weights", path, "--backbone", "tiny_vit")
    assert "does not fit" in out


def test_the_command_refuses_bad_files_and_names_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, *_ = write("torchvision", tmp_path)
    (tmp_path / "bad.pth").write_bytes(path.read_bytes()[:1000])
    assert "cannot be read" in refused(capsys, "weights", tmp_path / "bad.pth")
    assert "does not exist" in refused(capsys, "weights", tmp_path / "absent.pth")
    assert "resnet10_small" in refused(capsys, "weights", path, "--backbone", "resnet10_smal")
    assert "has no option 'registers'" in refused(
        capsys, "weights", path, "--backbone", "resnet10_small", "-o", "registers=4"
    )
    assert "name it by --backbone" in refused(capsys, "weights", path, "-o", "registers=4")
    assert "nothing in" in refused(capsys, "weights", path, "--backbone", "tiny_vit")


@pytest.mark.parametrize(
    "lost",
    [{"patch_embed.proj.weight": None}, {"pos_embed": None}, {"patch_embed.proj.weight": torch.ones(32, 3, 14, 14)}],
)
def test_no_first_layer_and_no_positions_stay_random_unless_asked(
    tmp_path: Path, lost: dict[str, Tensor | None]
) -> None:
    state = {name: tensor for name, tensor in (state_of(vit()) | lost).items() if tensor is not None}
    torch.save(state, tmp_path / "w.pth")
    target = vit()
    (name,) = lost
    with pytest.raises(InputError, match=f"what must not stay random: {name}") as caught:
        load_weights(target, tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    report = load_weights(target, tmp_path / "w.pth", partial=True)
    assert report.missing == (name,)


@pytest.mark.parametrize(
    ("backbone", "state"),
    [
        (
            "tiny_swin",
            {"layers.0.blocks.0.norm1.weight": torch.ones(8), "layers.0.downsample.1.n": torch.tensor(3)},
        ),
        ("tiny_clip", {"class_embedding": torch.ones(32), "conv1.weight": torch.ones(32, 3, 16, 16)}),
        ("tiny_vit", {"pos_embed": torch.ones(1, 4, 32), "cls_pos": torch.ones(1, 32)}),
    ],
)
def test_another_layout_of_tensors_is_one_line(tmp_path: Path, backbone: str, state: State) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"its tensors are laid out in another way \(") as caught:
        load_weights(BACKBONES[backbone](**SIZE), tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_a_plain_vit_refuses_a_file_whose_last_block_is_of_the_jigsaw_branch(tmp_path: Path) -> None:
    state = below("base.", state_of(vit())) | below("b1.0.", vit().blocks[-1].state_dict())
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match="TransReID with the jigsaw branch, whose last block stands under b1"):
        load_weights(vit(), tmp_path / "w.pth")
    assert load_weights(vit(), tmp_path / "w.pth", partial=True).missing == ()


def test_a_semantic_embedding_is_frozen_and_does_not_stay_random(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embedding": 8, "depths": (1, 1, 2, 1), "heads": 1}
    torch.save(SwinTransformer(**sizes).state_dict(), tmp_path / "w.pth")
    target = SwinTransformer(**sizes, semantic_weight=0.2)
    with pytest.raises(InputError, match="what must not stay random: semantic_embed_w"):
        load_weights(target, tmp_path / "w.pth")
    frozen = {name for name, parameter in target.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in target.state_dict() if name.startswith("semantic_embed_")}


def test_positions_of_an_unclear_grid_stay_random_only_when_asked(tmp_path: Path) -> None:
    torch.save(with_positions(state_of(vit()), 14), tmp_path / "w.pth")
    with pytest.raises(InputError, match="fit no single grid"):
        load_weights(vit(), tmp_path / "w.pth")
    assert load_weights(vit(), tmp_path / "w.pth", partial=True).missing == ("pos_embed",)


class Scripted(nn.Module):
    """A module as OpenAI publishes CLIP: TorchScript, with numbers beside its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.input_resolution, self.names = 224, [1, 2]
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4)))
        self.scale = nn.Parameter(torch.ones(3).half())

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_read_without_its_code(tmp_path: Path) -> None:
    source = Scripted()
    torch.jit.script(source).save(str(tmp_path / "w.pt"))
    found = read_weights(tmp_path / "w.pt")
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in source.state_dict().items()
    }
    assert all(torch.equal(tensor, found[name]) for name, tensor in source.state_dict().items())
    assert read_weights_file(tmp_path / "w.pt").format == "TorchScript archive"


def test_a_torchscript_archive_that_needs_code_is_refused_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (print, ("this must not run",))

    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps(Bomb()))
        archive.writestr("w/constants.pkl", pickle.dumps(()))
    with pytest.raises(InputError, match="cannot be read: it is no pickle, or one that needs code to be run"):
        read_weights(tmp_path / "w.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ibn", ["a", "b"])
def test_a_file_with_instance_norms_is_compared_with_a_network_that_has_them(tmp_path: Path, ibn: str) -> None:
    torch.save(state_of(BACKBONES["resnet34"](**SIZE, ibn=ibn)), tmp_path / "w.pth")
    fit = fit_backbone(read_weights_file(tmp_path / "w.pth"), "resnet34", **SIZE)
    assert (fit.problem, fit.options) == (None, {"ibn": ibn})


def test_weights_are_scored_without_a_run(tmp_path: Path, people: Path, capsys: pytest.CaptureFixture) -> None:
    path, *_ = write("luperson", tmp_path)
    small = ("-o", "data.height=48", "-o", "data.width=24", "-o", "trainer.accelerator=cpu")
    data = ("--data", "market1501", "--root", people)
    given = ("evaluate", "--backbone", "resnet10_small", "--weights", path, *data, *small)
    code, out, _ = run_command(capsys, *given, "--json", tmp_path / "e.json", "--csv", tmp_path / "q.csv")
    assert code == 0
    assert "mAP" in out
    scores = json.loads((tmp_path / "e.json").read_text())
    assert (scores["backbone"], scores["weights"]) == ("resnet10_small", str(path))
    assert scores["mAP"] == api.evaluate_weights(
        "resnet10_small", path, data_name="market1501", root=people, overrides=small[1::2]
    ).mAP  # fmt: skip
    assert {file.name for file in tmp_path.iterdir()} == {"luperson.pth", "e.json", "q.csv"}
    assert "neck chooses features of a run's head" in refused(capsys, *given, "--neck", "before")


def test_a_training_tells_what_it_began_with_in_its_log_folder_and_report(tmp_path: Path, people: Path) -> None:
    path, *_ = write("luperson", tmp_path)
    settings = f"""
name: tiny
data: {{name: market1501, root: {people}, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}}
retrain: {{backbone: resnet10_small, weights: {path}, epochs: 1, warmup_epochs: 0}}
trainer: {{accelerator: cpu, threads: 1, loggers: []}}
"""
    (tmp_path / "tiny.yaml").write_text(settings)
    run = api.retrain(tmp_path / "tiny.yaml", out=tmp_path / "run")
    facts = json.loads((run.folder / "weights.json").read_text())
    assert (facts["prefix"], facts["supplied"]) == ("state_dict.module.encoder_q.", facts["numbers"])
    assert [row[:2] for row in facts["rows"]][1:3] == [["interpolated", 0], ["left random", 0]]
    assert "72 tensors loaded of 'state_dict.module.encoder_q.'" in (run.folder / "log.txt").read_text()
    recorded = (run.folder / "config.yaml").read_text()
    for share, partial in ((0.9, False), (0.5, True)):  # as runs recorded it before
        old = recorded.replace("weights_partial: false", f"weights_share: {share}")
        (run.folder / "config.yaml").write_text(old)
        assert api.load_run(run.folder).config.retrain.weights_partial is partial
    page = write_report([run.folder])
    assert "Weights loaded" in page.file.read_text()
    assert "loaded; retrain.weights_key chooses another" in page.file.read_text()


GIVEN = ("--data", "market1501", "--root", "r")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no RUN is given; give one, or --backbone NAME --weights FILE --data NAME --root DIR"),
        (("--backbone", "tiny_vit"), "--weights FILE, --data NAME, --root DIR"),
        (("RUN", "--weights", "w.pth"), "give RUN, or both of these"),
        (
            ("--backbone", "a", "--weights", "w", "--data", "d", "--root", "r", "--splits", "2"),
            "--splits is about a RUN",
        ),
        (("--backbone", "a", "--weights", "w", *GIVEN), "backbone"),
        (
            ("--backbone", "tiny_vit", "--weights", "absent.pth", "--data", "market1501", "--root", "r"),
            "does not exist",
        ),
    ],
)
def test_bad_requests_to_score_weights_are_refused(
    capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, "evaluate", *arguments)
