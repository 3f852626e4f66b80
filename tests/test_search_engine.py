"""The search by its options: second order, relaxations, guard, people of their own, cost, perturbation, validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from dcs_nas.config import Config, GuardConfig, LossConfig, load_config
from dcs_nas.data.datamodule import ReidData
from dcs_nas.data.samplers import split_identities
from dcs_nas.errors import InputError
from dcs_nas.losses import PrototypeMemory
from dcs_nas.models.cell_kind import CellKind
from dcs_nas.models.supernet import frozen_statistics, recalibrate_statistics
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.space import (
    CellStructure,
    NetworkSpec,
    Origin,
    SpaceReference,
    find_shipped_file,
    load_genotype,
    load_space,
)
from dcs_nas.strategies.derive import draw_likely, score_supernet
from dcs_nas.strategies.job import run_search
from dcs_nas.strategies.monitor import CollapseGuard, EpochMonitor
from dcs_nas.strategies.passes import Pass, SearchLoss
from dcs_nas.strategies.perturbation import choose_by_perturbation
from dcs_nas.strategies.record import ArchitectureRecord
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.nonfinite import NonFiniteError
from dcs_nas.training.objective import build_objective, center_groups, restore_center_rate
from tests.test_jobs import JOB

SPACE = """
cells: 2
channels: 4
nodes: 1
reductions: [1]
stem: stride2
operations: [none, skip_connect, sep_conv_3x3, dcs]
attention: [none, dcs]
"""


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file beside its space, two steps an epoch."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache"), "images_per_identity": 4}
    data["search"] |= {"strategy": "bilevel", "space": str(folder / "space.yaml"), "epochs": 2}
    data["search"]["guard"] = {"eigenvalue_iterations": 0, "gap": False}
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


def _config(job: Path, *overrides: str) -> Config:
    return load_config(job, [f"search.{o}" for o in overrides])


def _alphas(folder: Path) -> Tensor:
    state = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return torch.cat([value.flatten() for name, value in state.items() if "mixtures" in name])


OPTIONS = {
    "exact": ["order=2"],
    "finite": ["order=2", "hessian=finite_difference"],
    "gumbel": ["relaxation={kind: gumbel, temperature: 5, temperature_end: 1}"],
    "dirichlet": ["relaxation={kind: dirichlet, anchor: 0.01}"],
    "partial": ["relaxation.partial_channels=2"],
    "overlap": ["identity_overlap=0.5"],
    "twins": ["identity_overlap=0.5", "memory={levels: both, update: each}"],
    "cost": ["cost={kind: flops, form: multiplicative, beta: 0.6}"],
    "checkpointed": ["checkpoint_activations=true"],
}


@pytest.fixture(scope="module")
def plain(job: Path) -> Path:
    """The run folder of a search without options."""
    run_search(_config(job), job.parent / "plain")
    return job.parent / "plain"


@pytest.mark.device
def test_every_option_searches_and_leads_to_other_alphas(job: Path, plain: Path, tmp_path: Path) -> None:
    """No option can be accepted and ignored. Checkpointing alone changes nothing."""
    metrics: dict[str, Any] = {}
    alphas = {"plain": _alphas(plain)}
    for name, options in OPTIONS.items():
        run_search(_config(job, *options), tmp_path / name)
        metrics[name] = rows = read_metrics(tmp_path / name / "metrics.csv")
        alphas[name] = _alphas(tmp_path / name)
        assert len(rows) == 2, name
        assert all(np.isfinite(value) for row in rows for value in row.values()), name
    same = [
        {a, b}
        for a, b in combinations(alphas, 2)
        if alphas[a].shape == alphas[b].shape and torch.equal(alphas[a], alphas[b])
    ]
    assert same == [{"plain", "checkpointed"}]
    assert [row["relaxation_temperature"] for row in metrics["gumbel"]] == [5.0, 1.0]
    assert metrics["overlap"][1]["architecture/prototype"] > 0
    assert "architecture/identity" not in metrics["overlap"][1]
    twins = metrics["twins"][1]
    assert min(twins["weights/prototype"], twins["architecture/prototype"]) > 0
    assert not {"weights/identity", "architecture/identity"} & set(twins)
    assert metrics["cost"][1]["architecture/cost"] > 0
    assert "architecture/penalty" in metrics["dirichlet"][0]


@pytest.mark.device
@pytest.mark.parametrize("kind", ["gumbel, temperature: 5", "dirichlet, anchor: 0.01"])
def test_draws_at_random_are_the_same_for_the_same_seed(kind: str, job: Path, tmp_path: Path) -> None:
    overrides = [f"search.relaxation={{kind: {kind}, partial_channels: 2}}", "search.order=2", "search.epochs=1"]
    config = load_config(job, [*overrides, "search.identity_overlap=0.5", "trainer.deterministic=true"])
    first, second = (run_search(config, tmp_path / n) for n in "ab")
    assert first == second
    assert torch.equal(_alphas(tmp_path / "a"), _alphas(tmp_path / "b"))


def test_without_images_for_the_alphas_paths_are_drawn_uniformly_and_retrieval_chooses(
    job: Path, tmp_path: Path
) -> None:
    alone = ["weight_share=1", "relaxation.kind=gumbel", "derivation=retrieval", "validation=0.3", "epochs=1"]
    run_search(_config(job, *alone), tmp_path / "run")
    assert max(float(alpha.abs().max()) for alpha in _alphas(tmp_path / "run")) < 0.01  # as they began
    row = read_metrics(tmp_path / "run" / "metrics.csv")[0]
    assert row["weights/loss"] > 0
    assert not any(name.startswith("architecture/") for name in row)
    images = ReidData(_config(job, *alone)).train()
    halves, held = ReidData(_config(job, *alone)).load_search_halves(share=1, validation=0.3)
    assert held is not None
    assert {half: len(part) for half, part in halves.items()} == {"weights": len(images) - len(held)}


@pytest.mark.parametrize(
    "change",
    ["derivation=strongest", "strategy=nni.darts", "identity_overlap=0.5", "memory.levels=both",
     "cost={kind: flops, weight: 1, target: 1}", "trials.proposals.supernet=bilevel"],
)  # fmt: skip
def test_what_needs_alphas_that_learn_needs_images_for_them(job: Path, change: str) -> None:
    settings = ["validation=0.3", "derivation=retrieval", change]
    settings += ["strategy=proposals"] if "proposals" in change else []
    with pytest.raises(InputError, match=r"weight_share is 1, which leaves no images for the alphas, but"):
        _config(job, "weight_share=1", *settings)
    _config(job, "weight_share=0.5", *settings)  # the advice


def test_a_cheaper_network_is_found_when_cost_weighs_more(job: Path, tmp_path: Path) -> None:
    costs = []
    for weight in (0.001, 100):
        cost = f"cost={{kind: flops, weight: {weight}, target: 1000}}"
        run_search(_config(job, cost, "epochs=4"), tmp_path / str(weight))
        costs.append(read_metrics(tmp_path / str(weight) / "metrics.csv")[-1]["architecture/cost"])
    assert costs[1] < costs[0]


def test_the_guard_and_validation_of_every_epoch_are_logged_and_do_not_change_the_search(
    job: Path, tmp_path: Path
) -> None:
    watched = ["guard={eigenvalue_iterations: 2, eigenvalue_images: 4, gap: true}"]
    run_search(_config(job, "validation=0.3", "validate_every=2"), tmp_path / "blind")
    run_search(_config(job, "validation=0.3", "validate_every=1", *watched), tmp_path / "watched")
    blind, seen = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("blind", "watched")
    )
    changed = [k for k, v in blind.items() if not torch.equal(v, seen[k]) and "batches_tracked" not in k]
    assert [k for k in changed if not k.endswith("kept")] == []
    for row in read_metrics(tmp_path / "watched" / "metrics.csv"):
        assert {"guard/eigenvalue", "guard/gap", "skips/normal", "skips/reduce", "entropy/normal"} <= set(row)


def test_a_collapsed_search_stops_and_keeps_its_last_good_genotype(job: Path, tmp_path: Path) -> None:
    guard = "guard={action: stop, eigenvalue_iterations: 1, window: 1, ratio: 0.999999}"
    config = _config(job, "epochs=6", "arch_lr=0.5", guard)
    found = run_search(config, tmp_path / "run")
    epochs = len(read_metrics(tmp_path / "run" / "metrics.csv"))
    assert epochs < 6
    assert found.origin.epoch == epochs - 2
    assert "collapse in epoch" in (tmp_path / "run" / "log.txt").read_text()
    (tmp_path / "run" / "genotype.yaml").unlink()
    assert run_search(config, tmp_path / "run", resume=True) == found
    assert len(read_metrics(tmp_path / "run" / "metrics.csv")) == epochs


def test_retrieval_among_people_held_out_chooses_the_genotype(job: Path, tmp_path: Path) -> None:
    config = _config(job, "validation=0.3", "validate_every=1", "choose=best", "epochs=3")
    found = run_search(config, tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    scores = [row["validation/mAP_derived"] for row in rows]
    assert found.origin.epoch == scores.index(max(scores))
    assert all(0 < row["validation/mAP"] <= 1 for row in rows)


def test_perturbation_keeps_the_weights_of_edges() -> None:
    operations = ("skip_connect", "sep_conv_3x3")
    structure = CellStructure(nodes=2, edges_per_node=1, operations=operations, attention=("none",))
    edges = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.2])  # partial channels with edge normalization
    start = {"normal": edges[:, None] * torch.full((5, 2), 0.5), "normal_attention": torch.ones(1, 1)}
    seen: list[Tensor] = []

    def note(weights: Mapping[str, Tensor]) -> None:
        seen.append(weights["normal"].sum(1).clone())

    choose_by_perturbation(start, structure, lambda _: 0.0, seed=0, tune=note)
    for sums in seen[:6]:  # of edges and attention, before edges are left out
        torch.testing.assert_close(sums, edges)


def test_centres_follow_their_classes_whatever_weight_the_term_has() -> None:
    settings = LossConfig(center_weight=5e-4, triplet_weight=0)
    objective = build_objective(settings, num_identities=4, features=8)
    means, start = 3 * torch.randn(4, 8), objective.center.centres.detach().clone()
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]}, *center_groups(objective)]
    optimizer = torch.optim.SGD(groups, lr=0.025, momentum=0.9, weight_decay=3e-4)
    for _ in range(100):
        optimizer.zero_grad()
        (settings.center_weight * objective.center(means, torch.arange(4))).backward()
        optimizer.step()
    assert (objective.center.centres - means).norm() < 0.01 * (start - means).norm()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3, eta_min=0.001)
    for _ in range(3):
        optimizer.step()
        schedule.step()
        restore_center_rate(optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    assert optimizer.param_groups[1]["lr"] * settings.center_weight == pytest.approx(0.5)
    features, labels = torch.randn(4, 8), torch.arange(4)
    assert "center" in objective(torch.randn(4, 4), features, labels)
    assert "center" not in objective(None, features, labels, partial=True, centers=False)
    assert center_groups(build_objective(LossConfig(), num_identities=4, features=8)) == []


def test_perturbation_keeps_what_is_missed_most() -> None:
    structure = CellStructure(nodes=1, operations=("none", "skip_connect", "sep_conv_3x3"), attention=("none", "dcs"))
    start = {"normal": torch.full((2, 3), 1 / 3), "normal_attention": torch.full((1, 2), 0.5)}
    worth = {"normal": torch.tensor([[0.0, 2.0, 1.0], [0.0, 1.0, 3.0]]), "normal_attention": torch.tensor([[0.0, 1.0]])}
    asked: list[Mapping[str, Tensor]] = []

    def loss(weights: Mapping[str, Tensor]) -> float:
        asked.append(weights)
        return -sum(float((weights[name] * worth[name]).sum()) for name in worth)

    found = choose_by_perturbation(start, structure, loss, seed=0)
    network = NetworkSpec(channels=4, cells=1, height=8, width=8)
    genotype = CellKind().derive(found, SpaceReference.of(structure, "x"), network, origin=Origin())
    assert [(e.op, e.source) for e in genotype.cells["normal"].nodes[0]] == [("skip_connect", 0), ("sep_conv_3x3", 1)]
    assert genotype.cells["normal"].attention == "dcs"
    for weights in asked[:4]:  # what is taken from an operation goes to the others of its edge
        torch.testing.assert_close(weights["normal"].sum(1), torch.ones(2))


def test_skips_are_counted_and_capped() -> None:
    structure = CellStructure(nodes=2, operations=("none", "skip_connect", "sep_conv_3x3"))
    network = NetworkSpec(channels=4, cells=1, height=8, width=8)
    weights = {"normal": torch.tensor([[0.1, 0.6, 0.3]] * 5), "normal_attention": torch.ones(1, 1)}
    weights["normal"][3, 1] = 0.9
    free = CellKind().derive(weights, SpaceReference.of(structure, "x"), network, origin=Origin())
    assert free.skips() == {"normal": 4}
    capped = CellKind().derive(weights, SpaceReference.of(structure, "x"), network, origin=Origin(), max_skips=1)
    assert capped.skips() == {"normal": 1}
    assert ("skip_connect", 1) in [(e.op, e.source) for e in capped.cells["normal"].nodes[1]]


def test_the_guard_follows_the_published_rules() -> None:
    guard = CollapseGuard(GuardConfig(action="stop", max_skips=2, window=2, ratio=0.75))
    for epoch, value in enumerate([1.0, 1.0, 1.1, 1.2]):
        assert guard.judge(epoch, 2, value) is None
    assert guard.last_good == 3
    assert "eigenvalue grew" in str(guard.judge(4, 2, 2.5))  # (1.2 + 2.5) / (1.0 + 1.1) > 1 / 0.75
    assert guard.last_good == 2
    assert guard.stopped
    other = CollapseGuard(GuardConfig(action="log", max_skips=2))
    other.load(guard.state())
    assert other.eigenvalues == guard.eigenvalues
    assert "3 skip connections, more than 2" in str(other.judge(5, 3))
    assert not other.stopped


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 1.0])
def test_halves_share_as_many_people_as_asked_and_no_image(overlap: float) -> None:
    labels = [person for person in range(40) for _ in range(4)]
    first, second = split_identities(labels, share=0.5, overlap=overlap, seed=0)
    assert sorted(first + second) == list(range(160))
    people = [{labels[i] for i in half} for half in (first, second)]
    assert len(people[0] & people[1]) == round(overlap * 40)
    assert abs(len(people[0]) - len(people[1])) <= 1


def test_people_held_out_of_the_search_are_in_neither_half(job: Path) -> None:
    data = ReidData(_config(job))
    halves, held = data.load_search_halves(share=0.5, overlap=0.5, validation=0.3)
    assert held is not None
    searched = set(halves["weights"].labels) | set(halves["architecture"].labels)
    assert not searched & set(held.labels)
    assert len(searched) + len(set(held.labels)) == data.num_identities


def test_prototypes_equal_a_loop() -> None:
    memory = PrototypeMemory(num_identities=4, feature_dim=3, temperature=0.1, momentum=0.2)
    batches = [(torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 3, 3])) for _ in range(2)]
    expected: dict[int, Tensor] = {}
    for features, labels in batches:
        memory.update(features, labels)
        for person in set(labels.tolist()):
            rows = [f / f.norm() for f, y in zip(features, labels) if y == person]
            mean = sum(rows) / len(rows)  # type: ignore[operator]
            mean = mean / mean.norm()
            moved = mean if person not in expected else 0.2 * expected[person] + 0.8 * mean
            expected[person] = moved / moved.norm()
    features, labels = torch.randn(3, 3, requires_grad=True), torch.tensor([0, 3, 2])  # 2 is new
    losses = []
    for f, y in zip(features, labels.tolist()):
        if y in expected:
            scores = {k: float(f.detach() @ c / f.detach().norm() / 0.1) for k, c in expected.items()}
            losses.append(-scores[y] + np.log(sum(np.exp(s) for s in scores.values())))
    found = memory(features, labels)
    assert found.item() == pytest.approx(float(np.mean(losses)), rel=1e-5)
    found.backward()
    assert features.grad is not None
    assert float(features.grad[2].abs().sum()) == 0


def test_prototypes_that_move_by_each_image_equal_the_published_loop() -> None:
    """vimar-gu/MSINet, reid/models/cm.py: from zeros, image by image."""
    memory = PrototypeMemory(num_identities=3, feature_dim=4, momentum=0.2, update="each")
    expected = torch.zeros(3, 4)
    for _ in range(3):
        features, labels = torch.randn(7, 4), torch.tensor([2, 0, 2, 1, 0, 2, 0])
        memory.update(features, labels)
        for f, y in zip(F.normalize(features), labels.tolist()):
            moved = 0.2 * expected[y] + 0.8 * f
            expected[y] = moved / moved.norm()
    torch.testing.assert_close(memory.prototypes, expected)
    features, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    loss = F.cross_entropy(F.normalize(features) @ expected.T / 0.05, labels)
    torch.testing.assert_close(memory(features, labels), loss)


def test_twin_memories_learn_their_own_half_alone(job: Path, tmp_path: Path) -> None:
    """The alphas' while they rest, too."""
    run_search(_config(job, "identity_overlap=0", "memory.levels=both", "warmup_epochs=1"), tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[1]["architecture/prototype"] > 0
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    alphas, weights = state["memory.seen"], state["weight_memory.seen"]
    assert alphas.any()
    assert weights.any()
    assert not (alphas & weights).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["search.memory.momentum=0.5"], "memory is set, but memory.levels is 'auto' and identity_overlap is 1"),
        (["search.memory.levels=both", "loss.identity_weight=0"], "levels is 'both', but loss.identity_weight is 0"),
    ],
)
def test_a_memory_that_nothing_would_read_is_refused(
    settings: list[str], message: str, job: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_search(load_config(job, settings), tmp_path / "run")


def test_statistics_are_left_alone_or_measured_anew() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(8, 2))
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    with frozen_statistics(norm):
        norm(torch.randn(8, 2))
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]
    batches = [torch.randn(8, 2) + 5 for _ in range(3)]
    with recalibrate_statistics(norm, lambda: [norm(batch) for batch in batches]):
        torch.testing.assert_close(norm.running_mean, torch.cat(batches).mean(0))
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]
    assert norm.momentum == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("choose=best", "validation is 0; hold out a share of the identities"),
        ("derivation=retrieval", "derivation is 'retrieval', but validation is 0"),
        ("guard={action: cap}", "max_skips is not set"),
        ("guard={action: stop, eigenvalue_iterations: 0}", "nothing to stop at"),
        ("relaxation={kind: gumbal}", "relaxation.kind"),
    ],
)
def test_settings_that_make_no_sense_are_refused(override: str, message: str, job: Path) -> None:
    with pytest.raises(InputError, match=message):
        _config(job, override)


