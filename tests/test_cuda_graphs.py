"""Passes as CUDA graphs: the values, gradients, statistics and draws of the plain ones; what can't be captured.

On a CPU graphs are played by functions that, as graphs do, compute on fixed tensors and write over their last outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcs_nas.config import Config, TrainerConfig, load_config
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.models.build import build_supernet
from dcs_nas.models.heads import Embedding, ReidNetwork
from dcs_nas.models.supernet import Supernet
from dcs_nas.runs import RunFolder
from dcs_nas.space import ChainSpec, Space, SpaceSpec, find_shipped_file, load_space
from dcs_nas.strategies.bilevel import without_gradients
from dcs_nas.strategies.job import run_search
from dcs_nas.training import devices
from dcs_nas.training.acceleration import accelerate, eager
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.cuda_graphs import GraphedForward
from dcs_nas.training.loop import TrainingLoop
from dcs_nas.training.retrain_job import run_retraining
from dcs_nas.training.trainer import training_job

CELLS = SpaceSpec(
    name="tiny",
    cells=2,
    channels=4,
    nodes=2,
    reductions=(1,),
    operations=("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "dcs"),
    attention=("none", "dcs", "harmonious", "rga"),
)
CHAIN: ChainSpec = load_space(find_shipped_file("search_spaces", "demo_chain"))  # type: ignore[assignment]
WITHOUT_BRANCHES = [s.model_copy(update={"attention": ("none", "dcs")}) for s in CHAIN.stages]
SPACES: dict[str, Space] = {
    "cells": CELLS,
    "chain": CHAIN.model_copy(update={"stages": tuple(WITHOUT_BRANCHES)}),
    **{name: load_space(find_shipped_file("search_spaces", name)) for name in ("msi", "osnet_ain")},
}


class Played(torch.autograd.Function):
    """A graph on a CPU: computes on ``fixed`` tensors; the next pass writes over its ``outputs`` and gradients."""

    @staticmethod
    def forward(ctx: Any, graph: PlayedGraph, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.graph = graph
        with torch.no_grad():
            for fixed, value in zip(graph.fixed, inputs):
                fixed.copy_(value)
        with torch.enable_grad():
            graph.computed = graph.passed(*graph.fixed)
        if graph.outputs is None:
            graph.outputs = [x.detach().clone() for x in graph.computed]
        for output, x in zip(graph.outputs, graph.computed):
            output.copy_(x.detach())
        return tuple(x.detach() for x in graph.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        graph = ctx.graph
        outputs, factors = zip(*((x, g) for x, g in zip(graph.computed, gradients) if x.requires_grad))
        places = [n for n, x in enumerate(graph.inputs) if x.requires_grad]
        values = torch.autograd.grad(outputs, [graph.inputs[n] for n in places], factors, allow_unused=True)
        for place, value in zip(places, values):
            if value is not None:
                graph.gradients.setdefault(place, torch.empty_like(value)).copy_(value)
        return None, *(graph.gradients[n].detach() if n in graph.gradients else None for n in range(len(graph.inputs)))


class PlayedGraph:
    def __init__(self, whole: nn.Module, samples: Sequence[Tensor]) -> None:
        self.passed, self.fixed = whole.forward, samples
        self.inputs = [*samples, *whole.parameters()]
        self.outputs: list[Tensor] | None = None
        self.gradients: dict[int, Tensor] = {}
        self.computed: list[Tensor] = []
        torch.rand(7)  # a capture draws, and computes passes
        self.passed(*samples)

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        return list(Played.apply(self, *tensors, *self.inputs[len(tensors) :]))


@pytest.fixture
def captures(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The passes that were captured."""
    captured: list[nn.Module] = []
    capture = torch.cuda.make_graphed_callables

    def record(whole: nn.Module, samples: tuple[Tensor, ...], **options: Any) -> Any:
        captured.append(whole)
        return PlayedGraph(whole, samples) if device.type == "cpu" else capture(whole, samples, **options)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    if device.type == "cpu":
        monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
        monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
        install = GraphedForward.install
        monkeypatch.setattr(GraphedForward, "install", lambda network: install(network, device="cpu"))
        monkeypatch.setattr(devices, "on_gpus", lambda _settings: True)
    return captured


