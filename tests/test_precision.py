"""Every precision: a search's step on every operation, block, relaxation and order; jobs; what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from dcs_nas.cli import main
from dcs_nas.config import AugmentConfig, Config, LossConfig, load_config
from dcs_nas.data.augment import Augment
from dcs_nas.data.datamodule import HALVES
from dcs_nas.errors import InputError
from dcs_nas.losses import Objective
from dcs_nas.models.blocks import ATTENTION
from dcs_nas.models.build import build_supernet
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.operations import OPERATIONS
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.seeds import seed_everything
from dcs_nas.space import ChainSpec, SpaceSpec
from dcs_nas.strategies.bilevel import BilevelSearch
from dcs_nas.strategies.job import run_search
from dcs_nas.training import trainer
from dcs_nas.training.objective import build_objective
from dcs_nas.training.retrain_job import run_retraining
from dcs_nas.training.trainer import memory_format
from tests.backbones import FAMILIES, HEIGHT, WIDTH, attended
from tests.test_jobs import JOB
from tests.test_search_engine import SPACE

IDENTITIES = 4
BLOCKS = ("none", *ATTENTION)
CELLS = SpaceSpec(
    name="all", cells=2, channels=4, nodes=2, reductions=(1,), stem="stride2",
    operations=tuple(OPERATIONS), attention=BLOCKS,
)  # fmt: skip


def _chain(attention: Sequence[str]) -> ChainSpec:
    stages = [
        {"blocks": 1, "widths": [4, 8], "expansions": [1], "activation": "hswish", "attention": attention},
        {"blocks": 2, "stride": 2, "widths": [8, 12], "kernels": [3, 5], "expansions": [1, 2], "skip": True,
         "squeeze_excite": [False, True], "attention": ["none", "dcs"]},
    ]  # fmt: skip
    return ChainSpec.model_validate({"name": "all", "stem": 8, "stem_stride": 2, "features": 16, "stages": stages})


CHAIN = _chain(BLOCKS)
# A batch norm ends the part-aware module, which in so narrow a chain triples the roundings of second-order gradients;
# those of the cells hold it.
SECOND_ORDER_CHAIN = _chain([name for name in BLOCKS if name != "part_aware"])
RELAXATIONS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in ("softmax", "gumbel", "gumbel_softmax")},
    "dirichlet": {"kind": "dirichlet", "anchor": 0.01},
    "partial": {"partial_channels": 2},
}
ORDERS: dict[str, dict[str, Any]] = {
    "first": {"order": 1},
    "exact": {"order": 2, "hessian": "exact"},
    "finite": {"order": 2, "hessian": "finite_difference"},
}
# Every relaxation and order with both kinds of space, every relaxation with half of the orders.
STEPS = [
    ("cells", "softmax", "exact"), ("cells", "gumbel", "first"), ("cells", "gumbel_softmax", "first"),
    ("cells", "dirichlet", "first"), ("cells", "partial", "finite"),
    ("chain", "softmax", "finite"), ("chain", "gumbel", "first"), ("chain", "gumbel_softmax", "exact"),
    ("chain", "dirichlet", "finite"),
]  # fmt: skip


def _searching(space: str, relaxation: str, order: str) -> BilevelSearch:
    """A search without a trainer. Its triplet loss has a soft margin and its steps are small: no kink decides."""
    search = {"space": "all", "relaxation": RELAXATIONS[relaxation], "lr": 1e-3, **ORDERS[order]}
    loss: dict[str, Any] = {"triplet_margin": None, "ib_kind": "ibb_tight", "ib_weight": 0.1, "ib_grid": (4, 2)}
    loss |= {"center_weight": 0.01, "ib_temperature": "auto"}
    config = Config.model_validate({"name": "a", "data": {"height": 16, "width": 8}, "search": search, "loss": loss})
    seed_everything(0)
    first = order == "first"
    cells = CELLS if first else CELLS.model_copy(update={"cells": 1, "reductions": (0,)})
    chain = CHAIN if first else SECOND_ORDER_CHAIN
    network = memory_format(
        build_supernet(cells if space == "cells" else chain, config.section("search"), config.data, IDENTITIES)
    )
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.weight is not None):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # no block starts as the identity
    objective = build_objective(config.loss, num_identities=IDENTITIES, features=network.num_features)
    nothing: Any = None
    halves = dict.fromkeys(HALVES, nothing)
    module = BilevelSearch(
        network, objective, config, run=nothing, data=nothing, held=None, halves=halves, record=nothing
    )
    module.augment = nn.Identity()  # type: ignore[assignment]
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, assignment]
    module.start_epoch(0)
    return module


def _two_steps(module: BilevelSearch, dtype: torch.dtype) -> tuple[list[float], Tensor]:
    """Take two steps; return the losses, the alphas' and the weights' in turn, and the alphas' first gradients."""
    (weights, alphas), _ = module.configure_optimizers()
    losses: list[float] = []
    first = torch.zeros(0)
    generator = torch.Generator().manual_seed(0)
    seen: set[torch.dtype] = set()
    conv = next(m for m in module.network.modules() if isinstance(m, nn.Conv2d))
    conv.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
    for step in range(2):
        batches = {
            half: {
                "images": torch.randn(16, 3, 16, 8, generator=generator).contiguous(memory_format=torch.channels_last),
                "labels": torch.arange(16) % IDENTITIES,
                "indices": torch.arange(16),
            }
            for half in HALVES
        }
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            passes = {half: module.prepare(half, batches[half], step) for half in HALVES}
            module._architecture_step(passes, weights, alphas)
            if not step:
                first = torch.cat([torch.zeros_like(a).flatten() if a.grad is None else a.grad.flatten()
                                   for a in module.alphas])  # fmt: skip
            module._weight_step(passes["weights"], weights)
        losses += [passes[half].terms["loss"].item() for half in reversed(HALVES)]
        module.objective.end_epoch()
    assert seen == {dtype}
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in module.parameters())
    assert all(b.isfinite().all() or "kept" in name for name, b in module.named_buffers() if b.is_floating_point())
    return losses, first


