"""Settings of published training recipes: what each does to the rates and the weights, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.config import RetrainConfig, TuneConfig
from dcs_nas.losses.reid import identity_loss
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.runs import read_metrics
from dcs_nas.training import loop
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.evaluate import evaluate_run, load_trained
from dcs_nas.training.optimizers import build_optimizer, learning_rate_factor, parameter_factors
from dcs_nas.training.retrain_job import run_retraining
from dcs_nas.training.retraining import Retraining, update_average
from tests.run_folders import config

CONV, NORM, BIAS = "backbone.conv1.weight", "backbone.bn1.weight", "backbone.bn1.bias"
CLASSIFIER, NECK = "heads.0.classifier.weight", "heads.0.neck.weight"
Step = tuple[list[float], dict[str, Tensor]]
"""The learning rates of the groups in a step, and the network's state after it."""
Train = Callable[..., list[Step]]


@pytest.fixture
def train(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train resnet10_small by settings of ``retrain``, and return what happened in each step."""
    steps: list[Step] = []
    step = Retraining.step

    def recorded(self: Retraining, batch: Any, batch_idx: int) -> None:
        if not steps:
            steps.append(([], _state(self)))
        step(self, batch, batch_idx)
        steps.append(([float(g["lr"]) for g in self.trainer.optimizers[0].param_groups], _state(self)))

    def run(name: str = "run", *, resume: bool = False, sections: Any = None, **settings: Any) -> list[Step]:
        steps.clear()
        data = {"identities_per_batch": 4, "images_per_identity": 2}
        retrain = {"backbone": "resnet10_small", "epochs": 2, "warmup_epochs": 0, "lr": 0.01, **settings}
        job = config(people, retrain=retrain, **(sections or {}))
        job = job.model_copy(update={"data": job.data.model_copy(update=data)})
        run_retraining(job, tmp_path / name, resume=resume)
        return list(steps)

    monkeypatch.setattr(Retraining, "step", recorded)
    return run


def _state(module: Retraining) -> dict[str, Tensor]:
    return _state_of(module.network)


def _state_of(network: ReidNetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _network() -> ReidNetwork:
    return ReidNetwork(BACKBONES["resnet10_small"](height=32, width=16), 5, height=32, width=16)


def test_factors_of_a_group_count_for_its_parameters_and_those_of_the_head_multiply() -> None:
    groups = {"head": {"lr": 10}, "bias": {"lr": 2, "weight_decay": 0}, "norm": {"lr": 3, "weight_decay": 0.5}}
    network = _network()
    found = {id(p): factors for p, factors in parameter_factors(network, RetrainConfig(groups=groups))}
    named = {name: found[id(p)] for name, p in network.named_parameters() if id(p) in found}
    expected = {CONV: (1, 1), NORM: (3, 0.5), BIAS: (3, 0.5), CLASSIFIER: (10, 1), NECK: (30, 0.5)}
    assert {name: named[name] for name in expected} == expected
    assert len(named) == sum(p.requires_grad for p in network.parameters())


def test_biases_outside_normalization_layers_are_a_group() -> None:
    network = ReidNetwork(BACKBONES["vit_small"](height=32, width=16), 5, height=32, width=16)
    settings = RetrainConfig(lr=0.1, weight_decay=0.2, groups={"bias": {"lr": 2, "weight_decay": 0}})
    plain, biases = build_optimizer(network, settings).param_groups
    assert (plain["lr"], plain["weight_decay"], biases["lr"], biases["weight_decay"]) == (0.1, 0.2, 0.2, 0)
    norms = {id(p) for n, m in network.named_modules() if "Norm" in type(m).__name__ for p in m.parameters()}
    expected = [p for n, p in network.named_parameters() if n.endswith(".bias") and id(p) not in norms]
    assert [id(p) for p in biases["params"]] == [id(p) for p in expected]


def test_biases_of_normalization_layers_may_be_a_group_of_their_own() -> None:
    groups = {"bias": {"lr": 2}, "norm": {"weight_decay": 0}, "norm_bias": {"lr": 2}}
    network = _network()
    found = {id(p): factors for p, factors in parameter_factors(network, RetrainConfig(groups=groups))}
    named = {name: found[id(p)] for name, p in network.named_parameters() if id(p) in found}
    assert {name: named[name] for name in (CONV, NORM, BIAS, NECK)} == {
        CONV: (1, 1), NORM: (1, 0), BIAS: (2, 1), NECK: (1, 0)
    }  # fmt: skip


def test_a_cosine_over_all_epochs_is_timms() -> None:
    """damo-cv/TransReID at dec5504, solver/cosine_lr.py: after the warm-up it is where it would be without."""
    settings = RetrainConfig(
        epochs=120, lr=0.008, lr_min=1.6e-5, warmup_epochs=5, warmup_factor=0.01, cosine_over="all"
    )
    for epoch in (0, 2, 4.9, 5, 30, 119):
        warm = 8e-5 + epoch * (0.008 - 8e-5) / 5
        cosine = 1.6e-5 + (0.008 - 1.6e-5) * (1 + math.cos(math.pi * epoch / 120)) / 2
        assert 0.008 * learning_rate_factor(epoch, settings) == pytest.approx(warm if epoch < 5 else cosine)


def test_without_factors_all_parameters_are_one_group_in_their_order() -> None:
    network = _network()
    (group,) = build_optimizer(network, RetrainConfig()).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters() if p.requires_grad]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_options_of_an_optimizer_reach_it(optimizer: str) -> None:
    settings = RetrainConfig(optimizer=optimizer, betas=(0.5, 0.9), amsgrad=True, nesterov=True, momentum=0.7)
    (group,) = build_optimizer(_network(), settings).param_groups
    if optimizer == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.7, True)
    else:
        assert (group["betas"], group["amsgrad"]) == ((0.5, 0.9), True)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_gpus_optimizers_step_where_some_parameters_have_their_first_gradient_later(optimizer: str) -> None:
    network = _network()
    steps = build_optimizer(network, RetrainConfig(optimizer=optimizer), fused=True)
    for frozen in (True, False):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        for parameter in network.backbone.conv1.parameters() if frozen else ():
            parameter.grad = None
        before = _state_of(network)
        steps.step()
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        unmoved = {name for name, p in trained.items() if torch.equal(p, before[name])}
        assert unmoved == ({CONV} if frozen else set())


def test_each_group_follows_the_schedule_at_its_own_rate_step_by_step(train: Train) -> None:
    settings = {"warmup_steps": 3, "groups": {"head": {"lr": 10}, "norm": {"weight_decay": 0}}}
    steps = train(**settings)[1:]
    schedule = RetrainConfig(epochs=2, lr=0.01, **settings)
    per_epoch = len(steps) // 2
    assert per_epoch > 3
    for i, (rates, _) in enumerate(steps):
        factor = learning_rate_factor(i / per_epoch, schedule, steps_per_epoch=per_epoch)
        assert sorted(rates) == pytest.approx([0.01 * factor] * 2 + [0.1 * factor] * 2)
    assert steps[0][0][0] == pytest.approx(0.01 * 0.01)
    assert steps[3][0][0] > steps[2][0][0] > steps[1][0][0]


@pytest.mark.parametrize("by", ["steps", "epochs"])
def test_a_frozen_backbone_does_not_move_while_the_head_does(train: Train, by: str) -> None:
    frozen = {"freeze_steps": 2} if by == "steps" else {"freeze_epochs": 0.5}
    states = [state for _, state in train(epochs=1, **frozen)]
    last = 2 if by == "steps" else (len(states)) // 2  # steps begun before the half of the epoch
    for before, after in pairwise(states[: last + 1]):
        assert not torch.equal(before[CLASSIFIER], after[CLASSIFIER])
        assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("backbone."))
    before, after = states[last : last + 2]
    assert not torch.equal(before[CONV], after[CONV])
    assert not torch.equal(before["backbone.bn1.running_mean"], after["backbone.bn1.running_mean"])


def test_amsgrad_and_betas_change_what_is_learnt(train: Train) -> None:
    plain, amsgrad, betas = (
        train(name, epochs=1, **settings)[-1][1][CONV]
        for name, settings in (("plain", {}), ("amsgrad", {"amsgrad": True}), ("betas", {"betas": (0.5, 0.9)}))
    )
    assert not torch.equal(plain, amsgrad)
    assert not torch.equal(plain, betas)


def test_the_average_of_the_weights_equals_a_loop_and_is_what_is_validated_and_evaluated(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[dict[str, Tensor]] = []

    def validate(network: nn.Module, *_: Any, **__: Any) -> float:
        validated.append({name: value.clone() for name, value in network.state_dict().items()})
        return 0.5

    monkeypatch.setattr(loop, "validate", validate)
    (_, start), *steps = train(epochs=1, ema_decay=0.9, validation=0.4)
    expected = {name: value.double() for name, value in start.items()}
    for _, state in steps:
        for name, value in state.items():
            mean = 0.9 * expected[name] + 0.1 * value.double()
            expected[name] = mean if value.is_floating_point() else value.double()
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    for found in (validated[0], {n.removeprefix("ema."): v for n, v in state.items() if n.startswith("ema.")}):
        assert set(found) == set(expected)
        assert all(torch.allclose(found[n].double(), expected[n], rtol=1e-5, atol=1e-7) for n in expected)
    _, network = load_trained(tmp_path / "run")
    assert all(torch.equal(value, state[f"ema.{name}"]) for name, value in network.state_dict().items())
    assert not torch.equal(state[f"ema.{CONV}"], state[f"network.{CONV}"])


def test_an_average_is_the_network_where_nothing_is_kept_of_it() -> None:
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    network(torch.randn(5, 2))
    update_average(average, network, decay=1e-9)
    torch.testing.assert_close(average.state_dict(), network.state_dict())


@pytest.mark.parametrize("settings", [{"ema_decay": 0.9}, {"accumulate": 3, "freeze_steps": 2, "ema_decay": 0.5}])
def test_an_interrupted_training_by_a_recipe_resumes_to_the_same_bits(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    train("whole", **settings)
    freeze = Retraining.on_train_epoch_start

    def interrupted(self: Retraining) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        freeze(self)

    with monkeypatch.context() as patch:
        patch.setattr(Retraining, "on_train_epoch_start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("broken", **settings)
    train("broken", resume=True, **settings)
    whole, resumed = (load_checkpoint(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("whole", "broken"))
    assert whole["epoch"] == resumed["epoch"] == 1
    assert set(whole["state_dict"]) == set(resumed["state_dict"])
    assert all(torch.equal(value, resumed["state_dict"][name]) for name, value in whole["state_dict"].items())


@pytest.mark.parametrize("accumulate", [2, 4096])
def test_accumulated_batches_move_the_weights_as_one_batch_of_all_their_images(
    train: Train, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """Without batch norm; the last step of an epoch takes the batches that are left."""
    for norm in (nn.BatchNorm1d, nn.BatchNorm2d):
        monkeypatch.setattr(norm, "forward", lambda _, x: x)
    batches: list[tuple[Tensor, Tensor]] = []
    step = Retraining.step

    def recorded(self: Retraining, batch: Any, batch_idx: int) -> None:
        batches.append((self.augment(batch["images"]), batch["labels"]))
        step(self, batch, batch_idx)

    monkeypatch.setattr(Retraining, "step", recorded)
    sections = {"augment": {"flip": 0, "pad": 0, "erase": 0}, "loss": {"triplet_weight": 0}}
    plain = {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "lr": 0.1, "schedule": "constant"}
    states = [state for _, state in train(epochs=1, accumulate=accumulate, sections=sections, **plain)]
    network = ReidNetwork(BACKBONES["resnet10_small"](height=32, width=16), 8, height=32, width=16)
    network.load_state_dict(states[0])
    for first in range(0, len(batches), accumulate):
        images, labels = (torch.cat(parts) for parts in zip(*batches[first : first + accumulate]))
        network.zero_grad()
        identity_loss(network.embed(images).logits[0], labels).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        last = min(first + accumulate, len(batches))
        assert last - first == 1 or torch.equal(states[last - 1][CONV], states[first][CONV])
        for name, value in network.named_parameters():
            torch.testing.assert_close(states[last][name], value.detach(), rtol=1e-4, atol=1e-6)


def test_steps_of_warm_up_and_freezing_are_those_of_the_optimizer(train: Train) -> None:
    steps = train(epochs=1, accumulate=2, warmup_steps=2, warmup_factor=0.5, freeze_steps=1)
    assert [rates[0] for rates, _ in steps[2:5:2]] == pytest.approx([0.005, 0.0075])
    assert torch.equal(steps[0][1][CONV], steps[3][1][CONV])
    assert not torch.equal(steps[3][1][CONV], steps[4][1][CONV])


def test_the_curve_of_the_test_set_is_what_evaluate_measures_and_changes_nothing(
    train: Train, tmp_path: Path, plain_log: None
) -> None:
    plain = train("plain", validation=0.4, validate_every=1, ema_decay=0.5)
    curve = train("curve", validation=0.4, validate_every=1, ema_decay=0.5, test_curve=True)
    for (_, expected), (_, state) in zip(plain, curve, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in expected.items())
    without, rows = (read_metrics(tmp_path / name / "metrics.csv") for name in ("plain", "curve"))
    assert [row["validation/mAP"] for row in rows] == [row["validation/mAP"] for row in without]
    assert [("test/mAP" in row) for row in (*without, *rows)] == [False, False, True, True]
    assert rows[-1]["test/mAP"] == pytest.approx(evaluate_run(tmp_path / "curve").result.mAP, abs=1e-9)
    best = [load_checkpoint(tmp_path / name / "checkpoints" / "best.ckpt")["epoch"] for name in ("plain", "curve")]
    assert best[0] == best[1]
    said = (tmp_path / "curve" / "log.txt").read_text()
    assert "the test set is ranked every 1 epochs for a curve alone (retrain.test_curve): choose nothing by it" in said
    assert "test/mAP" in said


def test_nothing_is_tuned_on_the_test_set() -> None:
    space = {"retrain.lr": {"loguniform": [1e-5, 1e-2]}}
    with pytest.raises(ValueError, match="test/mAP is measured on the test set, by which nothing may be chosen"):
        TuneConfig.model_validate({"space": space, "metric": "test/mAP", "goal": "maximize"})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_clipped_step_is_as_long_as_rate_and_clip_allow(train: Train, accumulate: int) -> None:
    """SGD without momentum and decay: the weights move by the rate times the gradient, whose norm is the clip."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "accumulate": accumulate}
    weights = {name for name, _ in _network().named_parameters()}
    for clip in (1e-3, 1e9):
        steps = train(f"clip-{clip:g}", grad_clip=clip, **plain)
        moved = [
            math.sqrt(sum(float((after[n] - before[n]).double().square().sum()) for n in weights & before.keys()))
            for (_, before), (_, after) in pairwise(steps)
        ]
        moved = [length for length in moved if length]
        assert moved
        if clip < 1:
            assert moved == pytest.approx([0.01 * clip] * len(moved), rel=0.05)
        else:
            assert min(moved) > 1e-4