@pytest.mark.parametrize("space", ["cells", "chain"])
def test_derivation_by_retrieval_keeps_the_likely_genotype_that_finds_people_best(
    space: str, job: Path, tmp_path: Path
) -> None:
    file = find_shipped_file("search_spaces", "demo_chain") if space == "chain" else job.parent / "space.yaml"
    options = ["validation=0.3", "epochs=1", "derivation=retrieval", "retrieval={candidates: 4, batches: 2}"]
    config = _config(job, *options, f"space={file}", "cost={kind: flops, form: multiplicative}")
    found = run_search(config, tmp_path / "run")
    assert found.kind == space
    assert found.origin.method.endswith("derived by retrieval")
    assert "the best of 4" in (tmp_path / "run" / "log.txt").read_text()
    assert load_genotype(tmp_path / "run" / "genotype.yaml") == found
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    names = {"entropy/kernel", "skips/blocks"} if space == "chain" else {"entropy/normal", "skips/normal"}
    assert {*names, "architecture/cost", "validation/mAP_derived"} <= set(row)
    score = score_supernet(tmp_path / "run", batches=2)
    weights = score.supernet.mixture_weights()
    record = ArchitectureRecord(tmp_path, load_space(file), data="", seed=3, method="")
    drawn = draw_likely(weights, lambda w: record.genotype(score.supernet, 0, w), candidates=4, seed=3)
    assert 0 < score(found) == max(score(one) for one in drawn) <= 1
    (tmp_path / "run" / "genotype.yaml").unlink()
    assert run_search(config, tmp_path / "run", resume=True) == found


