"""Exported files: the same features as the trained network, from every block and backbone; and ranking with them."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dcs_nas.config import load_config
from dcs_nas.data.augment import Normalize
from dcs_nas.data.images import read_image
from dcs_nas.errors import InputError
from dcs_nas.export import exporting as export
from dcs_nas.export.exporting import Deployable, ExportedFile, export_run, mark_steps, measure_errors, trace
from dcs_nas.export.metadata import ExportInfo, read_properties
from dcs_nas.export.onnx_model import OnnxModel
from dcs_nas.export.run_model import Extractor
from dcs_nas.models.backbones.hacnn import InceptionB
from dcs_nas.models.backbones.mobilenet import InvertedResidual
from dcs_nas.models.backbones.msinet import CrossAttention
from dcs_nas.models.backbones.osnet import ChannelGate, LightConv
from dcs_nas.models.backbones.swin import SwinTransformer
from dcs_nas.models.backbones.transreid import TransReID
from dcs_nas.models.backbones.vit import VisionTransformer
from dcs_nas.models.blocks import ATTENTION, build_attention
from dcs_nas.models.blocks.harmonious import CropRegion
from dcs_nas.models.chain_space import ConvNorm, SqueezeExcite, fit_channels
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.operations import OPERATIONS, DilatedConv, FactorizedReduce, PoolBn, Zero, build_operation
from dcs_nas.training.evaluate import evaluate_run, load_trained
from dcs_nas.training.retrain_job import run_retraining
from tests.backbones import FAMILIES, HEIGHT, WIDTH, without_values
from tests.command_line import refused, run_command

JOB = """
name: tiny
seed: 3
data: {name: synthetic, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
augment: {pad: 2, erase: 0}
retrain: {backbone: resnet10_small, backbone_options: {base: 4}, epochs: 1, warmup_epochs: 0}
trainer: {accelerator: cpu, threads: 1, loggers: []}
"""
INFO = ExportInfo(
    height=16, width=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), metric="cosine", features=8, cameras="unused",
    network="test", trained_on="nothing", run="run", checkpoint="last", seed=0, version="0",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    run_retraining(load_config(folder / "job.yaml"), folder / "retrain")
    return folder / "retrain"


@pytest.fixture(scope="module")
def exported(run: Path) -> dict[str, ExportedFile]:
    files, _ = export_run(run, run / "export")
    return {file.path.suffix: file for file in files}


@pytest.fixture(scope="module")
def model(exported: dict[str, ExportedFile]) -> Path:
    return exported[".onnx"].path


def _source(network: nn.Module, height: int, width: int) -> Deployable:
    info = INFO.model_copy(update={"height": height, "width": width})
    return Deployable(Extractor(network, info.mean, info.std).eval(), info, torch.empty(0), ())


# Blocks and backbones


def _with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms as after a training: none of their numbers is 0 or 1."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
    return network.eval()


class Parts(nn.Module):
    """What backbones are built of, and every attention block, on maps whose height is no multiple of the regions."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = VisionTransformer(height=18, width=16, embedding=8, depth=2, heads=2, cameras=3)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 2, stride=2), nn.MaxPool2d(3, stride=1, padding=1), nn.AvgPool2d(2))
        self.incept = InceptionB(32, 8)
        self.features = nn.Sequential(InvertedResidual(32, 32, expansion=1, stride=1), LightConv(32), ChannelGate(32))
        self.blocks = nn.Sequential(
            *(build_attention(n, 32, 4, 4) for n in ("dcs", "dcs_window", "harmonious", "nonlocal", "part_aware"))
        )
        self.rga = nn.Sequential(
            build_attention("rga_spatial", 32, 4, 4, max_nodes=8), build_attention("rga_channel", 32, 4, 4)
        )
        self.cells = nn.ModuleList([FactorizedReduce(32, 4), DilatedConv(32, 3, 2, affine=True), PoolBn("avg", 32, 2)])
        nn.init.constant_(self.blocks[1].window, -8.4)  # a start between two channels, and not all of them
        self.cross = CrossAttention()
        nn.init.constant_(self.cross.gamma, 0.5)
        self.squeeze = nn.Sequential(ConvNorm(32, 32, 1, activation="hswish"), SqueezeExcite(32))
        self.instance_norm = nn.InstanceNorm2d(32, affine=True)
        self.swin = SwinTransformer(embedding=4, depths=(2, 1, 1, 1), heads=1)
        self.jigsaw = TransReID(height=32, width=32, embedding=8, depth=2, heads=2, stride=16, shift=2)

    def forward(self, x: Tensor) -> Tensor:
        larger = nn.functional.pad(x, (0, 16, 0, 14))
        seen = [self.transformer(x), self.swin(larger).mean((2, 3)), *self.jigsaw(larger)]
        x = self.stem(x)
        x = self.rga(self.blocks(x)) + self.squeeze(x)
        theta = torch.tanh(x.mean((2, 3))[:, :2])
        maps = [
            *self.cross(x, -x),
            self.instance_norm(x),
            self.features(x),
            self.incept(CropRegion(4)(x, theta, (6, 4))),
        ]
        maps += [Zero(2)(x), fit_channels(x, 40)]
        maps += [cell(x) for cell in self.cells]
        return torch.cat([*(nn.functional.normalize(y) for y in seen), *(y.mean((2, 3)) for y in maps)], dim=1)


def test_parts_of_all_networks_agree_with_their_files_on_batches_of_another_size(tmp_path: Path) -> None:
    source = _source(_with_statistics(Parts()), 18, 16)
    images = torch.randint(0, 256, (3, 3, 18, 16), dtype=torch.uint8)
    program = trace(source)
    assert measure_errors(program.module(), source, images).max() <= 1e-5
    run = export._write_onnx(program, source.info, tmp_path / "parts.onnx")
    assert measure_errors(run, source, images).max() <= 1e-4


class Operations(TorchDispatchMode):
    """The operations of torch that a network consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.seen.add(func._overloadpacket.__name__.rstrip("_"))
        return func(*args, **(kwargs or {}))


def _operations(network: nn.Module, height: int, width: int) -> set[str]:
    with Operations() as operations, torch.no_grad():
        network.eval()(torch.zeros(1, 3, height, width))
    return operations.seen


@pytest.fixture(scope="module")
def convertible() -> set[str]:
    """The operations that the test above converts."""
    return _operations(Parts(), 18, 16)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_backbones_consists_of_operations_that_convert(name: str, convertible: set[str]) -> None:
    network = without_values(lambda: ReidNetwork(FAMILIES[name](), 5, height=HEIGHT, width=WIDTH))
    assert _operations(network, HEIGHT, WIDTH) <= convertible


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_a_cell_consists_of_operations_that_convert(name: str, convertible: set[str]) -> None:
    assert set(ATTENTION) <= set(OPERATIONS)
    edge = build_operation(name, 8, 2, height=8, width=4, affine=True)
    assert _operations(nn.Sequential(nn.Conv2d(3, 8, 1), edge), 16, 8) <= convertible


# Files


def test_both_files_give_the_trained_networks_features_of_real_images(
    run: Path, exported: dict[str, ExportedFile], people: Path
) -> None:
    paths = sorted((people / "query").iterdir())[:5]
    pixels = np.stack([read_image(path, height=32, width=16) for path in paths]).transpose(0, 3, 1, 2).copy()
    config, network = load_trained(run)
    with torch.no_grad():
        expected = network(Normalize(config.data.mean, config.data.std)(torch.from_numpy(pixels))).numpy()
    compare = {"rtol": 0, "atol": 1e-5 * max(1, np.abs(expected).max())}
    onnx_model, pt2 = OnnxModel(exported[".onnx"].path), torch.export.load(exported[".pt2"].path).module()
    np.testing.assert_allclose(onnx_model.run(pixels), expected, **compare)
    np.testing.assert_allclose(onnx_model.features(paths), expected, **compare)
    for batch in (1, 5):
        np.testing.assert_allclose(pt2(torch.from_numpy(pixels[:batch])).detach(), expected[:batch], **compare)
    for file in exported.values():
        assert file.images == 16
        assert 0 <= file.error <= file.tolerance
        assert file.at_a_step == 0


def test_both_files_say_how_to_use_them_and_where_they_came_from(run: Path, exported: dict[str, ExportedFile]) -> None:
    info = OnnxModel(exported[".onnx"].path).info
    extra = {"dcs_nas.json": ""}
    torch.export.load(exported[".pt2"].path, extra_files=extra)
    assert info == ExportInfo.model_validate_json(extra["dcs_nas.json"])
    assert (info.height, info.width, info.features, info.metric) == (32, 16, 32, "cosine")
    assert info.mean == (0.485, 0.456, 0.406)
    assert (info.network, info.trained_on, info.run, info.seed) == ("resnet10_small", "synthetic", "retrain", 3)
    assert info.input == "images: uint8 RGB (batch, 3, height, width)"
    proto = onnx.load(exported[".onnx"].path)
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 1, "the exporter folds all norms but the last, behind the pooling"
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 32, 16]
    assert [d.dim_param or d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim] == ["batch", 32]


def test_files_hold_no_paths_of_the_machine_that_wrote_them(exported: dict[str, ExportedFile]) -> None:
    here = [str(Path.cwd()).encode(), str(Path(torch.__file__).parent).encode()]
    contents = [exported[".onnx"].path.read_bytes()]
    with zipfile.ZipFile(exported[".pt2"].path) as archive:
        contents += [archive.read(name) for name in archive.namelist()]
    assert not any(path in content for path in here for content in contents)


def test_a_file_that_differs_from_the_network_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "model.pt2"
    kept.write_text("the one before")
    good = export._write_pt2
    monkeypatch.setattr(export, "_write_pt2", lambda *a: lambda images: good(*a)(images) + 1e-3)
    with pytest.raises(RuntimeError, match="differs from the trained network"):
        export_run(run, tmp_path, formats=["pt2"])
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert kept.read_text() == "the one before"


def test_images_at_a_step_of_dcs_attention_are_told_apart() -> None:
    block = build_attention("dcs", 3, 2, 2)
    nn.init.eye_(block.selector.weight)
    nn.init.zeros_(block.selector.bias)
    extractor = Extractor(block, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).eval()
    extractor.normalize = nn.Identity()
    images = torch.full((3, 3, 2, 2), 2.0)
    images[1, 0, 1, 1] = 1e-6
    images[2, 0, 1, 1] = -1e-3
    assert mark_steps(extractor, images).tolist() == [False, True, False]


def test_the_command_writes_what_is_asked_for(capsys: pytest.CaptureFixture, run: Path, tmp_path: Path) -> None:
    code, out, err = run_command(capsys, "export", run, "--format", "pt2", "--out", tmp_path / "new")
    assert code == 0, err
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.pt2"]
    assert str(tmp_path / "new" / "model.pt2") in out
    assert "32 features, to be compared by cosine distance" in err
    assert "unknown format 'onxn'; did you mean onnx?" in refused(capsys, "export", run, "--format", "onxn").replace(
        " of an export", ""
    )
    assert "no format" in refused(capsys, "export", run, "--format", "")
    assert "is not a run folder" in refused(capsys, "export", tmp_path)
    assert "no best checkpoint; use --checkpoint last" in refused(capsys, "export", run, "--checkpoint", "best")


def test_a_missing_package_is_named_with_what_to_install(
    capsys: pytest.CaptureFixture, run: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = refused(capsys, "export", run)
    assert line.endswith("needs onnxscript, onnxruntime, not installed here; pip install onnxscript onnxruntime")
    assert "needs onnxruntime" in refused(capsys, "rank", model, "--query", run, "--gallery", run)


def test_without_its_data_a_run_is_checked_on_random_images(run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "run"))
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["data"]["root"] = "/no/such"
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    (moved / "data.json").unlink()
    (file,), source = export_run(moved, tmp_path / "out", formats=["pt2"])
    assert file.images == 8
    assert "no real images to check on: there is no folder /no/such" in source.notes[0]


def test_foreign_damaged_and_newer_files_are_refused(
    capsys: pytest.CaptureFixture, model: Path, tmp_path: Path
) -> None:
    folders = ["--query", tmp_path, "--gallery", tmp_path]
    (tmp_path / "a.onnx").write_bytes(model.read_bytes()[:1000])
    assert "is damaged or no ONNX file" in refused(capsys, "rank", tmp_path / "a.onnx", *folders)
    assert "there is no file" in refused(capsys, "rank", tmp_path / "none.onnx", *folders)
    proto = onnx.load(model)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "b.onnx")
    assert "was not written by dcs-nas export" in refused(capsys, "rank", tmp_path / "b.onnx", *folders)
    properties = OnnxModel(model).info.model_copy(update={"features": 16}).to_properties()
    onnx.helper.set_model_props(proto, properties)
    onnx.save(proto, tmp_path / "c.onnx")
    with pytest.raises(InputError, match="returns 32 features, but its metadata state 16; export the run again"):
        OnnxModel(tmp_path / "c.onnx").of_pixels([np.zeros((32, 16, 3), np.uint8)])
    newer = {**INFO.to_properties(), "dcs_nas.format": "9"}
    with pytest.raises(InputError, match="metadata of format 9, this dcs_nas reads 1"):
        read_properties(newer, source="x")
    with pytest.raises(InputError, match="damaged metadata"):
        read_properties({"dcs_nas.height": "{"}, source="x")
    assert read_properties(INFO.to_properties(), source="x") == INFO


# Ranking with an ONNX file


def test_an_exported_model_ranks_two_folders_as_the_evaluation_of_its_run_does(
    capsys: pytest.CaptureFixture, run: Path, model: Path, people: Path, tmp_path: Path
) -> None:
    expected = evaluate_run(run, rerank=True, rerank_k1=5).report
    options = ["--rerank", "--k1", 5, "--json", tmp_path / "scores.json"]
    folders = ["--query", people / "query", "--gallery", people / "bounding_box_test"]
    for source in (folders, ["--root", people]):
        code, out, err = run_command(capsys, "rank", model, *source, *options)
        assert code == 0, err
        assert "mAP" in out
        found = json.loads((tmp_path / "scores.json").read_text())
        assert found["mAP"] == pytest.approx(expected["mAP"], abs=1e-6)
        assert found["queries"] == expected["queries"]
        assert found["protocol"] == expected["protocol"]


def as_folder(people: Path, root: Path, *, cameras: bool) -> Path:
    """The tiny data set as SPLIT/PERSON/CAMERA/*.jpg, or SPLIT/PERSON/*.jpg."""
    for split, source in (("query", "query"), ("gallery", "bounding_box_test")):
        for image in sorted((people / source).iterdir()):
            person, camera = image.name.split("_")[:2]
            if person not in ("-1", "0000"):
                target = root / split / person / (camera[:2] if cameras else "")
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(image, target)
    return root


def as_csv(people: Path, root: Path, *, cameras: bool) -> Path:
    """The same as images.csv beside the images."""
    folder = as_folder(people, root, cameras=True)
    rows = [["path", "person", *(["camera"] if cameras else []), "split"]]
    for image in sorted(folder.glob("*/*/*/*.jpg")):
        split, person, camera, _ = image.relative_to(folder).parts
        rows.append([image.relative_to(folder).as_posix(), person, *([camera] if cameras else []), split])
    (root / "images.csv").write_text("\n".join(map(",".join, rows)))
    return root


@pytest.mark.parametrize("cameras", [True, False])
@pytest.mark.parametrize("kind", ["folder", "csv", "csv file", "market1501"])
def test_an_exported_model_ranks_data_of_every_kind_as_the_evaluation_of_its_run_does(
    capsys: pytest.CaptureFixture, run: Path, model: Path, people: Path, tmp_path: Path, kind: str, cameras: bool
) -> None:
    name, options = kind.split()[0], []
    if kind == "market1501":
        root = people
    else:
        root = (as_folder if kind == "folder" else as_csv)(people, tmp_path / "own", cameras=cameras)
        options = ["--data-option", "camera=none"] if kind == "folder" and not cameras else []
    expected = evaluate_run(run, data_name=name, root=root, data_options={"camera": "none"} if options else {}).report
    given = ["--root", root / "images.csv"] if kind == "csv file" else ["--root", root, "--data", name, *options]
    code, _, err = run_command(capsys, "rank", model, *given, "--json", tmp_path / "scores.json")
    assert code == 0, err
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["mAP"] == pytest.approx(expected["mAP"], abs=1e-6)
    assert found["queries"] == expected["queries"]
    assert found["protocol"] == expected["protocol"]
    assert found["protocol"]["name"] == ("no_camera_filter" if kind != "market1501" and not cameras else "cross_camera")


@pytest.mark.parametrize("gallery", ["folder of images", "market1501", "folder", "csv"])
def test_one_image_is_a_query(
    capsys: pytest.CaptureFixture, model: Path, people: Path, tmp_path: Path, gallery: str
) -> None:
    image = Path(shutil.copy(sorted((people / "query").iterdir())[1], tmp_path / "who is it.jpg"))
    if gallery == "folder of images":
        given, files = ["--gallery", people / "bounding_box_test"], (people / "bounding_box_test").iterdir()
    elif gallery == "market1501":
        given, files = ["--root", people], (people / "bounding_box_test").iterdir()
    else:
        root = (as_folder if gallery == "folder" else as_csv)(people, tmp_path / "own", cameras=True)
        given, files = ["--root", root, "--data", gallery], root.glob("gallery/*/*/*.jpg")
    code, out, err = run_command(capsys, "rank", model, "--query", image, *given)
    assert code == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["query"], row["rank"]) for row in rows] == [(image.as_posix(), str(k)) for k in range(1, 11)]
    paths = sorted(files)
    features = OnnxModel(model).features([image, *paths])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    nearest = np.argsort(-(features[1:] @ features[0]), kind="stable")[:10]
    assert [row["image"] for row in rows] == [paths[i].as_posix() for i in nearest]
    assert len(run_command(capsys, "rank", model, "--query", image, *given, "--top", 3)[1].splitlines()) == 4


def test_images_without_names_that_say_who_are_listed_by_distance(
    capsys: pytest.CaptureFixture, model: Path, people: Path, tmp_path: Path
) -> None:
    query, gallery = tmp_path / "query", tmp_path / "gallery"
    query.mkdir()
    shutil.copytree(people / "bounding_box_test", gallery)
    for i, file in enumerate(sorted((people / "query").iterdir())[:3]):
        shutil.copy(file, query / f"holiday{i}.jpg")
    shutil.copy(query / "holiday1.jpg", gallery / "same.jpg")
    line = refused(capsys, "rank", model, "--query", query, "--gallery", gallery)
    assert "holiday0.jpg does not parse" in line
    assert "or give --top K" in line
    options = ["--query", query, "--gallery", gallery, "--top", 4]
    code, _, err = run_command(capsys, "rank", model, *options, "--csv", tmp_path / "lists.csv")
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "lists.csv").read_text().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"] * 3
    assert rows[4]["image"].endswith("same.jpg")
    assert float(rows[4]["distance"]) == pytest.approx(0, abs=1e-5)
    paths = sorted(query.iterdir()), sorted(gallery.iterdir())
    of_query, of_gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(OnnxModel(model).features, paths))
    for q, similarities in enumerate(of_query @ of_gallery.T):
        nearest = [paths[1][i].as_posix() for i in np.argsort(-similarities, kind="stable")[:4]]
        assert [row["image"] for row in rows[4 * q : 4 * q + 4]] == nearest
    assert run_command(capsys, "rank", model, *options)[1] == (tmp_path / "lists.csv").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--query", "."], "give --query DIR and --gallery DIR, or --root DIR alone"),
        (["--root", ".", "--query", "q", "--gallery", "q"], "give --query DIR and --gallery DIR, or --root DIR alone"),
        (["--root", "q", "--query", "q"], "the images of q have no identities of the data set in q; give --top K"),
        (["--query", "q", "--gallery", "q", "--data", "folder"], "--data goes with --root DIR"),
        (["--query", "q", "--gallery", "q", "--data-option", "a=1"], "--data-option goes with --root DIR"),
        (["--root", "q", "--data", "foldr"], "unknown data set 'foldr'; did you mean folder"),
        (["--root", "q", "--data", "folder", "--data-option", "camra=none"], "did you mean camera"),
        (["--root", "q"], "of another data set name the kind by --data, such as folder or csv"),
        (["--query", "none.jpg", "--gallery", "q"], "there is no file none.jpg; give an image, or a folder of images"),
        (["--query", "q/a.txt", "--gallery", "q"], "does not decode as an image"),
        (["--query", "q/a.txt", "--gallery", "q", "--json", "s.json"], "--json is about scores, and a list of the 10"),
        (["--query", "none", "--gallery", "."], "there is no folder none"),
        (["--root", "."], "expected query, bounding_box_test"),
        (["--query", "q", "--gallery", "q", "--top", 2, "--confidence", 100], "--confidence is about scores"),
        (["--query", "q", "--gallery", "q", "--k1", 3], "re-ranking is off"),
    ],
)
def test_wrong_options_of_rank_are_one_clear_line(
    capsys: pytest.CaptureFixture, model: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: list, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(people / "query", "q")
    Path("q/a.txt").write_text("no image")
    assert message in refused(capsys, "rank", model, *options)


def test_folders_go_with_an_onnx_file_alone(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert "--query goes with an ONNX file" in refused(capsys, "rank", tmp_path / "f.npz", "--query", tmp_path)