def _config(**search: Any) -> Config:
    data = {"height": 64, "width": 32}
    trainer = {"compile": "cuda-graphs"}
    return Config.model_validate(
        {"name": "c", "data": data, "search": {"strategy": "bilevel", "space": "x", **search}, "trainer": trainer}
    )


def _network(space: str, device: torch.device, **search: Any) -> ReidNetwork:
    torch.manual_seed(0)
    config = _config(**search)
    network = build_supernet(SPACES[space], config.section("search"), config.data, 5, config.dcs)
    return network.to(device).train()


@contextmanager
def _half(network: ReidNetwork, name: str) -> Iterator[None]:
    supernet = network.backbone
    assert isinstance(supernet, Supernet)
    alphas = list(supernet.alphas().values())
    own = {id(alpha) for alpha in alphas}
    fixed = alphas if name == "weights" else [p for p in network.parameters() if p.requires_grad and id(p) not in own]
    with without_gradients(fixed):
        yield


def _step(network: ReidNetwork, images: Tensor, half: str, *, seed: int = 1) -> tuple[Embedding, dict[str, Tensor]]:
    """Return the output and the gradients of a pass."""
    torch.manual_seed(seed)
    network.zero_grad(set_to_none=True)
    with _half(network, half):
        with network.backbone.hold_draw():  # type: ignore[operator]
            embedding = network(images)
        read = [x for n, x in enumerate(embedding.logits or []) if n not in network.unread]
        sum((x.square().sum() for x in read), embedding.features.square().sum()).backward()
    return embedding, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.device
@pytest.mark.parametrize(
    ("space", "relaxation", "unread"),
    [
        ("cells", "softmax", ()),
        ("cells", "gumbel_softmax", (0,)),
        ("cells", "dirichlet", ()),
        ("chain", "gumbel_softmax", ()),
        ("msi", "softmax", (0, 1)),
        ("osnet_ain", "softmax", ()),
    ],
)
def test_both_halves_of_a_search_have_the_values_gradients_and_statistics_of_the_plain_passes(
    space: str, relaxation: str, unread: tuple[int, ...], device: torch.device, captures: list[nn.Module]
) -> None:
    plain, graphed = (_network(space, device, relaxation={"kind": relaxation}) for _ in range(2))
    accelerate(graphed, _config())
    plain.unread = graphed.unread = frozenset(unread)
    outputs = []
    for seed in range(3):
        images = torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(seed)).to(device)
        for half in ("architecture", "weights"):
            (expected, gradients), (actual, own) = (_step(network, images, half) for network in (plain, graphed))
            torch.testing.assert_close(actual.features, expected.features, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-4, atol=1e-5)
            assert list(own) == list(gradients)  # None of the same parameters
            for name, gradient in gradients.items():
                torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=1e-4, msg=name)
            outputs.append((actual.features, actual.features.detach().clone()))
    assert len(captures) == 2
    for (name, own_state), state in zip(graphed.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(own_state, state, rtol=1e-4, atol=1e-5, msg=name)
    assert all(torch.equal(kept, copied) for kept, copied in outputs)  # no later pass wrote over them


@pytest.mark.device
def test_a_graph_follows_weights_temperature_and_random_seed(device: torch.device, captures: list[nn.Module]) -> None:
    from dcs_nas.models.blocks import set_temperature

    network = _network("cells", device)
    with torch.no_grad():  # a new block of DCS passes nothing on
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    accelerate(network, _config())
    images = torch.randn(4, 3, 64, 32, device=device)

    def gradient(seed: int = 1) -> Tensor:
        return _step(network, images, "weights", seed=seed)[1]["backbone.space.stem.layers.0.weight"]

    first = gradient()
    torch.testing.assert_close(gradient(), first, rtol=1e-4, atol=1e-4)
    assert (gradient(seed=2) - first).abs().max() > 1e-3 * first.abs().max()
    set_temperature(network, 0.5)
    cold = gradient()
    assert (cold - first).abs().max() > 1e-3 * first.abs().max()
    with torch.no_grad():
        for p in network.backbone.parameters():
            p.mul_(1.1)
    assert (gradient() - cold).abs().max() > 1e-2 * cold.abs().max()
    assert len(captures) == 1


@pytest.mark.device
def test_every_kind_of_pass_is_captured_once(device: torch.device, captures: list[nn.Module]) -> None:
    network = _network("cells", device)
    accelerate(network, _config())
    large, small = (torch.randn(n, 3, 64, 32, device=device) for n in (4, 2))
    for images, half, count in [(large, "weights", 1), (large, "weights", 1), (small, "weights", 2)]:
        _step(network, images, half)
        assert len(captures) == count
    _step(network, small, "architecture")
    network.backbone.eval()
    _step(network, small, "architecture")
    assert len(captures) == 4


@pytest.mark.device
def test_passes_that_a_graph_does_not_hold_are_computed_as_they_are(
    device: torch.device, captures: list[nn.Module]
) -> None:
    network = _network("cells", device)
    accelerate(network, _config())
    images = torch.randn(4, 3, 64, 32, device=device)
    supernet = network.backbone
    assert isinstance(supernet, Supernet)
    network(images)  # no weights drawn for the whole pass
    with torch.no_grad(), supernet.hold_draw():
        network(images)
    with eager(_config().trainer), supernet.hold_draw():
        network(images)
    with supernet.fix_weights(supernet.mixture_weights()), supernet.hold_draw():
        network(images)
    features = network.eval()(images)
    assert isinstance(features, Tensor)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(images), features)
    assert twin.forward is not network.forward
    assert list(network.state_dict()) == list(_network("cells", device).state_dict())
    assert captures == []