@pytest.mark.parametrize(("space", "relaxation", "order"), STEPS, ids=["-".join(step) for step in STEPS])
def test_a_search_steps_in_half_precision_as_in_float32(
    space: str, relaxation: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcs_nas.strategies.passes.file_names", lambda images, indices: [])
    losses, gradients = _two_steps(_searching(space, relaxation, order), torch.float32)
    # The gradients of order 2 overflow in float16, which the settings refuse; on a CPU float16 takes long.
    drawn = order == "first" and relaxation == "gumbel"
    for dtype in (torch.bfloat16, *([torch.float16] if drawn else [])):
        near, direction = _two_steps(_searching(space, relaxation, order), dtype)
        # order 2 differentiates twice, and so counts roundings twice
        assert float(torch.cosine_similarity(gradients, direction, dim=0)) > (0.95 if order == "first" else 0.9)
        assert float(direction.norm() / gradients.norm()) == pytest.approx(1, abs=0.25)
        # Dirichlet draws by rejection: alphas that differ by a rounding draw other weights after the first step.
        same = 1 if relaxation == "dirichlet" else 4
        assert near[:same] == pytest.approx(losses[:same], rel=0.02)


def test_augmentation_is_the_same_to_the_bit_under_autocast() -> None:
    settings = AugmentConfig(flip=0.5, pad=2, erase=0.5, color_jitter=0.5)
    augment = Augment(settings, height=32, width=16, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    images = torch.randint(0, 256, (8, 3, 32, 16), dtype=torch.uint8)
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(augment(images))
    assert torch.equal(*found)


@pytest.mark.device
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_backbones_trains_under_autocast(name: str, device: torch.device) -> None:
    network = ReidNetwork(attended(name), IDENTITIES, height=HEIGHT, width=WIDTH).to(device)
    objective = Objective(LossConfig(), num_classes=IDENTITIES, feature_dim=network.num_features).to(device)
    labels = torch.tensor([0, 1], device=device)
    with torch.autocast(device.type, torch.bfloat16):
        embedding = network(torch.randn(2, 3, HEIGHT, WIDTH, device=device), torch.zeros_like(labels))
        terms = objective(embedding.logits, embedding.features, labels)
        terms["loss"].backward()
    assert terms["loss"].dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file beside its space, two steps an epoch."""
    folder = tmp_path_factory.mktemp("precision")
    (folder / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache"), "images_per_identity": 4}
    data["search"] |= {"strategy": "bilevel", "space": str(folder / "space.yaml"), "epochs": 1}
    data["retrain"] |= {"epochs": 1, "warmup_epochs": 0}
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


@pytest.mark.device
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_jobs_run_in_every_precision(precision: str, job: Path, tmp_path: Path) -> None:
    found = tmp_path / "search" / "genotype.yaml"
    options = ["-o", f"trainer.precision={precision}", "-o", "evaluate.max_rank=5"]
    for command, more in (("search", []), ("retrain", ["--genotype", str(found)])):
        with pytest.raises(SystemExit) as end:
            main([command, str(job), "--out", str(tmp_path / command), *options, *more])
        assert end.value.code == 0
    for command in ("search", "retrain"):
        assert f", {precision}: " in (tmp_path / command / "log.txt").read_text()
    rows = {command: read_metrics(tmp_path / command / "metrics.csv")[-1] for command in ("search", "retrain")}
    assert rows["search"]["architecture/loss"] == pytest.approx(2.6, abs=0.5)
    assert rows["retrain"]["train/loss"] == pytest.approx(2.6, abs=0.5)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_in_half_precision_are_refused(precision: str, job: Path) -> None:
    with pytest.raises(InputError, match=r"trainer\.precision: weights and alphas in half precision .* use bf16-mixed"):
        load_config(job, [f"trainer.precision={precision}"])


def test_float16_is_refused_where_it_cannot_work_before_anything_is_written(job: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"order is 2, .* is 16-mixed; use trainer\.precision=bf16-mixed or search"):
        run_search.__wrapped__(
            load_config(job, ["trainer.precision=16-mixed", "search.order=2"]), job.parent / "refused"
        )
    assert not (job.parent / "refused").exists()
    config = load_config(job, ["trainer.precision=16-mixed"])
    for start in (run_search, run_retraining):
        with pytest.raises(InputError, match="16-mixed, which needs a GPU, but this job runs on the CPU; use trainer"):
            start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("slow", "precision"), [(True, "bf16-mixed"), (False, "bf16-mixed"), (True, "32-true")])
def test_a_processor_without_bfloat16_is_named(
    slow: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "is_slow_in_bfloat16", lambda: slow)
    settings = {"name": "a", "retrain": {"backbone": "resnet10_small"}}
    config = Config.model_validate({**settings, "trainer": {"accelerator": "cpu", "precision": precision}})
    with trainer.training_job(config, "retrain", RunFolder(tmp_path)):
        pass
    said = "trainer.precision=32-true is faster here" in (tmp_path / "log.txt").read_text()
    assert said == (slow and precision == "bf16-mixed")
