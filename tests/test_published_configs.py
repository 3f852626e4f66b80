"""Configurations of published recipes: each has the published values, and runs two steps at its own image size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from pydantic import BaseModel
from torch import nn

from dcs_nas.config import load_config
from dcs_nas.config.idle import idle_settings
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.errors import InputError
from dcs_nas.models.build import build_fixed
from dcs_nas.training import checkpoints, retrain_job
from dcs_nas.training.acceleration import is_slow_in_bfloat16
from dcs_nas.training.retrain_job import run_retraining
from dcs_nas.training.retraining import Retraining
from dcs_nas.training.trainer import make_trainer
from tests.run_folders import config as tiny_config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


class Published(NamedTuple):
    """``settings``: those of ours to the value that ``source`` has; ``ours``: settings of which it says nothing."""

    source: str
    settings: dict[str, Any]
    ours: tuple[str, ...] = ()


IMAGENET = {"data.mean": (0.485, 0.456, 0.406), "data.std": (0.229, 0.224, 0.225)}
HALF = {"data.mean": (0.5, 0.5, 0.5), "data.std": (0.5, 0.5, 0.5)}
P16K4 = {"data.identities_per_batch": 16, "data.images_per_identity": 4}
PLAIN = {"retrain.groups": {}, "retrain.freeze_steps": 0, "retrain.freeze_epochs": 0, "retrain.ema_decay": None}
SOFT_MARGIN = {"loss.triplet_margin": None}
STRONG = P16K4 | {  # the images, augmentation and losses of arXiv 1903.07071, which many took over
    "data.name": "market1501",
    "data.height": 256,
    "data.width": 128,
    "data.sampler": "identity",
    "augment.flip": 0.5,
    "augment.pad": 10,
    "augment.erase": 0.5,
    "loss.label_smoothing": 0.1,
    "loss.triplet_margin": 0.3,
}

# JDAI-CV/fast-reid at c9bc3ce, configs/Base-bagtricks.yml and fastreid/config/defaults.py.
FAST_REID = IMAGENET | {
    "data.name": "market1501",
    "data.sampler": "identity",  # NaiveIdentitySampler
    "augment.flip": 0.5,
    "augment.pad": 10,
    "augment.erase": 0.5,
    "augment.erase_area": 0.33,  # torchvision.transforms.RandomErasing
    "augment.erase_fill": "mean",
    "loss.label_smoothing": 0.1,  # CE.EPSILON
    "loss.identity_weight": 1.0,
    "loss.triplet_weight": 1.0,
    "loss.triplet_normalize": False,  # TRI.NORM_FEAT
    "retrain.backbone": "resnet50",
    "retrain.optimizer": "adam",
    "retrain.lr": 3.5e-4,
    "retrain.weight_decay": 5e-4,
    "retrain.groups": {},  # HEADS_LR_FACTOR, BIAS_LR_FACTOR 1, WEIGHT_DECAY_NORM as all
    "retrain.warmup_steps": 2000,  # WARMUP_ITERS
    "retrain.warmup_factor": 0.1,
    "retrain.head.neck": True,
    "evaluate.metric": "cosine",
    "evaluate.neck": "after",  # heads/embedding_head.py: what it returns in evaluation
}
BOT = (
    FAST_REID
    | P16K4
    | {
        "data.height": 256,
        "data.width": 128,
        "loss.triplet_margin": 0.3,
        "loss.triplet_mining": "hard",
        "retrain.weights": "resnet50-19c8e357.pth",  # modeling/backbones/resnet.py
        "retrain.backbone_options": {"last_stride": 1},
        "retrain.head.pool": "avg",
        "retrain.head.loss_features": "before",  # NECK_FEAT
        "retrain.head.classifier": "linear",
        "retrain.epochs": 120,
        "retrain.freeze_steps": 0,
        "retrain.schedule": "multistep",
        "retrain.milestones": (40 + 9, 90 + 9),  # engine/hooks.py counts from the first epoch that ends warmed up
        "retrain.gamma": 0.1,
    }
)
# KaiyangZhou/deep-person-reid at f8cd150, scripts/default_config.py; all images in one shuffling, no augmentation but
# the named; torchreid/engine/image/softmax.py.
TORCHREID = IMAGENET | {
    "seed": 1,
    "data.name": "market1501",
    "data.sampler": "shuffle",
    "augment.flip": 0.5,
    "augment.pad": 0,
    "augment.erase": 0,
    "loss.triplet_weight": 0,
    "loss.label_smoothing": 0.1,
    "retrain.head.neck": False,
    "retrain.head.classifier": "biased",
    "retrain.weight_decay": 5e-4,
    "retrain.groups": {},
    "retrain.warmup_epochs": 0,
    "retrain.schedule": "multistep",
    "retrain.gamma": 0.1,
    "evaluate.metric": "euclidean",
}
# damo-cv/TransReID at dec5504, configs/Market/vit_base.yml, config/defaults.py, solver/, loss/make_loss.py.
TRANSREID = (
    HALF
    | STRONG
    | SOFT_MARGIN
    | {
        "seed": 1234,
        "augment.erase_area": pytest.approx(1 / 3, abs=1e-4),  # timm.data.random_erasing
        "augment.erase_fill": "noise",  # mode pixel
        "loss.label_smoothing": 0,  # IF_LABELSMOOTH off
        "retrain.head.neck": True,
        "retrain.head.loss_features": "before",
        "retrain.epochs": 120,
        "retrain.optimizer": "sgd",
        "retrain.lr": 0.008,
        "retrain.momentum": 0.9,
        "retrain.weight_decay": 1e-4,  # of biases too: WEIGHT_DECAY_BIAS
        "retrain.groups": {"bias": {"lr": 2}, "norm_bias": {"lr": 2}},  # every name with "bias": BIAS_LR_FACTOR
        "retrain.warmup_epochs": 5,
        "retrain.warmup_factor": 0.01,  # solver/scheduler_factory.py
        "retrain.schedule": "cosine",
        "retrain.cosine_over": "all",  # solver/cosine_lr.py, warmup_prefix False
        "retrain.lr_min": pytest.approx(0.002 * 0.008),
        "evaluate.metric": "cosine",  # FEAT_NORM
        "evaluate.neck": "before",
    }
)
TIMM_VIT = {"retrain.weights": "jx_vit_base_p16_224-80ecf9dd.pth"}
JPM = (0.5, 0.125, 0.125, 0.125, 0.125)  # 0.5 of the whole's, 0.5 of the mean of four parts'
HALF_PRECISION = ("trainer.precision",)  # AMP in float16, which we do in bfloat16

PUBLISHED = {
    "bot_r50": Published("fast-reid, configs/Market1501/bagtricks_R50.yml", BOT, HALF_PRECISION),
    "agw_r50": Published(
        "fast-reid, configs/Market1501/AGW_R50.yml",
        BOT
        | SOFT_MARGIN  # MARGIN 0.0
        | {
            "loss.triplet_mining": "weighted",  # HARD_MINING False
            "retrain.backbone_options": {"last_stride": 1, "non_local": True},
            "retrain.head.pool": "gem_fixed",  # GeneralizedMeanPooling
        },
        HALF_PRECISION,
    ),
    "sbs_r50_ibn": Published(
        "fast-reid, configs/Market1501/sbs_R50-ibn.yml",
        FAST_REID
        | SOFT_MARGIN  # MARGIN 0.0
        | {
            "data.height": 384,
            "data.width": 128,
            "data.identities_per_batch": 4,
            "data.images_per_identity": 16,
            "augment.policy": "autoaugment",
            "augment.policy_probability": 0.1,
            "loss.triplet_mining": "hard",
            "retrain.weights": "resnet50_ibn_a-d9d0bb7b.pth",
            "retrain.backbone_options": {"last_stride": 1, "ibn": "a", "non_local": True},
            "retrain.head.pool": "gem",  # GeneralizedMeanPoolingP
            "retrain.head.loss_features": "after",  # NECK_FEAT
            "retrain.head.classifier": "circle",
            "retrain.head.scale": 64,
            "retrain.head.margin": 0.35,
            "retrain.epochs": 60,
            "retrain.freeze_steps": 1000,
            "retrain.schedule": "cosine",
            "retrain.flat_epochs": 30,
            "retrain.lr_min": 7e-7,
        },
        HALF_PRECISION,
    ),
    "rga_sc_cuhk03": Published(
        "microsoft/Relation-Aware-Global-Attention-Networks at cdc9965, main_imgreid.py, scripts/run_rgasc_cuhk03.sh",
        IMAGENET
        | P16K4
        | PLAIN
        | {
            "seed": 16,
            "data.name": "cuhk03",
            "data.options": {"labels": "labeled", "protocol": "new"},
            "data.height": 256,
            "data.width": 128,
            "data.sampler": "identity_once",  # utils/data/sampler.py
            "augment.flip": 0.5,
            "augment.pad": 0,
            "augment.translate": 0.5,  # Random2DTranslation
            "augment.erase": 0.5,
            "augment.erase_area": 0.4,
            "augment.erase_fill": "mean",
            "loss.label_smoothing": 0.1,
            "loss.triplet_margin": 0.3,
            "retrain.weights": "resnet50-19c8e357.pth",
            "retrain.backbone": "resnet50",
            "retrain.backbone_options": {
                "last_stride": 1,
                "attention": "rga",
                "attention_stages": ["layer1", "layer2", "layer3", "layer4"],
                "attention_settings": {"gate_start": "published"},
            },
            "retrain.head.pool": "avg",
            "retrain.head.neck": True,
            "retrain.head.loss_features": "before",
            "retrain.epochs": 600,
            "retrain.optimizer": "adam",
            "retrain.lr": 8e-4,
            "retrain.weight_decay": 5e-4,
            "retrain.warmup_epochs": 20,
            "retrain.warmup_factor": pytest.approx(8e-6 / 8e-4),
            "retrain.schedule": "multistep",
            "retrain.milestones": (80, 120, 160, 200, 240, 280, 320, 360),
            "retrain.gamma": 0.5,
            "evaluate.metric": "cosine",
            "evaluate.neck": "after",
            "evaluate.flip": False,
            "trainer.precision": "32-true",
        },
    ),
    "hacnn_market1501": Published(
        "torchreid, docs/MODEL_ZOO.md; KaiyangZhou/deep-person-reid, issue 27",
        TORCHREID
        | {
            "data.height": 160,
            "data.width": 64,
            "data.identities_per_batch": 8,  # batch_size 32
            "data.images_per_identity": 4,
            "augment.translate": 0.5,  # random_crop
            "retrain.weights": None,
            "retrain.backbone": "hacnn",
            "retrain.backbone_options": {"learn_region": True, "gate_start": "published"},
            "retrain.epochs": 300,
            "retrain.optimizer": "sgd",
            "retrain.lr": 0.03,
            "retrain.momentum": 0.9,
            "retrain.milestones": (150, 225),
        },
    ),
    "osnet": Published(
        "torchreid, configs/im_osnet_x1_0_softmax_256x128_amsgrad.yaml",
        TORCHREID
        | P16K4  # batch_size 64
        | {
            "data.height": 256,
            "data.width": 128,
            "augment.translate": 0,
            "retrain.weights": "osnet_x1_0_imagenet.pth",
            "retrain.backbone": "osnet_x1_0",
            "retrain.epochs": 150,
            "retrain.optimizer": "adam",
            "retrain.amsgrad": True,
            "retrain.betas": (0.9, 0.999),
            "retrain.lr": 0.0015,
            "retrain.freeze_epochs": 10,  # fixbase_epoch
            "retrain.milestones": (60, 120),  # stepsize [60] of 150
        },
    ),
    "msinet_scratch": Published(
        "vimar-gu/MSINet at 2a8845b, train.py, reid/",
        IMAGENET
        | STRONG
        | PLAIN
        | {
            "augment.erase_area": 0.4,
            "loss.triplet_normalize": True,
            "loss.identity_branches": (1, 1),
            "loss.triplet_branches": (1, 1),
            "retrain.weights": None,
            "retrain.backbone": "msinet",
            "retrain.head.square": True,  # fc, f_fc
            "retrain.head.neck": True,
            "retrain.head.classifier": "biased",
            "retrain.head.loss_features": "before",
            "retrain.head.test_weights": (1, 1),
            "retrain.epochs": 350,
            "retrain.optimizer": "sgd",
            "retrain.lr": 0.065,
            "retrain.momentum": 0.9,
            "retrain.weight_decay": 5e-4,
            "retrain.warmup_epochs": 10,
            "retrain.warmup_factor": 0.01,
            "retrain.schedule": "multistep",
            "retrain.milestones": (150, 225, 300),
            "retrain.gamma": 0.1,
            "evaluate.metric": "cosine",  # feat_norm
            "evaluate.neck": "before",
        },
    ),
    "transreid_vit_base": Published(
        "TransReID, configs/Market/vit_sie.yml",
        TRANSREID
        | TIMM_VIT
        | {
            "retrain.backbone": "vit_base",
            "retrain.backbone_options": {"stride": 16, "cameras": 6, "camera_weight": 3.0, "drop_path": 0.1},
        },
        HALF_PRECISION,
    ),
    "transreid_vit_base_jpm": Published(
        "TransReID, configs/Market/vit_transreid_stride.yml, model/make_model.py",
        TRANSREID
        | TIMM_VIT
        | {
            "retrain.backbone": "transreid_vit_base",
            "retrain.backbone_options": {
                "stride": 12,
                "cameras": 6,
                "camera_weight": 3.0,
                "drop_path": 0.1,
                "shift": 5,
                "groups": 2,
            },
            "loss.identity_branches": JPM,
            "loss.triplet_branches": JPM,
            "retrain.head.test_weights": (1, 1 / 4, 1 / 4, 1 / 4, 1 / 4),
        },
        HALF_PRECISION,
    ),
    "solider_swin_base": Published(
        "tinyvision/SOLIDER-REID at 8c08e1c, configs/market/swin_base.yml, README.md, solver/",
        TRANSREID
        | {
            "data.height": 384,
            "retrain.backbone": "swin_base",
            "retrain.backbone_options": {"semantic_weight": 0.2, "drop_path": 0.1},
            "retrain.head.pool": "avg",
            "retrain.lr": 8e-4,
            "retrain.warmup_epochs": 20,
            "retrain.lr_min": pytest.approx(0.002 * 8e-4),
        },
        (*HALF_PRECISION, "retrain.weights"),  # there the path of a converted file
    ),
    "clip_vit_base": Published(
        "Syliz517/CLIP-ReID at eb1898b, configs/person/vit_base.yml, model/make_model.py, loss/make_loss.py",
        {name: value for name, value in TRANSREID.items() if name not in ("retrain.momentum", "retrain.cosine_over")}
        | {
            "loss.label_smoothing": 0.1,  # IF_LABELSMOOTH on
            "loss.triplet_margin": 0.3,
            "loss.identity_branches": (1, 1, 0),
            "loss.triplet_branches": (1, 1, 1),
            "retrain.weights": "ViT-B-16.pt",
            "retrain.backbone": "clip_reid_vit_base",
            "retrain.backbone_options": {"stride": 16, "projection": 512},
            "retrain.head.test_weights": (1, 1, 0),
            "retrain.epochs": 60,
            "retrain.optimizer": "adam",
            "retrain.lr": 5e-6,
            "retrain.warmup_epochs": 10,
            "retrain.warmup_factor": 0.1,
            "retrain.schedule": "multistep",
            "retrain.lr_min": 0,
            "retrain.milestones": (30, 50),
            "retrain.gamma": 0.1,
        },
        HALF_PRECISION,
    ),
    "dcs_fb_vit": Published(
        "TransReID, configs/Market/vit_base.yml",
        {name: value for name, value in TRANSREID.items() if name != "seed"}
        | {"retrain.backbone": "vit_base", "retrain.weights": None},
        ("loss.ib_kind", "loss.ib_weight", "loss.ib_temperature", "dcs.tau", "dcs.decay",
         "retrain.backbone_options", *HALF_PRECISION),
    ),
    "dcs_fb_resnet50": Published(
        "arXiv 1903.07071; michuanhaohao/reid-strong-baseline at 3da7e6f, configs/softmax_triplet_with_center.yml",
        IMAGENET
        | STRONG
        | PLAIN
        | {
            "augment.erase_area": 0.4,
            "loss.center_weight": 5e-4,
            "retrain.weights": None,
            "retrain.center_lr": 0.5,
            "retrain.backbone": "resnet50",
            "retrain.epochs": 120,
            "retrain.optimizer": "adam",
            "retrain.lr": 3.5e-4,
            "retrain.weight_decay": 5e-4,
            "retrain.warmup_epochs": 10,
            "retrain.warmup_factor": 0.1,  # the paper: from 3.5e-5; the code: 0.01
            "retrain.schedule": "multistep",
            "retrain.milestones": (40, 70),
            "retrain.gamma": 0.1,
            "retrain.head.pool": "avg",
            "retrain.head.neck": True,
            "evaluate.metric": "cosine",
            "evaluate.neck": "after",
        },
        ("loss.ib_kind", "loss.ib_weight", "loss.ib_temperature", "dcs.tau", "dcs.decay",
         "retrain.backbone_options", *HALF_PRECISION),
    ),
    "dcs_code_mobilenet_v2": Published(
        "Statistical-Deep-Learning/DCS-Attention at 02400e1, configs/reid_DAS_config.yml",
        STRONG
        | {
            "loss.center_weight": 5e-4,
            "retrain.weights": None,  # BACKBONE_PRETRAIN False
            "retrain.backbone": "mobilenet_v2",
            "retrain.backbone_options": {"last_stride": 1, "attention": "dcs_window"},
            "retrain.epochs": 1400,
            "retrain.optimizer": "sgd",
            "retrain.lr": 0.035,
            "retrain.momentum": 0.9,
            "retrain.weight_decay": 5e-4,
            "retrain.warmup_epochs": 10,
            "retrain.warmup_factor": 0.1,
            "retrain.schedule": "multistep",
            "retrain.milestones": (801, 1001, 1201, 1301),
            "retrain.gamma": 0.1,
            "retrain.center_lr": 0.5,
            "retrain.head.neck": True,
            "evaluate.metric": "cosine",
            "evaluate.neck": "after",
        },
        HALF_PRECISION,
    ),
}  # fmt: skip
OTHERS = ("dcs_fb_osnet", "dcs_fb_mobilenet_v2")  # their schedules are ours
PRETRAINED = [
    name for name, published in PUBLISHED.items() if published.settings.get("retrain.weights", "") is not None
]


def value_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    if isinstance(config, BaseModel):
        return config.model_dump(exclude_defaults=True)
    return config.name if isinstance(config, Path) else config


def set_by(config: BaseModel, before: str = "") -> Iterator[str]:
    """Names of all settings that a file has, sections apart; ``retrain.groups`` as one."""
    for name in config.model_fields_set:
        value = getattr(config, name)
        if isinstance(value, BaseModel) and f"{before}{name}" != "retrain.groups":
            yield from set_by(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_configuration_has_the_published_values_and_no_other_settings(name: str) -> None:
    config, published = load_config(CONFIGS / f"{name}.yaml"), PUBLISHED[name]
    found = {setting: value_of(config, setting) for setting in published.settings}
    assert found == published.settings, published.source
    strange = set(set_by(config)) - {"name", "seed", "data.root", *published.settings, *published.ours}
    assert not strange, f"{strange} of {name} are neither published nor said to be ours"
    assert not idle_settings(config, "retrain", {})


@pytest.mark.parametrize("name", PRETRAINED)
def test_weights_that_a_configuration_names_are_asked_for_and_described(
    name: str, people: Path, tmp_path: Path
) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", [f"data.root={people}", f"results={tmp_path}"])
    weights = config.section("retrain").weights
    assert weights is not None
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if f"`{config.section('retrain').backbone}`" in row]
    assert any(weights.name in row for row in rows), weights.name
    message = rf"retrain.weights .*{re.escape(weights.name)} does not exist; .* or to null to start from scratch$"
    with pytest.raises(InputError, match=message):
        run_retraining(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def two_identities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training identities, two images each by two cameras: one batch of two times two."""
    root = tmp_path_factory.mktemp("two") / "people"
    settings = SyntheticSettings(
        train_identities=2,
        test_identities=2,
        distractor_identities=0,
        junk_images=0,
        cameras=2,
        images_per_camera=2,
        width=32,
        height=64,
    )
    write_synthetic(root, settings=settings, workers=1)
    seen: set[str] = set()
    for path in sorted((root / "bounding_box_train").iterdir()):
        view = path.name[:7]  # identity and camera
        if view in seen:
            path.unlink()
        seen.add(view)
    return root