@pytest.fixture
def job(people: Path, tmp_path: Path, device: torch.device) -> Callable[..., Config]:
    """Settings of a short search or retraining, with further ones."""
    size = {"height": 64, "width": 32, "identities_per_batch": 2, "images_per_identity": 2}
    (tmp_path / "space.yaml").write_text(
        "name: tiny\ncells: 1\nchannels: 4\nnodes: 2\nreductions: [0]\noperations: [none, skip_connect, sep_conv_3x3]\n"
        "attention: [none, dcs]\n"
    )

    def config(*options: str) -> Config:
        settings = {
            "name": "job",
            "data": {"root": people, "cache": tmp_path / "cache", **size},
            "search": {"space": str(tmp_path / "space.yaml"), "strategy": "bilevel", "epochs": 2, "validation": 0},
            "retrain": {"backbone": "osnet_x0_25", "epochs": 2},
            "trainer": {"accelerator": "cpu" if device.type == "cpu" else "gpu", "loggers": [], "deterministic": True},
        }
        (tmp_path / "job.yaml").write_text(Config.model_validate(settings).model_dump_json())
        return load_config(tmp_path / "job.yaml", list(options))

    return config


@pytest.mark.device
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_jobs_have_the_weights_of_plain_ones(
    precision: str, job: Callable[..., Config], tmp_path: Path, device: torch.device, captures: list[nn.Module]
) -> None:
    weights: dict[str, dict[str, Tensor]] = {}
    for name, run in {"search": run_search, "retrain": run_retraining}.items():
        for mode in ("off", "cuda-graphs"):
            folder = tmp_path / f"{name} {mode}"
            run(job(f"trainer.compile={mode}", f"trainer.precision={precision}"), folder)
            weights[mode] = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
        assert list(weights["off"]) == list(weights["cuda-graphs"])
        close = {"rtol": 1e-3, "atol": 1e-4}
        if precision != "32-true" and device.type != "cpu":  # whose kernels differ by the layout of their memory
            close = {"rtol": 0.1, "atol": 0.05}
        for key, value in weights["off"].items():
            torch.testing.assert_close(weights["cuda-graphs"][key], value, **close, msg=key)
    assert len(captures) == 3  # of the search two


