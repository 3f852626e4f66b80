"""One bilevel step (alphas, then weights): ours, NNI 3.0's DARTS, and DARTS as published, on the same space.

The eight DARTS operations, 4 cells, width 8, 4 nodes, batch 32 at 32 x 32, 10 classes; each step is called in turn in
one process. All three compute the same: cross-entropy, a step of Adam for the alphas on one batch, a clipped step of
SGD for the weights on another. NNI's network is its own hub space (which leaves ``none`` out), stepped as its
``DartsLightningModule.training_step`` does; the published one is benchmarks/_plain_darts.py.

    python benchmarks/search_step.py --json results/reference/search_step.json
    python benchmarks/search_step.py --attention          # our space with attention, against its plain formulation
    python benchmarks/search_step.py --growth results/reference/search_growth.png
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _plain_darts import OPERATIONS, PlainNetwork
from measure import MIB, alternate, peak_memory, write_json
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dcs_nas.models.super_cell import SuperCell, edge_index
from dcs_nas.models.supernet import Supernet
from dcs_nas.runs import environment
from dcs_nas.search.bilevel import without_gradients
from dcs_nas.space import CellStructure, NetworkSpec
from dcs_nas.space.spec import thirds

SIZES = {"width": 8, "cells": 4, "nodes": 4, "batch": 32, "size": 32}
CLASSES = 10
ATTENTION = ("none", "dcs", "harmonious", "rga_spatial", "rga_channel", "rga")


class Search:
    """A network with alphas and weights, their optimizers, and two batches."""

    def __init__(self, network: nn.Module, alphas: list[nn.Parameter], sizes: dict[str, int], *, freeze: bool) -> None:
        own = {id(a) for a in alphas}
        self.network, self.alphas, self.freeze = network, alphas, freeze
        self.weights = [p for p in network.parameters() if id(p) not in own]
        self.sgd = torch.optim.SGD(self.weights, lr=0.025, momentum=0.9, weight_decay=3e-4)
        self.adam = torch.optim.Adam(alphas, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        generator = torch.Generator().manual_seed(0)
        shape = (2, sizes["batch"], 3, sizes["size"], sizes["size"])
        self.images = torch.randn(shape, generator=generator)
        self.labels = torch.randint(CLASSES, shape[:2], generator=generator)

    def step(self) -> None:
        """Both halves; gradients of the other level only where the peer computes them too."""
        with without_gradients(self.weights if self.freeze else []):
            self._half(1, self.adam, clip=False)
        with without_gradients(self.alphas if self.freeze else []):
            self._half(0, self.sgd, clip=True)

    def _half(self, half: int, optimizer: torch.optim.Optimizer, *, clip: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(self.network(self.images[half]), self.labels[half]).backward()
        if clip:
            nn.utils.clip_grad_norm_(self.weights, 5.0)
        optimizer.step()


class Classifier(nn.Module):
    """Our supernet with a linear classifier."""

    def __init__(self, supernet: Supernet) -> None:
        super().__init__()
        self.supernet, self.linear = supernet, nn.Linear(supernet.num_features, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.supernet(images).mean(dim=(2, 3)))


def ours(sizes: dict[str, int], attention: bool = False) -> Search:
    network = Classifier(_supernet(sizes, attention)).to(memory_format=torch.channels_last)
    search = Search(network, list(network.supernet.alphas().values()), sizes, freeze=True)
    search.images = torch.stack([x.contiguous(memory_format=torch.channels_last) for x in search.images])
    return search


def published(sizes: dict[str, int]) -> Search:
    network = PlainNetwork(width=sizes["width"], cells=sizes["cells"], nodes=sizes["nodes"], classes=CLASSES)
    return Search(network, list(network.alphas), sizes, freeze=False)


def published_with_attention(sizes: dict[str, int]) -> Search:
    """Our modules in the published formulation: nothing shared within a cell, NCHW, all gradients in both halves."""
    network = Classifier(_supernet(sizes, True))
    for cell in network.supernet.space.cells:
        object.__setattr__(cell, "_compute", _plain_cell(cell))
    return Search(network, list(network.supernet.alphas().values()), sizes, freeze=False)


def nni(sizes: dict[str, int]) -> Search:
    from dcs_nas.models.nni_imports import DARTS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nni.nas.hub.pytorch import nasnet

        strategy = DARTS()
        network = strategy.mutate_model(nasnet.DARTS(width=sizes["width"], num_cells=sizes["cells"], dataset="cifar"))
    alphas = {id(a): a for m in network.modules() if hasattr(m, "arch_parameters") for a in m.arch_parameters()}
    return Search(network, list(alphas.values()), sizes, freeze=False)


PEERS: dict[str, Callable[..., Search]] = {"ours": ours, "nni": nni, "published": published}


def main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {"sizes": SIZES, "threads": torch.get_num_threads(), **environment()}
    if arguments.growth:
        results["growth"] = _growth(arguments.growth, arguments.repeats)
    else:
        results |= _compare(arguments)
    write_json(arguments.json, results)


def _compare(arguments: argparse.Namespace) -> dict[str, Any]:
    peers = PEERS
    if arguments.attention:
        peers = {"ours": lambda sizes: ours(sizes, True), "published": published_with_attention}
    torch.manual_seed(0)
    seconds = alternate({name: make(SIZES).step for name, make in peers.items()}, arguments.repeats)
    names = {"ours": _ours_step, "nni": _nni_step, "published": _published_step}
    memory = {} if arguments.attention else {name: peak_memory(names[name], repeats=1) / MIB for name in peers}
    for name in peers:
        line = f"{name:10} {seconds[name]:.3f} s, {seconds[name] / seconds['ours']:.2f} times ours"
        print(line + (f", {memory[name]:.0f} MiB beyond what lives on" if memory else ""))
    ratios = {name: seconds[name] / seconds["ours"] for name in peers}
    return {
        "space": "attention" if arguments.attention else "darts",
        "seconds": seconds,
        "ratios": ratios,
        "mib": memory,
    }


def _ours_step() -> Callable[[], None]:
    return ours(SIZES).step


def _nni_step() -> Callable[[], None]:
    return nni(SIZES).step


def _published_step() -> Callable[[], None]:
    return published(SIZES).step


def _growth(path: Path, repeats: int) -> dict[str, dict[int, float]]:
    """Seconds of a step as one size changes and the others stay; and a plot of them."""
    changes = {
        "width": (4, 8, 16, 32),
        "cells": (2, 4, 8, 12),
        "nodes": (2, 3, 4, 5),
        "batch": (8, 16, 32, 64),
        "size": (16, 32, 48, 64),
    }
    found: dict[str, dict[int, float]] = {}
    for name, values in changes.items():
        steps = {str(v): ours({**SIZES, name: v}).step for v in values}
        found[name] = {int(v): s for v, s in alternate(steps, repeats).items()}
        print(name, ", ".join(f"{v}: {s:.3f} s" for v, s in found[name].items()))
    _plot(found, path)
    return found


def _plot(found: dict[str, dict[int, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3 * len(found), 2.6), sharey=True, layout="constrained")
    for axis, (name, times) in zip(axes, found.items()):
        axis.plot(list(times), list(times.values()), marker="o", color="#0072b2")
        axis.axvline(SIZES[name], color="#999999", linewidth=0.8, linestyle=":")
        axis.set_xlabel({"size": "image height and width (pixels)", "batch": "batch (images)"}.get(name, name))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds a bilevel step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _supernet(sizes: dict[str, int], attention: bool) -> Supernet:
    operations = (*OPERATIONS, *(("dcs", "rga_spatial", "rga_channel") if attention else ()))
    structure = CellStructure(
        nodes=sizes["nodes"], operations=operations, attention=ATTENTION if attention else ("none",)
    )
    cells = sizes["cells"]
    reductions = tuple(sorted({cells // 3, 2 * cells // 3})) if cells < 3 else thirds(cells)
    network = NetworkSpec(
        channels=sizes["width"],
        cells=cells,
        reductions=reductions,
        stem="conv",
        height=sizes["size"],
        width=sizes["size"],
    )
    return Supernet(structure, network)


def _plain_cell(cell: SuperCell) -> Callable[..., Tensor]:
    def compute(before: Tensor, last: Tensor, weights: Tensor, columns: object) -> Tensor:
        states = list(cell.preprocessor([before, last]))
        for node in range(cell.nodes):
            states.append(sum(_terms(cell, states, weights, node)))  # type: ignore[arg-type]
        return torch.cat(states[2:], dim=1)

    return compute


def _terms(cell: SuperCell, states: list[Tensor], weights: Tensor, node: int) -> Iterator[Tensor]:
    for source in range(node + 2):
        for weight, name in zip(weights[edge_index(node, source)], cell.mixture.names):
            if name != "none":
                yield weight * cell.operation(node, source, name)(states[source])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--attention", action="store_true", help="the space with attention on edges and outputs")
    parser.add_argument("--growth", type=Path, metavar="PNG", help="how cost grows with each size, as a plot")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
