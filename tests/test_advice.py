"""Every setting that a message or docs/faq.md advises works in the situation that it is advised for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.models.blocks import ATTENTION
from dcs_nas.space import find_shipped_file
from dcs_nas.strategies.job import run_search
from dcs_nas.training.error_messages import training_errors
from dcs_nas.training.nonfinite import NonFiniteError, require_finite
from dcs_nas.training.retrain_job import run_retraining

ROOT = Path(__file__).parents[1]
SETTING = re.compile(r"\b(?:data|loss|search|retrain|evaluate|trainer)(?:\.[a-z_0-9]+)+=(?![= {])[\w./-]*\w")
CHAIN = ["search.space=demo_chain", "search.channels=null", "search.cells=null"]

# Situations of the FAQ: market1501_darts, shrunk; of a message: the settings that lead to it, too. Settings that do
# not touch each other share a run.
SITUATIONS: list[list[str]] = [
    # collapse, memory, NaN
    ["search.guard.action=stop", "search.guard.max_skips=2", "search.epochs=2", "search.warmup_epochs=1",
     "trainer.nonfinite=skip", "trainer.precision=32-true", "trainer.deterministic=true"],
    ["search.guard.action=cap", "search.guard.max_skips=2", "search.relaxation.partial_channels=4",
     "trainer.precision=bf16-mixed"],
    ["search.order=2", "search.guard.eigenvalue_iterations=0"],
    ["search.derivation=perturbation", "search.perturbation.batches=1", "search.relaxation.kind=gumbel",
     "search.cost.kind=flops", "search.cost.form=additive", "search.cost.target=1000"],
    ["search.validation=0.1", "search.choose=best", "search.checkpoint_activations=true"],
    ["search.strategy=random", "search.trials.trials=1"],
    ["search.checkpoint_activations=true", "search.order=2", "search.hessian=finite_difference"],
    # the chain with the default guard; what a message says of order 2 with 16-mixed, and of a product as cost
    [*CHAIN, "search.checkpoint_activations=true", "trainer.precision=bf16-mixed", "search.order=1"],
    [*CHAIN, "trainer.precision=bf16-mixed", "search.order=2"],
]  # fmt: skip
ELSEWHERE = {
    "data.root=/data/Market-1501-v15.09.15": "the root is that of the test",
    "data.root=/data/market1501": "the root is that of the test",
    "data.cache=/local/disk/cache": "test_cache",
    **dict.fromkeys(
        ("data.root=/d", "data.root=DIR", "data.root=people", "data.root=/data/market", "data.root=/data/imagenet"),
        "the root is that of the test",
    ),
    **dict.fromkeys(("data.test_batch=64", "evaluate.flip=true"), "test_find"),
    "search.epochs=20": "an example of an override",
    "search.epochs=5": "an example of an override",
    "search.epochs=1": "an example of an override",
    **dict.fromkeys(
        ("retrain.grad_clip=5", "data.identities_per_batch=8", "retrain.accumulate=2"),
        "test_what_is_advised_for_a_training_works, below",
    ),
    "retrain.test_curve=true": "test_recipes",
    "search.cost.kind=latency": "test_cost",
    "search.cost.other_latency_table=true": "test_cost",
    "trainer.accelerator=cpu": "the trainer of most tests",
    "trainer.accelerator=auto": "the default",
    "trainer.compile=off": "the default",
    "trainer.compile=cuda-graphs": "test_cuda_graphs",
    "trainer.deterministic=false": "test_training_errors",
    "trainer.devices=1": "test_baselines",
    "trainer.num_nodes=1": "test_baselines",
    **dict.fromkeys(
        ("evaluate.protocol=no_camera_filter", "retrain.validation=0", "search.validation=0", "search.choose=last",
         "search.derivation=strongest", "search.identity_overlap=0", "search.strategy=bilevel"),
        "test_causes",
    ),
    **dict.fromkeys(("retrain.epochs=120", "search.space=demo_cells"), "test_hints"),
    "retrain.inherit=RUN": "test_jobs",
    "data.height=384": "an example of an override",
    "retrain.weights_key=teacher": "test_weights",
    "retrain.weights_partial=true": "test_weights",
}  # fmt: skip


def _advised() -> Iterator[str]:
    """Settings in the strings of the code, but docstrings of configuration, and in the FAQ."""
    yield from SETTING.findall((ROOT / "docs" / "faq.md").read_text())
    for file in sorted((ROOT / "dcs_nas").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from SETTING.findall(node.value)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped market1501_darts, shrunk and on synthetic people; two steps an epoch."""
    folder = tmp_path_factory.mktemp("advice")
    settings = SyntheticSettings(train_identities=12, test_identities=2, cameras=2, width=16, height=32)
    write_synthetic(folder / "people", settings=settings, workers=1)
    shrunk = f"""
data: {{root: {folder / "people"}, cache: {folder / "cache"}, name: market1501, height: 32, width: 16,
  identities_per_batch: 4, images_per_identity: 4}}
"""
    text = find_shipped_file("configs", "market1501_darts").read_text()
    text = re.sub(r"(?ms)^data:\n.*?(?=^augment)", shrunk.lstrip(), text)
    text = text.replace("  epochs: 50 ", "  epochs: 1\n  channels: 4\n  cells: 1 ")
    text = text.replace("trainer: {", "trainer: {accelerator: cpu, threads: 1, ")
    (folder / "job.yaml").write_text(text)
    return folder / "job.yaml"


