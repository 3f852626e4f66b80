"""Pretraining on folders of classes: what is learnt and measured, resumed, and loaded by the training that follows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

import dcs_nas
from dcs_nas import api
from dcs_nas.config import Config, load_config
from dcs_nas.data.datamodule import ReidData
from dcs_nas.data.datasets import load_dataset
from dcs_nas.errors import InputError
from dcs_nas.models.heads import Embedding
from dcs_nas.models.weights_survey import read_weights_file
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.space import find_shipped_file, load_genotype
from dcs_nas.training.checkpoints import load_checkpoint, weights_file
from dcs_nas.training.retrain_job import run_pretraining, run_retraining
from dcs_nas.training.retraining import Pretraining, accuracy
from tests.chains import chain_space, random_chain
from tests.command_line import refused, run_command
from tests.make_datasets import write_folder
from tests.run_folders import genotypes

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
JOB = """
name: tiny
data: {name: class_folders, height: 32, width: 16, identities_per_batch: 8, images_per_identity: 1}
augment: {resized_crop: 0.5, pad: 0, erase: 0}
pretrain: {backbone: resnet10_small, backbone_options: {base: 4}, epochs: 2, warmup_epochs: 0, lr: 0.01}
trainer: {accelerator: cpu, threads: 1, loggers: []}
"""
PEOPLE = {"name": "market1501", "identities_per_batch": 4, "images_per_identity": 2}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise about a colour for each class: 6 images of each to train on, 2 to validate on."""
    root = tmp_path_factory.mktemp("classes") / "images"
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in CLASSES:
            color = np.random.default_rng(CLASSES.index(name)).integers(0, 256, 3)
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(color + random.normal(0, 10, (40, 30, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def job(classes: Path) -> Any:
    def read(*overrides: str) -> Config:
        file = classes.parent / "job.yaml"
        file.write_text(JOB)
        place = [f"data.root={classes}", f"data.cache={classes.parent / 'cache'}"]
        return load_config(file, [*place, *overrides])

    return read


@pytest.fixture(scope="module")
def run(job: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pretrain"
    run_pretraining(job(), folder)
    return folder


def _state(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]


def _retrain(people: Path, **settings: Any) -> Config:
    values = yaml.safe_load(JOB)
    values["data"] |= {**PEOPLE, "root": people, "cache": people.parent / "cache"}
    values["retrain"] = {**values.pop("pretrain"), "epochs": 1, **settings}
    return Config.model_validate(values)


def test_a_run_learns_the_classes_and_measures_top_1_and_top_5(job: Any, run: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    run_pretraining(job("pretrain.epochs=25", "augment.resized_crop=0", "pretrain.validate_every=5"), longer)
    rows = read_metrics(longer / "metrics.csv")
    assert [row["epoch"] for row in rows if "validation/top-1" in row] == [4, 9, 14, 19, 24]
    assert rows[-1]["validation/top-1"] > 0.8
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    best = load_checkpoint(longer / "checkpoints" / "best.ckpt")["epoch"]
    measured = {row["epoch"]: row["validation/top-1"] for row in rows if "validation/top-1" in row}
    assert best == max(measured, key=lambda epoch: measured[epoch])
    config = RunFolder(run).config()
    assert (config.pretrain is not None, config.retrain, config.search) == (True, None, None)
    assert RunFolder(run).contents().kind == "pretrain"
    assert "network.heads.0.classifier.bias" in _state(run)
    assert "network.heads.0.neck.weight" not in _state(run)


def test_the_loss_is_the_cross_entropy_with_label_smoothing_alone(job: Any, run: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    run_pretraining(job("pretrain.label_smoothing=0", "loss.triplet_margin=0.9"), plain)
    for folder, smoothing in ((run, 0.1), (plain, 0.0)):
        columns = set(read_metrics(folder / "metrics.csv")[0])
        assert {name for name in columns if name.startswith("train/")} == {"train/loss", "train/identity"}
        state = _state(folder)
        assert smoothing == RunFolder(folder).config().pretrain.label_smoothing
        assert state["network.heads.0.classifier.weight"].shape[0] == len(CLASSES)
    assert "WARNING loss.triplet_margin has no effect: the job is pretrain" in (plain / "log.txt").read_text()
    assert not torch.equal(_state(run)["network.backbone.conv1.weight"], _state(plain)["network.backbone.conv1.weight"])


class _Scores(nn.Module):
    """Scores that are read off the image's first pixel: class c is ranked c-th from that of the pixel on."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def embed(self, images: Tensor, cameras: Tensor) -> Embedding:
        first = (images[:, 0, 0, 0]).round().long()
        ranks = (torch.arange(8) - first[:, None]) % 8
        return Embedding(ranks.float(), [-ranks.float() * self.scale, -2.0 * ranks])


def test_accuracy_equals_a_count(job: Any) -> None:
    data = ReidData(job("data.mean=[0,0,0]", "data.std=[0.003921569,1,1]", "data.test_batch=5"))
    pixels = np.zeros((16, 32, 16, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(16) % 8
    images, _ = data.load_classes_and_validation(share=0)
    images = images.subset(range(16))
    images.pixels = pixels
    images.labels = np.array([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 4])
    first = sum(label == image % 8 for image, label in enumerate(images.labels)) / 16
    five = sum((label - image) % 8 < 5 for image, label in enumerate(images.labels)) / 16
    assert accuracy(_Scores(), data, images) == (first, five)
    assert 0 < first < five < 1


def test_an_interrupted_pretraining_resumes_to_the_same_bits(
    job: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Pretraining.on_train_epoch_start

    def interrupted(self: Pretraining) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "on_train_epoch_start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_pretraining(job(), tmp_path / "broken")
    run_pretraining(job(), tmp_path / "broken", resume=True)
    whole, resumed = _state(run), _state(tmp_path / "broken")
    assert set(whole) == set(resumed)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    with pytest.raises(InputError, match=r"began with pretrain.lr=0.01, not 0.5"):
        run_pretraining(job("pretrain.lr=0.5"), tmp_path / "broken", resume=True)


@pytest.mark.parametrize("place", ["", "checkpoints/last.ckpt", "checkpoints/best.ckpt"])
def test_a_training_starts_from_the_run_with_the_backbone_whole_and_the_head_new(
    run: Path, people: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcs_nas.training.retraining.Retraining.step", lambda *_: None)
    run_retraining(_retrain(people, weights=run / place), tmp_path / "retrain")
    kept = load_checkpoint(run / (place or "checkpoints/last.ckpt"))["state_dict"]
    started = _state(tmp_path / "retrain")
    backbone = [name for name in started if name.startswith("network.backbone.")]
    assert len(backbone) > 20
    assert all(torch.equal(started[name], kept[name]) for name in backbone)
    assert started["network.heads.0.classifier.weight"].shape[0] == 8
    assert "network.heads.0.classifier.bias" not in started
    report = yaml.safe_load((tmp_path / "retrain" / "weights.json").read_text())
    assert (report["supplied"], report["left_random"]) == (report["numbers"], [])


def test_the_average_of_the_weights_is_what_a_training_starts_from(job: Any, people: Path, tmp_path: Path) -> None:
    run_pretraining(job("pretrain.ema_decay=0.5", "pretrain.epochs=1"), tmp_path / "pretrain")
    file = read_weights_file(weights_file(tmp_path / "pretrain"))
    assert (file.family, file.networks) == ("a network trained by dcs-nas", ("ema", "network"))
    network = api.TrainedRun(tmp_path / "pretrain").network
    run_retraining(_retrain(people, weights=tmp_path / "pretrain", freeze_epochs=1), tmp_path / "retrain")
    started, state = _state(tmp_path / "retrain"), _state(tmp_path / "pretrain")
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(started[f"network.backbone.{name}"], value)
        assert torch.equal(state[f"ema.backbone.{name}"], value)


@pytest.mark.parametrize("kind", ["cells", "chain", "units"])
def test_a_genotype_is_pretrained_and_then_trained(job: Any, people: Path, tmp_path: Path, kind: str) -> None:
    """Cells, a chain, and units as in DCS-DNAS' code, whose attention has windows of channels."""
    unit = {"kernels": [3], "expansions": [6], "shared_width": True, "attention": ["dcs_window"]}
    units = [{"blocks": 2, "stride": 2, "widths": widths, **unit} for widths in ([8, 12], [12, 16])]
    space = chain_space(units, head_expansion=6) if kind == "units" else chain_space()
    file = tmp_path / "genotype.yaml"
    file.write_text(genotypes(1)[0].to_yaml() if kind == "cells" else random_chain(space, 0).to_yaml())
    settings = job("pretrain={epochs: 1, warmup_epochs: 0}", f"results={tmp_path}")
    pretrained = dcs_nas.pretrain(settings, genotype=file)
    assert pretrained.folder == tmp_path / "tiny" / "pretrain"
    assert load_genotype(pretrained.folder / "genotype.yaml") == load_genotype(file)
    retrain = _retrain(people, backbone=None, backbone_options={}, weights=pretrained.folder)
    trained = dcs_nas.retrain(retrain, genotype=file, out=tmp_path / "retrain")
    report = yaml.safe_load((trained.folder / "weights.json").read_text())
    assert (report["supplied"], report["left_random"]) == (report["numbers"], [])
    assert trained.evaluate().mAP > 0


def test_identities_are_classes_of_which_a_share_of_the_images_is_held_out(
    job: Any, people: Path, tmp_path: Path
) -> None:
    place = [f"data.root={people}", "data.name=market1501"]
    config = job(*place, "pretrain.validation=0.25", "pretrain.epochs=1")
    images, held = ReidData(config).load_classes_and_validation(share=0.25)
    assert held is not None
    assert set(images.labels) == set(held.labels) == set(range(8))
    paths = [{record.path for record in part.records} for part in (images, held)]
    assert not paths[0] & paths[1]
    run_pretraining(config, tmp_path / "run")
    assert "validation/top-5" in read_metrics(tmp_path / "run" / "metrics.csv")[0]
    assert "held out" not in (tmp_path / "run" / "log.txt").read_text()
    run_pretraining(job(*place, "pretrain.validate_every=2", "pretrain.epochs=1"), tmp_path / "without")
    said = (tmp_path / "without" / "log.txt").read_text()
    assert (
        "pretrain.validate_every has no effect: pretrain.validation is False and pretrain.test_curve is False" in said
    )


def test_a_pretrained_network_is_scored_on_people_reported_and_listed(
    run: Path, people: Path, capsys: pytest.CaptureFixture
) -> None:
    scores = dcs_nas.evaluate(run, data_name="market1501", root=people)
    assert 0 < scores.mAP <= 1
    code, out, _ = run_command(capsys, "runs", run.parent)
    assert (code, "pretrain" in out, "2/2" in out) == (0, True, True)
    assert run_command(capsys, "report", run, "--out", run.parent / "report.html")[0] == 0
    page = (run.parent / "report.html").read_text()
    assert "pretraining on classes of images" in page
    assert "top-1" in page
    assert run_command(capsys, "profile", run)[0] == 0
    assert isinstance(dcs_nas.load_run(run), dcs_nas.TrainedRun)
    assert "has no queries or gallery to evaluate on" in refused(capsys, "evaluate", run)


def test_the_command_pretrains_and_says_how_to_go_on(
    classes: Path, job: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    job()
    words = [classes.parent / "job.yaml", "-o", f"data.root={classes}", "-o", f"results={tmp_path}"]
    code, out, err = run_command(capsys, "pretrain", *words, "-o", "pretrain.epochs=1")
    assert code == 0, err
    assert "held-out" in out
    assert re.search(r" \d+\.\d\d % ", out)
    assert f"-o retrain.weights={tmp_path / 'tiny' / 'pretrain'}" in err
    assert "has no section 'pretrain'; use another or add it: dcs-nas pretrain" in refused(
        capsys, "pretrain", "market1501_retrain"
    )
    assert "holds a run already" in refused(capsys, "pretrain", *words)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrain.backbone=null"], "neither a genotype nor pretrain.backbone is given"),
        (["pretrain.weights=nowhere.pth"], "nowhere.pth"),
        (["pretrain.validation=0.5"], "pretrain.validation is 0.5, but class_folders in"),
        (["data.identities_per_batch=400"], "lower data.identities_per_batch"),
        (["pretrain.head.pool=gemm"], "gemm"),
        (["pretrain.weights=FOLDER"], "there is no checkpoint"),
    ],
)
def test_bad_settings_are_one_line_that_names_the_section(
    job: Any, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(InputError) as error:
        run_pretraining(job(*(item.replace("FOLDER", str(tmp_path)) for item in overrides)), tmp_path / "run")
    assert message in str(error.value)
    assert "retrain." not in str(error.value).replace("pretrain.", "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"cat": ["1.jpg"], "dog": ["1.jpg"]}, "expected the folders train and val; sort the images into"),
        ({"imagenet/train/cat": ["1.jpg"], "imagenet/val/cat": ["1.jpg"]}, "expected the folders train and val; give"),
        ({"train": ["1.jpg", "2.jpg"]}, "expected a folder for each class: sort the images into them"),
        ({"train/cat": ["1.jpg"]}, "holds 1 folders of classes, expected at least two"),
        ({"train/cat": ["1.jpg"], "train/dog": ["1.jpg"], "val": ["1.jpg"]}, "val holds 1.jpg, expected a folder for"),
        (
            {"train/cat": ["1.jpg"], "train/dog": ["1.jpg"], "val/cow": ["1.jpg"], "val/dog": ["1.jpg"]},
            "holds 1 classes that",
        ),
    ],
)
def test_wrong_layouts_are_one_line_each(tmp_path: Path, tree: dict[str, list[str]], message: str) -> None:
    write_folder(tmp_path, tree)
    with pytest.raises(InputError) as error:
        load_dataset("class_folders", tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_of_one_image_cannot_be_held_out(job: Any, classes: Path, tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / "one" / "train" / name).mkdir(parents=True)
        shutil.copy(classes / "train" / name / "0.png", tmp_path / "one" / "train" / name)
    config = job(f"data.root={tmp_path / 'one'}", "data.identities_per_batch=2", "pretrain.validation=0.5")
    with pytest.raises(InputError, match="each of the 6 classes to train on has a single image, so none can be held"):
        run_pretraining(config, tmp_path / "run")


def test_the_shipped_configuration_has_the_published_values_and_trains(classes: Path, tmp_path: Path) -> None:
    """imageNetDA/configs/fbnetv2_config.yaml of DCS-Attention at 73573cd."""
    config = load_config(find_shipped_file("configs", "pretrain_imagenet"))
    settings = config.pretrain
    assert settings is not None
    assert (config.data.height, config.data.width, config.data.batch_size) == (224, 224, 64)
    assert (settings.epochs, settings.optimizer, settings.lr, settings.momentum) == (200, "sgd", 0.05, 0.9)
    assert (settings.weight_decay, settings.schedule, settings.lr_min, settings.label_smoothing) == (
        4e-5,
        "cosine",
        0,
        0,
    )
    changes = ["pretrain.epochs=1", "pretrain.backbone=resnet10_small", f"data.root={classes}", "data.height=32"]
    changes += ["data.width=32", "data.identities_per_batch=16", f"results={tmp_path}", "trainer.accelerator=cpu"]
    run = dcs_nas.pretrain("pretrain_imagenet", changes)
    assert run.folder == tmp_path / "imagenet" / "pretrain"
    assert "validation/top-1" in run.metrics[0]
