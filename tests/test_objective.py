"""The objective from settings: what IB takes for the input, and how its class statistics are kept, by one process or
two."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from dcs_nas.config import Config, load_config
from dcs_nas.data.augment import Normalize
from dcs_nas.data.datamodule import Images
from dcs_nas.data.records import Record
from dcs_nas.errors import InputError
from dcs_nas.losses import Objective
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.cell_kind import CellSupernet
from dcs_nas.models.cell_space import CellSpace
from dcs_nas.models.heads import Embedding, ReidNetwork, find_stem, record_outputs
from dcs_nas.runs import read_metrics
from dcs_nas.settings import parse
from dcs_nas.space import CellStructure, NetworkSpec
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.objective import (
    batch_terms,
    build_objective,
    refresh_objective,
    update_objective,
)
from dcs_nas.training.retrain_job import run_retraining

PEOPLE = 3
STRUCTURE = CellStructure(nodes=1, operations=("none", "skip_connect", "sep_conv_3x3"), attention=("none", "dcs"))
NETWORK = NetworkSpec(channels=2, cells=2, reductions=(1,), height=16, width=8)


class Plain(nn.Module):
    """A backbone whose features of an image hang on nothing else: no batch norm, no noise."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.last = nn.Conv2d(4, self.num_features, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.stem(images)))


def job(**loss: Any) -> Config:
    loss = {"ib_kind": "ibb_tight", "ib_weight": 0.1, "ib_grid": (4, 2), "ib_temperature": "auto", **loss}
    return Config(name="job", data={"height": 16, "width": 8, "test_batch": 5}, loss=loss)  # type: ignore[arg-type]


def made(backbone: nn.Module | None = None, **loss: Any) -> tuple[Config, ReidNetwork, Objective]:
    """The settings, a network with its head, and their objective, from one seed."""
    torch.manual_seed(0)
    config = job(**loss)
    network = ReidNetwork(backbone or Plain(), PEOPLE, height=16, width=8)
    features = network.num_features
    return config, network, build_objective(config.loss, num_identities=PEOPLE, features=features, network=network)


def people_images(count: int = 12) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 8, 3), dtype=np.uint8)
    labels = np.arange(count) % PEOPLE
    return Images(pixels, [Record(f"{i}.jpg", int(labels[i]), i % 2) for i in range(count)], labels)


def stream(objective: Objective, network: ReidNetwork, images: Images, config: Config, *, size: int = 4) -> None:
    """One epoch in which the weights stand still: every image once, then the refresh."""
    normalize = Normalize(config.data.mean, config.data.std)
    for start in range(0, len(images), size):
        batch = images[range(start, start + size)]
        pixels = normalize(batch["images"])
        update_objective(objective, network.train()(pixels), batch["labels"], pixels)
    refresh_objective(objective, network, [images], config)


def test_settings_of_ib_reach_the_loss_from_a_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("loss: {ib_kind: ibb, ib_input: stem, ib_grid: [4, 2], ib_normalize: true}")
    config = load_config(path, ["loss.ib_estimate=exact"])
    network = ReidNetwork(Plain(), PEOPLE, height=16, width=8)
    objective = build_objective(config.loss, num_identities=PEOPLE, features=6, network=network)
    bottleneck = objective.information_bottleneck
    assert bottleneck is not None
    assert (objective.settings.ib_input, objective.settings.ib_estimate, bottleneck.kind) == ("stem", "exact", "ibb")
    assert bottleneck.input_means.means.shape == (PEOPLE, 4 * 4 * 2)
    assert bottleneck.input_means.normalize
    assert network(torch.randn(2, 3, 16, 8)).stem.shape == (2, 4, 4, 2)


def test_choosing_input_or_estimate_without_a_kind_is_refused() -> None:
    with pytest.raises(InputError, match="ib_input or ib_estimate is set, but ib_kind is 'none'; name a kind"):
        parse(Config, {"name": "job", "loss": {"ib_input": "stem"}}, source="job.yaml")
    with pytest.raises(InputError, match=r"loss.ib_input.*'image' or 'stem'"):
        parse(Config, {"name": "job", "loss": {"ib_kind": "ibb", "ib_input": "root"}}, source="job.yaml")