def test_every_advised_setting_is_run_by_a_test() -> None:
    run = {setting for situation in SITUATIONS for setting in situation} | set(ELSEWHERE)
    assert sorted(set(_advised()) - run) == []


@pytest.mark.parametrize("situation", SITUATIONS, ids="+".join)
def test_what_is_advised_for_a_search_works(situation: list[str], job: Path, tmp_path: Path) -> None:
    run_search(load_config(job, situation), tmp_path / "run")
    assert (tmp_path / "run" / "genotype.yaml").is_file()


@pytest.mark.parametrize(
    "changes",
    [
        ["retrain.grad_clip=5", "retrain.lr=0.0001", "retrain.warmup_epochs=1"],
        ["data.identities_per_batch=8", "retrain.accumulate=2"],
    ],
    ids="+".join,
)
def test_what_is_advised_for_a_training_works(changes: list[str], job: Path, tmp_path: Path) -> None:
    run_retraining(load_config(job, ["retrain={backbone: resnet10_small, epochs: 1}", *changes]), tmp_path / "run")


@pytest.mark.parametrize(
    ("search", "advised"),
    [
        ({"space": "demo_cells"}, True),
        ({"space": "demo_cells", "order": 2, "hessian": "finite_difference"}, True),
        ({"space": "demo_cells", "order": 2}, False),
        ({"space": "demo_cells", "strategy": "nni.darts"}, False),
        ({"space": "demo_cells", "strategy": "proposals"}, False),  # its supernet is searched by bilevel
        ({"space": "demo_cells", "checkpoint_activations": True}, False),
        ({"space": "demo_chain"}, True),
        ({"space": "osnet_ain"}, True),
    ],
)
def test_checkpoints_are_advised_only_where_they_are_accepted(search: dict[str, Any], advised: bool) -> None:
    config = Config.model_validate({"name": "a", "search": {"strategy": "bilevel", **search}})
    with pytest.raises(TrainingError) as error, training_errors(config, "search"):
        raise MemoryError
    assert ("search.checkpoint_activations=true" in str(error.value)) == advised


@pytest.mark.parametrize("skippable", [True, False])
def test_steps_are_advised_to_be_left_out_only_where_they_can_be(skippable: bool) -> None:
    with pytest.raises(NonFiniteError) as error:
        require_finite({"loss": torch.tensor(float("nan"))}, where="here", files=[], skippable=skippable)
    assert ("trainer.nonfinite=skip" in str(error.value)) == skippable


class _OnceDifferentiable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean((2, 3))
        return x * torch.cdist(rows, rows.detach(), p=1.5).mean()


def test_an_operation_without_second_derivative_is_told_the_setting_that_needs_one(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTENTION, "dcs", lambda channels, height, width: _OnceDifferentiable())
    advice = {
        "search.guard.eigenvalue_iterations=0": [],
        "search.hessian=finite_difference": ["search.guard.eigenvalue_iterations=0", "search.order=2"],
    }
    for number, (advised, situation) in enumerate(advice.items()):
        with pytest.raises(InputError, match=f"no second derivative .*{advised}"):
            run_search(load_config(job, situation), tmp_path / f"{number}")
        run_search(load_config(job, [*situation, advised]), tmp_path / f"{number}_advised")