@pytest.mark.device
@pytest.mark.parametrize("strategy", ["random", "proposals"])
def test_trials_are_captured(
    strategy: str, job: Callable[..., Config], tmp_path: Path, captures: list[nn.Module]
) -> None:
    options = [f"search.strategy={strategy}", "search.trials.trials=2", "search.trials.epochs=2", "search.epochs=1"]
    options += ["search.trials.validation=0.4", "search.trials.proposals.candidates=3"]
    scores = []
    for mode in ("off", "cuda-graphs"):
        folder = tmp_path / mode
        run_search(job(f"trainer.compile={mode}", *options), folder)
        scores.append([row["validation/mAP"] for row in RunFolder(folder).metrics()])
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)
    assert len(captures) == 2  # one a trial, none of the paths


@pytest.mark.device
def test_an_interrupted_search_resumes_to_the_same_bits(
    job: Callable[..., Config], tmp_path: Path, captures: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job("trainer.compile=cuda-graphs")
    run_search(config, tmp_path / "whole")
    end = TrainingLoop.on_train_epoch_end

    def interrupted(self: TrainingLoop) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        end(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "on_train_epoch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_search(config, tmp_path / "run")
    run_search(config, tmp_path / "run", resume=True)
    first, second = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("whole", "run")
    )
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    assert len(captures) == 6


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("search.order=2,search.hessian=finite_difference", r"search\.order 2, whose extra passes are others"),
        ("search.checkpoint_activations=true", r"search\.checkpoint_activations, which computes again"),
        ("search.relaxation.kind=gumbel", r"search\.relaxation gumbel"),
        ("search.strategy=nni.random", r"search\.strategy nni\.random"),
        ("search.strategy=proposals,search.trials.proposals.supernet=bilevel,search.order=2", r"search\.hessian exact"),
        ("retrain.accumulate=2", r"retrain\.accumulate above 1"),
    ],
)
def test_jobs_that_a_graph_cannot_hold_are_refused(
    option: str, said: str, job: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "on_gpus", lambda _settings: True)
    run = run_search if option.startswith("search") else run_retraining
    with pytest.raises(InputError, match=rf"trainer.compile=cuda-graphs is not for {said}.*; set trainer.compile=off"):
        run(job("trainer.compile=cuda-graphs", *option.split(",")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("attention", ["none", "dcs", "rga", "dcs_window"])
def test_a_chain_that_picks_modules_by_weights_is_refused(attention: str) -> None:
    stages = tuple(s.model_copy(update={"attention": (attention,)}) for s in CHAIN.stages)
    config = _config()
    network = build_supernet(CHAIN.model_copy(update={"stages": stages}), config.section("search"), config.data, 5)
    if attention in ("none", "dcs"):
        accelerate(network, config)
        assert isinstance(network.forward, GraphedForward)
    else:
        with pytest.raises(InputError, match="not for search.space x, whose attention is computed for the strongest"):
            accelerate(network, config)


def test_graphs_without_a_gpu_are_refused(job: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cuda-graphs, which needs a CUDA GPU, .* without one; set trainer.compile=o"):
        run_retraining(job("trainer.compile=cuda-graphs", "trainer.accelerator=cpu"), tmp_path / "run")


@pytest.mark.parametrize(
    ("gpu", "option", "said"),
    [
        (True, "search.order=1", True),
        (True, "search.order=2", False),
        (True, "search.relaxation.kind=gumbel", False),
        (True, "trainer.compile=default", False),
        (True, "trainer.devices=2", False),
        (False, "search.order=1", False),
    ],
)
def test_a_search_on_a_gpu_is_told_of_graphs(
    gpu: bool, option: str, said: bool, job: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(option)
    monkeypatch.setattr(TrainerConfig, "cuda", property(lambda _self: gpu))
    with training_job(config, "search", RunFolder(tmp_path / "run")):
        pass
    assert ("trainer.compile=cuda-graphs" in (tmp_path / "run" / "log.txt").read_text()) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("operation not permitted\nmore lines"),
            "a pass of ReidNetwork cannot be captured: operation not",
        ),
        (torch.OutOfMemoryError("no memory"), "^no memory$"),
    ],
)
def test_a_pass_that_cannot_be_captured_is_one_line(
    error: RuntimeError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        try:
            raise error
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    network = _network("cells", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    GraphedForward.install(network, device="cpu")
    with pytest.raises((TrainingError, torch.OutOfMemoryError), match=said):
        _step(network, torch.randn(2, 3, 64, 32), "weights")