@pytest.mark.parametrize("loss", [{"ib_input": "stem"}, {"ib_estimate": "exact"}])
def test_a_loop_that_cannot_do_it_refuses_at_once(loss: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="are not for this strategy; use image and streaming"):
        build_objective(job(**loss).loss, num_identities=PEOPLE, features=6)


def test_exact_statistics_refuse_a_loop_that_ends_epochs_itself() -> None:
    _, _, objective = made(ib_estimate="exact")
    with pytest.raises(InputError, match="this training makes no extra pass: set it to streaming"):
        objective.end_epoch()


# The stem's output as IB's input


def test_by_default_embeddings_hold_no_stem() -> None:
    _, network, objective = made()
    images, labels = torch.randn(4, 3, 16, 8), torch.tensor([0, 1, 2, 0])
    embedding = network(images)
    assert embedding.stem is None
    assert batch_terms(objective, embedding, labels, images)["ib"] == 0
    assert not find_stem(network.backbone)._forward_hooks


@pytest.mark.parametrize("training", [True, False])
def test_the_stem_on_its_grid_is_the_mean_of_the_stems_output(training: bool) -> None:
    _, network, _ = made(ib_input="stem")
    images = torch.randn(2, 3, 16, 8)
    expected = adaptive_avg_pool2d(network.backbone.stem(images), (4, 2))
    assert torch.equal(network.train(training).embed(images).stem, expected)
    assert not find_stem(network.backbone)._forward_hooks


def test_a_copy_of_a_network_looks_at_its_own_stem() -> None:
    _, network, _ = made(ib_input="stem")
    copied = copy.deepcopy(network)
    nn.init.zeros_(copied.backbone.stem.weight)
    nn.init.zeros_(copied.backbone.stem.bias)
    images = torch.randn(2, 3, 16, 8)
    assert (copied(images).stem == 0).all()
    assert (network(images).stem != 0).any()


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("resnet10_small", (32, 16), 16),
        ("mobilenet_v2", (32, 32), 32),
        ("osnet_x1_0", (32, 16), 64),
        ("hacnn", (32, 32), 32),
        ("vit_small", (32, 16), 384),
    ],
)
def test_every_family_of_backbones_has_a_stem(name: str, size: tuple[int, int], channels: int) -> None:
    height, width = size
    network = ReidNetwork(BACKBONES[name](height=height, width=width), PEOPLE, height=height, width=width)
    assert network.expose_stem((2, 1)) == channels
    assert network.eval().embed(torch.randn(1, 3, height, width)).stem.shape == (1, channels, 2, 1)


def test_every_registered_backbone_names_an_existing_stem() -> None:
    for name in BACKBONES:
        with torch.device("meta"):
            backbone = BACKBONES[name](height=64, width=32)
        assert find_stem(backbone) in list(backbone.modules()), name


def _frozen() -> nn.Module:
    space, sample = CellSpace(STRUCTURE, NETWORK, affine=True), {}
    space.random(sample)
    return space.freeze(sample)


@pytest.mark.parametrize("make", [lambda: CellSupernet(STRUCTURE, NETWORK), _frozen])
def test_cell_networks_have_a_stem(make: Any) -> None:
    config, network, objective = made(make(), ib_input="stem")
    images, labels = torch.randn(4, 3, 16, 8), torch.tensor([0, 1, 2, 0])
    with record_outputs(find_stem(network.backbone)) as seen:
        embedding = network(images)
    assert torch.equal(embedding.stem, adaptive_avg_pool2d(seen[0], (4, 2)).detach())
    update_objective(objective, embedding, labels, images)
    refresh_objective(objective, network, [people_images()], config)
    terms = batch_terms(objective, network(images), labels, images)
    assert terms["ib_compression"] != 0


class Stemless(nn.Module):
    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images


class Flat(Plain):
    stem_path = "vector"

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.vector(images).sum()


