"""Settings without effect: the job says so when it starts, and they have none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dcs_nas.config import Config, DcsConfig, load_config
from dcs_nas.config.idle import DCS_BLOCKS, EFFECTS, idle_settings
from dcs_nas.settings import to_yaml
from dcs_nas.strategies.job import run_search
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.retrain_job import run_retraining

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
RETRAIN = "retrain: {backbone: resnet10_small, epochs: 1, warmup_epochs: 0}\n"
SEARCH = "search: {strategy: bilevel, space: SPACE, epochs: 1, guard: {gap: false, eigenvalue_iterations: 1}}\n"
SPACE = "cells: 2\nchannels: 4\nnodes: 1\nreductions: [1]\nstem: stride2\noperations: [skip_connect, avg_pool_3x3]\n"
JOB = """
name: tiny
data: {name: market1501, root: PEOPLE, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
trainer: {accelerator: cpu, threads: 1}
"""
# Of each row of the table: a value other than the default, and what else is set so that it has no effect.
IDLE: dict[str, tuple[str, ...]] = {
    "retrain.milestones": ("[1]",),
    "retrain.gamma": ("0.7",),
    "retrain.lr_min": ("0.0001", "retrain.schedule=multistep"),
    "retrain.flat_epochs": ("0.5", "retrain.schedule=constant"),
    "retrain.cosine_over": ("all", "retrain.schedule=multistep"),
    "retrain.warmup_factor": ("0.7",),
    "retrain.warmup_epochs": ("1", "retrain.warmup_steps=1"),
    "retrain.momentum": ("0.1",),
    "retrain.nesterov": ("true",),
    "retrain.betas": ("[0.5, 0.9]", "retrain.optimizer=sgd"),
    "retrain.amsgrad": ("true", "retrain.optimizer=sgd"),
    "retrain.channels": ("9",),
    "retrain.cells": ("9",),
    "retrain.weights_partial": ("true",),
    "retrain.validate_every": ("1",),
    "retrain.center_lr": ("0.1",),
    "loss.label_smoothing": ("0.3", "loss.identity_weight=0"),
    "loss.identity_branches": ("[2]", "loss.identity_weight=0"),
    "loss.triplet_normalize": ("true", "loss.triplet_weight=0"),
    "loss.triplet_branches": ("[2]", "loss.triplet_weight=0"),
    "loss.triplet_margin": ("0.9", "loss.triplet_weight=0"),
    "loss.triplet_mining": ("weighted", "loss.triplet_weight=0"),
    "loss.circle_margin": ("0.3",),
    "loss.circle_scale": ("64",),
    "retrain.head.parts_channels": ("64",),
    "retrain.head.parts_from": ("layer1",),
    "retrain.head.scale": ("30",),
    "retrain.head.margin": ("0.5",),
    "evaluate.neck": ("before", "retrain.head.neck=false"),
    "retrain.head.loss_features": ("after", "retrain.head.neck=false"),
    "augment.erase_fill": ("noise", "augment.erase=0"),
    "augment.erase_area": ("0.2", "augment.erase=0"),
    "augment.policy_probability": ("0.5",),
    "augment.policy_magnitude": ("20",),
    "loss.ib_grid": ("[2, 2]",),
    "loss.ib_temperature": ("auto",),
    "loss.ib_normalize": ("true",),
    "dcs.tau": ("9",),
    "dcs.decay": ("0.5",),
    "evaluate.expand_alpha": ("2",),
    "evaluate.rerank_k1": ("5",),
    "evaluate.rerank_k2": ("2",),
    "evaluate.rerank_lambda": ("0.9",),
    "search.hessian": ("finite_difference",),
    "search.perturbation.batches": ("1",),
    "search.retrieval.candidates": ("2",),
    "search.validate_every": ("1",),
    "search.relaxation.schedule": ("exponential",),
    "search.guard.eigenvalue_images": ("4", "search.guard.eigenvalue_iterations=0"),
    "search.guard.window": ("2", "search.guard.eigenvalue_iterations=0"),
    "search.guard.ratio": ("0.2", "search.guard.eigenvalue_iterations=0"),
    "search.arch_lr": (
        "0.01", "search.weight_share=1", "search.derivation=retrieval", "search.validation=0.4", "search.guard={}",
    ),
    "search.trials.trials": ("2",),
}  # fmt: skip
Job = Callable[..., Config]


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    (folder / "space.yaml").write_text(SPACE)

    def read(section: str, *overrides: str) -> Config:
        text = (JOB + section).replace("SPACE", str(folder / "space.yaml")).replace("PEOPLE", str(people))
        (folder / "job.yaml").write_text(text)
        return load_config(folder / "job.yaml", [f"data.cache={folder / 'cache'}", *overrides])

    return read


@pytest.fixture(scope="module")
def weights(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, torch.Tensor]]:
    """What a tiny job has trained and said; the same overrides are run once."""
    done: dict[tuple[str, ...], Any] = {}

    def run(kind: str, *overrides: str) -> Any:
        key = (kind, *overrides)
        if key not in done:
            folder = tmp_path_factory.mktemp("runs") / "run"
            start = run_search if kind == "search" else run_retraining
            start(job(SEARCH if kind == "search" else RETRAIN, *overrides), folder)
            state = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
            done[key] = state, (folder / "log.txt").read_text()
        return done[key]

    return run


@pytest.mark.parametrize("setting", IDLE)
def test_a_setting_without_effect_is_named_at_start_and_has_none(
    weights: Callable[..., Any], setting: str, plain_log: None
) -> None:
    value, *beside = IDLE[setting]
    kind = "search" if setting.startswith("search") else "retrain"
    plain, _ = weights(kind, *beside)
    changed, said = weights(kind, *beside, f"{setting}={value}")
    (line,) = (line for line in said.splitlines() if " no effect: " in line)
    assert f"WARNING {setting} has no effect: " in line
    assert all(torch.equal(plain[name].nan_to_num(-9), changed[name].nan_to_num(-9)) for name in plain)


def test_every_row_of_the_table_is_in_this_sweep_or_concerns_the_strategy_or_a_genotype() -> None:
    left = [e for e in EFFECTS if not any(s.startswith(n) for n in e.settings.split() for s in IDLE)]
    assert [(e.settings, e.by) for e in left if not e.by.startswith("search.strategy")] == [
        ("retrain.backbone_options", "retrain.backbone"),
        ("search.trials.validation", "search.validation"),
        ("search.trials.epochs", "search.trials.table"),
        ("search.trials.predictor.finish", "search.trials.predictor.share"),
    ]


def test_what_has_an_effect_is_not_named(job: Job) -> None:
    changes = ["retrain.schedule=multistep", "retrain.milestones=[1]", "retrain.optimizer=sgd", "retrain.momentum=0.1"]
    changes += ["loss.center_weight=0.1", "retrain.center_lr=0.1", "dcs.tau=9", "retrain.warmup_epochs=1"]
    assert idle_settings(job(RETRAIN, *changes), "retrain", {DCS_BLOCKS: 2}) == []


def test_a_section_of_the_other_command_is_left_alone(job: Job) -> None:
    assert idle_settings(job(SEARCH + RETRAIN, "retrain.milestones=[1]"), "search", {DCS_BLOCKS: 1}) == []


def test_of_the_settings_of_another_run_only_what_differs_from_the_defaults_is_named(job: Job, tmp_path: Path) -> None:
    config = job(RETRAIN, "retrain.milestones=[1]")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (said,) = idle_settings(load_config(tmp_path / "config.yaml"), "retrain", {DCS_BLOCKS: 1})
    assert said == "retrain.milestones has no effect: retrain.schedule is cosine"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_no_shipped_configuration_has_settings_without_effect(path: Path) -> None:
    variants = ("attention_blocks", "bench_cells", "bench_chain", "search_quality")  # IB by an override
    config = load_config(path, ["loss.ib_kind=ibb"] if path.stem in variants else [])
    kinds = [kind for kind in ("search", "pretrain", "retrain") if getattr(config, kind) is not None]
    remarks = [remark for kind in kinds for remark in idle_settings(config, kind, {DCS_BLOCKS: 1})]
    assert not remarks


def test_every_setting_of_dcs_attention_is_in_the_table() -> None:
    rows = " ".join(effect.settings for effect in EFFECTS if effect.by == DCS_BLOCKS).split()
    assert sorted(rows) == sorted(f"dcs.{name}" for name in DcsConfig.model_fields)