def test_only_a_search_that_held_people_out_scores_genotypes(plain: Path) -> None:
    with pytest.raises(InputError, match="held no identities out; search with search.validation above 0"):
        score_supernet(plain)


@pytest.mark.parametrize("derivation", ["strongest", "perturbation"])
def test_a_search_interrupted_after_its_last_epoch_derives_the_same(derivation: str, job: Path, tmp_path: Path) -> None:
    derive = [f"derivation={derivation}", "perturbation={batches: 1, tune_steps: 1}"]
    config = _config(job, "validation=0.3", *derive, "relaxation={temperature: 5, temperature_end: 0.1}")
    found = run_search(config, tmp_path / "run")
    assert derivation == "strongest" or derivation in found.origin.method
    (tmp_path / "run" / "genotype.yaml").unlink()
    assert run_search(config, tmp_path / "run", resume=True) == found == load_genotype(tmp_path / "run/genotype.yaml")


def test_what_chooses_at_the_end_and_what_stops_before_it_exclude_each_other(job: Path) -> None:
    with pytest.raises(InputError, match="guard.action 'stop' excludes derivation 'retrieval', as both choose"):
        _config(job, "validation=0.2", "derivation=retrieval", "guard={action: stop, max_skips: 1}")


def test_likely_genotypes_are_drawn_as_often_as_their_weights_say() -> None:
    weights = {"normal": torch.tensor([[0.7, 0.2, 0.1]])}
    counts = {0: 0, 1: 0, 2: 0}
    for seed in range(1500):
        first, *others = draw_likely(weights, lambda w: int(w["normal"][0].argmax()), candidates=2, seed=seed)  # type: ignore[arg-type,return-value]
        assert first == 0
        counts[int(others[0])] += 1  # type: ignore[call-overload]
    assert counts[0] == 0
    assert counts[1] / 1500 == pytest.approx(0.2 / 0.3, abs=0.04)