def test_a_backbone_without_a_stem_is_refused_with_the_alternatives() -> None:
    message = r"Stemless has no stem: no submodule 'stem'; set loss.ib_input to image, or name .* attribute stem_path"
    with pytest.raises(InputError, match=message):
        made(Stemless(), ib_input="stem")
    with pytest.raises(InputError, match=r"the stem of Flat returns no map \(B, S, H, W\); set loss.ib_input to image"):
        made(Flat(), ib_input="stem")


def test_an_embedding_that_lost_its_stem_is_refused() -> None:
    _, network, objective = made(ib_input="stem")
    images = torch.randn(4, 3, 16, 8)
    features, logits, _ = network(images)
    with pytest.raises(
        InputError,
        match="input_features is None, expected a tensor for the IB term: pass the images or the stem's output",
    ):
        batch_terms(objective, Embedding(features, logits), torch.tensor([0, 1, 2, 0]), images)


@pytest.mark.parametrize("kind", ["ibb", "ibb_tight", "plugin"])
def test_the_stem_learns_from_ib_through_the_features_alone(kind: str) -> None:
    config, network, objective = made(ib_kind=kind, ib_input="stem")
    stream(objective, network, people_images(), config)
    images, labels = torch.randn(6, 3, 16, 8), torch.arange(6) % PEOPLE
    embedding = network.train()(images)
    terms = batch_terms(objective, embedding, labels, images)
    weight = network.backbone.stem.weight
    (found,) = torch.autograd.grad(terms["ib"], weight, retain_graph=True)
    (expected,) = torch.autograd.grad(embedding.features, weight, _by_features(objective, embedding, labels))
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected)
    assert terms["ib_compression"].requires_grad == (kind == "plugin")


def _by_features(objective: Objective, embedding: Embedding, labels: Tensor) -> Tensor:
    features = embedding.features.detach().requires_grad_()
    assert embedding.stem is not None
    value = objective.information_bottleneck(features, embedding.stem.clone().requires_grad_(), labels)["ib"]
    return torch.autograd.grad(value, features)[0]


# Streaming and exact statistics


@pytest.mark.parametrize("source", ["image", "stem"])
def test_exact_statistics_equal_streaming_ones_while_the_weights_stand_still(source: str) -> None:
    images = people_images()
    config, network, streaming = made(ib_input=source)
    for _ in range(2):  # Q is taken under the means of the epoch before
        stream(streaming, network, images, config)
    config, network, exact = made(ib_input=source, ib_estimate="exact")
    stream(exact, network, images, config)
    torch.testing.assert_close(dict(exact.state_dict()), dict(streaming.state_dict()))


def test_exact_statistics_take_no_part_of_the_epochs_batches() -> None:
    _, network, objective = made(ib_estimate="exact")
    update_objective(objective, network(torch.randn(3, 3, 16, 8)), torch.arange(3), torch.randn(3, 3, 16, 8))
    assert objective.information_bottleneck is not None
    assert not objective.information_bottleneck.feature_means.counts.any()


def test_the_extra_pass_leaves_weights_statistics_and_mode_alone() -> None:
    config, network, objective = made(_frozen(), ib_estimate="exact")
    before = copy.deepcopy(network.state_dict())
    refresh_objective(objective, network.train(), [people_images()], config)
    names = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert network.training
    assert not [name for name in names if "kept" not in name]
    assert all(p.grad is None for p in network.parameters())
    assert objective.information_bottleneck.ready


def test_exact_statistics_of_parts_are_those_of_the_whole() -> None:
    images, found = people_images(), []
    for parts in ([images], [images.subset(range(5)), images.subset(range(5, 12))]):
        config, network, objective = made(ib_estimate="exact")
        refresh_objective(objective, network, parts, config)
        found.append(dict(objective.state_dict()))
    torch.testing.assert_close(*found)


def test_without_ib_a_refresh_does_nothing() -> None:
    config, network, objective = made(ib_kind="none", ib_weight=0.0)
    refresh_objective(objective, network, [people_images()], config)
    assert not objective.state_dict()


