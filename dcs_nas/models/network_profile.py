"""The cost of a network, layer by layer: parameters, multiply-adds, activation memory, latency on a device.

B images in a batch; modules below a chosen depth are added to the module that holds them.
"""

from __future__ import annotations

import copy
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcs_nas.models.flops import Share, attribute, count
from dcs_nas.models.latency import WARM_UP, clock, device_name, measure_latency

Run = Callable[[], object]


@dataclass(frozen=True)
class LayerProfile:
    """One row: a module with its submodules, or a module above the chosen depth without them.

    Attributes:
        name: path in the network; "" for the network itself.
        kind: class of the module.
        output: shape of its last output, without the batch; () if that is not one tensor.
        parameters: each counted once, in the first row that has it.
        macs: multiply-adds for one image, with those of matrix products and of attention.
        activation_bytes: bytes that a training pass keeps for the backward pass, for one image.
        microseconds: latency for a batch; None if not measured.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int
    activation_bytes: int
    microseconds: float | None


@dataclass(frozen=True)
class Profile:
    """The rows in order of computation, their totals, and where and how they were measured.

    ``microseconds`` is the latency of the whole network, run undisturbed; the rows' are taken by a clock that waits for
    the device before and after each module, so on a GPU they add up to more.
    """

    layers: tuple[LayerProfile, ...]
    parameters: int
    macs: int
    activation_bytes: int
    microseconds: float | None
    height: int
    width: int
    batch: int
    rounds: int
    device: str
    threads: int
    torch: str


def profile(
    network: nn.Module,
    height: int,
    width: int,
    *,
    device: torch.device,
    batch: int = 1,
    depth: int = 2,
    rounds: int = 20,
) -> Profile:
    """Return the costs of a network for ``batch`` images of 3 x height x width; the network is unchanged.

    Args:
        network: a backbone; one that reads cameras gets camera 0.
        height: of the images.
        width: of the images.
        device: where latency and activation memory are measured.
        batch: B.
        depth: of the modules that get a row of their own: 1 for the network's children, 2 for theirs, ...
        rounds: of the latencies, after warm-up; 0: no latency.
    """
    cost = count(network, height, width)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        kept = _measure_kept(copy.deepcopy(network).to(device), height, width, max(2, batch), device)
        images = torch.randn(batch, 3, height, width, device=device)
        timed = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        latencies, whole = _measure_latencies(timed, images, rounds) if rounds else ({}, None)
    layers = _Layers(network, depth)
    for name, share in kept.items():
        layers.add(name, share.output, kept=share.amount / max(2, batch))
    for layer in cost.layers:
        layers.add(layer.name, parameters=layer.parameters, macs=layer.macs)
    return Profile(
        layers=tuple(layers.profiles(latencies)),
        parameters=cost.parameters,
        macs=cost.macs,
        activation_bytes=round(sum(share.amount for share in kept.values()) / max(2, batch)),
        microseconds=whole,
        height=height,
        width=width,
        batch=batch,
        rounds=rounds,
        device=device_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


class _Layers:
    """Sums of amounts by the first ``depth`` parts of the modules' names, in order of first use."""

    def __init__(self, network: nn.Module, depth: int) -> None:
        self._modules, self._depth = dict(network.named_modules()), depth
        self._sums: dict[str, Counter[str]] = {}
        self._outputs: dict[str, tuple[int, ...]] = {}

    def place(self, name: str) -> str:
        return ".".join(name.split(".")[: self._depth])

    def add(self, name: str, output: tuple[int, ...] = (), **amounts: float) -> None:
        place = self.place(name)
        self._sums.setdefault(place, Counter()).update(amounts)
        if place == name and output:
            self._outputs[place] = output

    def profiles(self, latencies: Mapping[str, list[float]]) -> Iterator[LayerProfile]:
        rounds: dict[str, list[list[float]]] = {}
        for name, times in latencies.items():
            rounds.setdefault(self.place(name), []).append(times)
        for place, sums in self._sums.items():
            yield LayerProfile(
                name=place,
                kind=type(self._modules[place]).__name__,
                output=self._outputs.get(place, ()),
                parameters=int(sums["parameters"]),
                macs=int(sums["macs"]),
                activation_bytes=round(sums["kept"]),
                microseconds=1e6 * statistics.median(map(sum, zip(*rounds[place]))) if place in rounds else None,
            )


def _prepare_pass(network: nn.Module, images: Tensor) -> Run:
    """Return a function that runs one forward pass of the images."""
    images = images.to(memory_format=torch.channels_last)
    if getattr(network, "cameras", 0):
        cameras = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return lambda: network(images, cameras)
    return lambda: network(images)


@torch.no_grad()
def _measure_latencies(network: nn.Module, images: Tensor, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Return seconds of each round by module, without its submodules, and microseconds of the undisturbed network."""
    names, device = {module: name for name, module in network.named_modules()}, images.device
    run = _prepare_pass(network, images)
    seconds: dict[str, list[float]] = {}
    for number in range(WARM_UP + rounds):
        with attribute(network, lambda: clock(device)) as shares:
            run()
        if number >= WARM_UP:
            for module, share in shares.items():
                seconds.setdefault(names[module], []).append(share.amount)
    return seconds, measure_latency(run, device, rounds=rounds)


def _measure_kept(network: nn.Module, height: int, width: int, batch: int, device: torch.device) -> dict[str, Share]:
    """Return the bytes that a training pass keeps for its backward pass, by module: no weights, no buffers.

    Memory that several operations keep is counted once, at the first.
    """
    names = {module: name for name, module in network.named_modules()}
    images = torch.randn(batch, 3, height, width, device=device)
    run = _prepare_pass(network.train(), images)
    with _count_saved_bytes(network) as total, attribute(network, lambda: total[0]) as shares:
        output = run()  # alive until all is counted, so that no memory is handed out twice
    del output
    return {names[module]: share for module, share in shares.items()}


@contextmanager
def _count_saved_bytes(network: nn.Module) -> Iterator[list[int]]:
    """Yield a list whose one number grows with the bytes that autograd saves."""
    seen = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    total = [0]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total