def test_sharp_weights_give_fewer_genotypes_than_were_asked_for() -> None:
    weights = {"normal": torch.tensor([[1.0, 0.0]])}
    assert draw_likely(weights, lambda w: int(w["normal"][0].argmax()), candidates=5, seed=0) == [0]  # type: ignore[arg-type,return-value,comparison-overlap]


def test_a_chain_has_no_skips_of_cells_to_cap(job: Path, tmp_path: Path) -> None:
    config = _config(job, "space=demo_chain", "guard={action: cap, max_skips: 1}")
    with pytest.raises(InputError, match="guard.max_skips is for spaces of cells"):
        run_search(config, tmp_path / "x")


def test_a_figure_that_is_not_finite_leaves_the_running_statistics_alone(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that overflows within the guard's measurement alone; momentum 0 times infinity is NaN."""

    def gap(self: EpochMonitor, loss: SearchLoss, recent: Pass, genotype: Any) -> dict[str, float]:
        for buffer in loss.network.buffers():
            if buffer.is_floating_point():
                buffer.fill_(math.nan)
        calls.append(1)
        raise NonFiniteError("an overflow")

    states, calls = [], []
    for name in ("plain", "overflow"):
        run_search(_config(job, "epochs=2", "guard={eigenvalue_iterations: 0, gap: true}"), tmp_path / name)
        states.append(load_checkpoint(RunFolder(tmp_path / name).checkpoint("last"))["state_dict"])
        monkeypatch.setattr(EpochMonitor, "_gap", gap)
    assert len(calls) == 2
    changed = {key.rpartition(".")[2] for key in states[0] if not torch.equal(states[0][key], states[1][key])}
    assert changed <= {"num_batches_tracked"}