# Jobs

JOB = """
seed: 3
data: {name: market1501, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
augment: {pad: 2}
loss: {ib_kind: ibb, ib_weight: 0.1, ib_grid: [4, 2], ib_temperature: auto, ib_input: stem, ib_estimate: exact}
retrain: {epochs: 2, lr: 0.005, warmup_epochs: 1, backbone: resnet10_small, backbone_options: {base: 4}}
trainer: {accelerator: cpu, threads: 1}
"""


def test_retraining_with_exact_statistics_of_the_stem_goes_on_bit_equal(people: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    config = load_config(path, [f"data.root={people}", f"data.cache={tmp_path / 'cache'}"])
    run_retraining(config, tmp_path / "straight")
    assert [row["train/ib_compression"] < 0 for row in read_metrics(tmp_path / "straight" / "metrics.csv")] == [0, 1]
    half = load_config(path, [f"data.root={people}", f"data.cache={tmp_path / 'cache'}"])
    _interrupted(half, tmp_path / "resumed")
    run_retraining(half, tmp_path / "resumed", resume=True)
    first, second = (_state(tmp_path / name) for name in ("straight", "resumed"))
    kept = [name for name in first if name.startswith("objective.information_bottleneck.")]
    assert len(kept) == 15
    assert all(torch.equal(first[name], second[name]) for name in kept)


def _interrupted(config: Config, folder: Path) -> None:
    """Ends after the first of two epochs, as when a node is lost."""
    from dcs_nas.training.retraining import Retraining

    begun, start = [], Retraining.on_train_epoch_start

    def stop(self: Retraining) -> None:
        begun.append(self.current_epoch)
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        start(self)

    Retraining.on_train_epoch_start = stop  # type: ignore[method-assign]
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run_retraining(config, folder)
    finally:
        Retraining.on_train_epoch_start = start  # type: ignore[method-assign]
    assert begun == [0, 1]


def _state(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]


# Two processes


class TwoProcesses:
    """Two threads that take themselves for processes: each has a rank, and what they sum is exchanged."""

    def __init__(self) -> None:
        self._own, self._barrier, self._slots = threading.local(), threading.Barrier(2, timeout=60), [None, None]

    def rank(self) -> int:
        return self._own.rank

    def all_reduce(self, tensor: Tensor) -> None:
        self._slots[self._own.rank] = tensor.clone()
        self._barrier.wait()
        total = self._slots[0] + self._slots[1]
        self._barrier.wait()
        tensor.copy_(total)

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        def process(rank: int) -> Any:
            self._own.rank = rank
            return work(rank)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(process, range(2)))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> TwoProcesses:
    group = TwoProcesses()
    monkeypatch.setattr("dcs_nas.training.objective.get_rank", group.rank)
    monkeypatch.setattr("dcs_nas.training.objective.get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", group.all_reduce)
    return group


@pytest.mark.parametrize("estimate", ["streaming", "exact"])
def test_two_processes_reach_the_statistics_of_one(
    estimate: str, processes: TwoProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = people_images(13)
    setups = [made(ib_input="stem", ib_estimate=estimate) for _ in range(3)]

    def work(rank: int) -> dict[str, Tensor]:
        config, network, objective = setups[rank]
        batches = images.subset(range(rank, len(images), 2))
        for _ in range(2):
            _learn(objective, network, batches, config)
            refresh_objective(objective, network, [images], config)
        return dict(objective.state_dict())

    found = processes.run(work)
    monkeypatch.undo()
    config, network, objective = setups[2]
    for _ in range(2):
        _learn(objective, network, images, config)
        refresh_objective(objective, network, [images], config)
    for state in found:
        torch.testing.assert_close(state, dict(objective.state_dict()))


def _learn(objective: Objective, network: ReidNetwork, images: Images, config: Config) -> None:
    batch = images[range(len(images))]
    pixels = Normalize(config.data.mean, config.data.std)(batch["images"])
    update_objective(objective, network.train()(pixels), batch["labels"], pixels)