@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_a_configuration_trains_two_steps_at_its_own_size(
    name: str, two_identities: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own network, losses, optimizer, schedule and augmentation; weights are not there, batches are small.

    On a processor without bfloat16, which is slow in it: at its own size in float32, and in its own precision on small
    images.
    """
    overrides = {
        "data.name": "market1501", "data.options": "{}", "data.root": two_identities,
        "data.cache": two_identities.parent / "cache", "data.identities_per_batch": 2, "data.images_per_identity": 2,
        "retrain.weights": "null", "trainer.accelerator": "cpu", "trainer.threads": 1, "trainer.loggers": "[]",
    }  # fmt: skip
    options = [f"{key}={value}" for key, value in overrides.items()]
    config = load_config(CONFIGS / f"{name}.yaml", options)
    changes: list[list[str]] = [[]]
    if config.trainer.precision == "bf16-mixed" and is_slow_in_bfloat16():
        changes = [["trainer.precision=32-true"], ["data.height=64", "data.width=32"]]
    steps: list[bool] = []
    step = Retraining.step

    def watched_step(self: Retraining, batch: Any, batch_idx: int) -> None:
        assert tuple(batch["images"].shape) == (4, 3, config.data.height, config.data.width)
        parameters = dict(self.network.named_parameters())
        first = next(n for n in parameters if n.startswith("backbone.") and ".attention." not in n)
        watched = [parameters[name] for name in (first, "heads.0.classifier.weight")]
        before = [parameter.detach().clone() for parameter in watched]
        step(self, batch, batch_idx)
        assert all(parameter.isfinite().all() for parameter in watched)
        changed = [not torch.equal(parameter, old) for parameter, old in zip(watched, before)]
        steps.append(changed == [not config.section("retrain").freezes, True])

    monkeypatch.setattr(Retraining, "step", watched_step)
    monkeypatch.setattr(retrain_job, "make_trainer", lambda job, run, *, epochs: make_trainer(job, run, epochs=2))
    monkeypatch.setattr(checkpoints, "save_checkpoint", lambda trainer, path: None)  # up to a gigabyte
    # First values of 86 million parameters: as far from 0, in a tenth of the time.
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, std: nn.init.uniform_(tensor, -std, std))
    for number, own in enumerate(changes):
        config = load_config(CONFIGS / f"{name}.yaml", [*options, *own])
        run_retraining(config, tmp_path / str(number))
    assert steps == [True] * 2 * len(changes)


def test_every_configuration_of_a_published_recipe_is_in_the_table() -> None:
    """Those with a backbone: of the others the papers' schedules are not known, or they are demonstrations."""
    trained = {
        path.stem
        for path in CONFIGS.glob("*.yaml")
        if (job := load_config(path)).retrain is not None and job.retrain.backbone is not None and job.search is None
    }
    assert trained - {*OTHERS, "attention_blocks"} == set(PUBLISHED)


def test_a_network_of_one_vector_refuses_weights_of_several() -> None:
    settings = tiny_config(Path(), retrain={"backbone": "resnet10_small", "head": {"test_weights": [1, 0.5]}})
    with pytest.raises(
        InputError, match=r"retrain.head.test_weights has 2 weights, but the network returns one vector"
    ):
        build_fixed(settings.section("retrain"), settings.data, 4, None)
