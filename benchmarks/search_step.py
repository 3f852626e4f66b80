"""One bilevel step (alphas, then weights): ours, NNI 3.0's DARTS, and DARTS as published, on the same space.

The eight DARTS operations, 4 cells, width 8, 4 nodes, batch 32 at 32 x 32, 10 classes; each step is called in turn in
one process. All three compute the same: cross-entropy, a step of Adam for the alphas on one batch, a clipped step of
SGD for the weights on another. NNI's network is its own hub space (which leaves ``none`` out), stepped as its
``DartsLightningModule.training_step`` does; the published one is benchmarks/_plain_darts.py.

    python benchmarks/search_step.py --json results/reference/search_step.json
    python benchmarks/search_step.py --attention --json results/reference/search_step_attention.json
    python benchmarks/search_step.py --attention --plain-blocks --batch 16 \
        --json results/reference/search_step_plain_blocks.json
    python benchmarks/search_step.py --outside --json results/reference/search_step_outside.json
    python benchmarks/search_step.py --growth results/reference/search_step_growth \
        --json results/reference/search_step_growth.json
    python benchmarks/search_step.py --attention --growth results/reference/search_step_attention_growth \
        --json results/reference/search_step_attention_growth.json

``--attention``: three attention blocks on the edges and six candidates on the outputs; NNI's DARTS makes its own
supernet of our space, the plain formulation computes every edge for itself, both with our blocks. ``--plain-blocks``
adds both peers with the blocks as their papers write them (_plain_blocks.py): NNI has no attention blocks of its own.
Take a small ``--batch``, of two images or more, as N x N matrices fill the memory. ``--growth``: how a
step's cost grows with each size, as numbers, fitted exponents and a plot; with ``--attention``, of a smaller network,
with the number of candidates too.
``--outside``: the share of a real bilevel search with configs/demo.yaml that is not the network's (first epoch and ends
of epochs left out). ``--clock cpu --threads 1`` on a machine with other work: seconds of this process alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _plain_blocks import write_out
from _plain_darts import OPERATIONS, PlainNetwork
from _timed_run import StepTimer, timed_by
from measure import CLOCKS, MIB, in_turn, peak_memory, ratio, write_json
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dcs_nas.models.cell_kind import CellSupernet
from dcs_nas.models.cell_space import CellSpace
from dcs_nas.models.super_cell import SuperCell, edge_index
from dcs_nas.report.palette import get_theme
from dcs_nas.space import CellStructure, NetworkSpec, thirds
from dcs_nas.strategies.bilevel import without_gradients

SIZES = {"width": 8, "cells": 4, "nodes": 4, "batch": 32, "size": 32}
CLASSES = 10
LARGEST_UNREDUCED = 64  # rows of pixels that attention sees as they are; the stem reduces larger images to a quarter
CHANGES = {
    "width": (4, 8, 16, 32),
    "cells": (2, 4, 8, 12),
    "nodes": (2, 3, 4, 5),
    "batch": (8, 16, 32, 64),
    "size": (16, 32, 48, 64),
}
ATTENTION = ("none", "dcs", "harmonious", "rga_spatial", "rga_channel", "rga")
EDGE_ATTENTION = ("dcs", "rga_spatial", "rga_channel")
ATTENTION_SIZES = {**SIZES, "nodes": 2, "batch": 8, "candidates": len(OPERATIONS) + len(EDGE_ATTENTION)}
ATTENTION_CHANGES = {"width": (4, 8, 16, 32), "candidates": (8, 9, 10, 11), "size": (16, 24, 32, 48)}
AXES = {
    "size": "image height and width (pixels)",
    "batch": "batch (images)",
    "candidates": "candidates on an edge",
}


class Search:
    """A network with alphas and weights, their optimizers, and two batches."""

    def __init__(self, network: nn.Module, alphas: list[nn.Parameter], sizes: dict[str, int], *, freeze: bool) -> None:
        own = {id(a) for a in alphas}
        self.network, self.alphas, self.freeze = network, alphas, freeze
        self.autocast: AbstractContextManager[Any] = nullcontext()
        self.weights = [p for p in network.parameters() if id(p) not in own]
        self.sgd = torch.optim.SGD(self.weights, lr=0.025, momentum=0.9, weight_decay=3e-4)
        self.adam = torch.optim.Adam(alphas, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        generator = torch.Generator().manual_seed(0)
        shape = (2, sizes["batch"], 3, sizes["size"], sizes.get("columns", sizes["size"]))
        self.images = torch.randn(shape, generator=generator)
        self.labels = torch.randint(CLASSES, shape[:2], generator=generator)

    def to(self, device: str) -> Search:
        """Move network and batches; the optimizers, which have no state yet, keep the moved parameters."""
        self.network.to(device)
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self

    def step(self) -> None:
        """Both halves; gradients of the other level only where the peer computes them too."""
        with without_gradients(self.weights if self.freeze else []):
            self._half(1, self.adam, clip=False)
        with without_gradients(self.alphas if self.freeze else []):
            self._half(0, self.sgd, clip=True)

    def _half(self, half: int, optimizer: torch.optim.Optimizer, *, clip: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            logits = self.network(self.images[half])
        cross_entropy(logits.float(), self.labels[half]).backward()
        if clip:
            nn.utils.clip_grad_norm_(self.weights, 5.0)
        optimizer.step()


class Classifier(nn.Module):
    """Our supernet with a linear classifier."""

    def __init__(self, supernet: CellSupernet) -> None:
        super().__init__()
        self.supernet, self.linear = supernet, nn.Linear(supernet.num_features, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.supernet(images).mean(dim=(2, 3)))


def ours(sizes: dict[str, int], attention: bool = False) -> Search:
    network = Classifier(_supernet(sizes, attention)).to(memory_format=torch.channels_last)
    search = Search(network, list(network.supernet.alphas().values()), sizes, freeze=True)
    search.images = torch.stack([x.contiguous(memory_format=torch.channels_last) for x in search.images])
    return search


def published(sizes: dict[str, int], attention: bool = False) -> Search:
    """The published code; with attention our modules in its formulation: nothing shared, NCHW, all gradients."""
    if attention:
        network = Classifier(_supernet(sizes, True))
        for cell in network.supernet.space.cells:
            object.__setattr__(cell, "_compute", _plain_cell(cell))
        return Search(network, list(network.supernet.alphas().values()), sizes, freeze=False)
    plain = PlainNetwork(width=sizes["width"], cells=sizes["cells"], nodes=sizes["nodes"], classes=CLASSES)
    return Search(plain, list(plain.alphas), sizes, freeze=False)


def nni(sizes: dict[str, int], attention: bool = False) -> Search:
    """NNI's DARTS on its own space of DARTS, or on ours with attention, without ``none`` as all of NNI's cells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nni.nas.hub.pytorch import nasnet

        from dcs_nas.models.nni_imports import DARTS

        strategy = DARTS()
        if attention:
            structure, spec = _space(sizes, True, without="none")
            network: nn.Module = _Pooled(strategy.mutate_model(CellSpace(structure, spec)))
        else:
            space = nasnet.DARTS(width=sizes["width"], num_cells=sizes["cells"], dataset="cifar")
            network = strategy.mutate_model(space)
    alphas = {id(a): a for m in network.modules() if hasattr(m, "arch_parameters") for a in m.arch_parameters()}
    return Search(network, list(alphas.values()), sizes, freeze=False)


class _Pooled(nn.Module):
    """A space of ours with a linear classifier."""

    def __init__(self, space: CellSpace) -> None:
        super().__init__()
        self.space, self.linear = space, nn.Linear(space.num_features, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.space(images).mean(dim=(2, 3)))


def plain_blocks(peer: Callable[..., Search], sizes: dict[str, int], attention: bool = True) -> Search:
    """A peer, with the blocks as their papers write them."""
    search = peer(sizes, attention)
    write_out(search.network)
    return search


PEERS: dict[str, Callable[..., Search]] = {"ours": ours, "nni": nni, "published": published}
PLAIN_BLOCKS = {f"{name}, plain blocks": partial(plain_blocks, PEERS[name]) for name in ("nni", "published")}


def main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    facts = {"sizes": SIZES | {"batch": arguments.batch}, "threads": torch.get_num_threads(), "clock": arguments.clock}
    if arguments.growth:
        found = _growth(arguments)
    elif arguments.outside:
        found = _outside(arguments)
    else:
        found = _compare(arguments)
    write_json(arguments.json, {**facts, **found})


def _compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of the times, of the ratios of steps that stood side by side, and memory."""
    torch.manual_seed(0)
    peers = PEERS | (PLAIN_BLOCKS if arguments.plain_blocks else {})
    sizes = SIZES | {"batch": arguments.batch}
    build = {name: partial(_step, make, sizes, arguments.attention) for name, make in peers.items()}
    memory = {name: peak_memory(_one_thread, step, repeats=1) / MIB for name, step in build.items()}
    steps = {name: step() for name, step in build.items()}
    times = in_turn(steps, arguments.repeats, CLOCKS[arguments.clock])
    ratios = {name: ratio(found, to=times["ours"]) for name, found in times.items()}
    seconds = {name: statistics.median(found) for name, found in times.items()}
    for name in peers:
        print(
            f"{name:23} {seconds[name]:.3f} s, {ratios[name]:.2f} times ours, "
            f"{memory[name]:.0f} MiB beyond what lives on, {memory[name] / memory['ours']:.2f} times ours"
        )
    return {
        "space": "attention" if arguments.attention else "darts",
        "seconds": seconds,
        "ratios": ratios,
        "mib": memory,
    }


def _step(make: Callable[..., Search], sizes: dict[str, int], attention: bool) -> Callable[[], None]:
    return make(sizes, attention).step


def _one_thread(build: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build()


def _outside(arguments: argparse.Namespace) -> dict[str, Any]:
    """Shares of the time between the first and the last step of an epoch, in a real search."""
    from dcs_nas.config import load_config
    from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
    from dcs_nas.space import find_shipped_file
    from dcs_nas.strategies.job import run_search

    timer = StepTimer(CLOCKS[arguments.clock])
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data or Path(folder) / "data"
        if not root.is_dir():
            write_synthetic(root, settings=SyntheticSettings())
        own = [f"data.root={root}", f"results={folder}", f"search.epochs={arguments.epochs}"]
        own += ["trainer.accelerator=cpu", f"trainer.threads={torch.get_num_threads()}"]
        own += ["search.strategy=bilevel", "search.validation=0"]
        with timed_by(timer):
            run_search(load_config(find_shipped_file("configs", "demo"), own), Path(folder) / "run")
    shares = timer.shares
    outside = shares["loader and Lightning"] + shares["augmentation"]
    for part, share in shares.items():
        print(f"{part:24} {100 * share:6.2f} %")
    print(f"outside the step's own work: {100 * outside:.2f} % of {timer.seconds['all'] / timer.steps:.3f} s a step")
    return {"shares": shares, "outside": outside, "steps": timer.steps, "seconds": timer.seconds}


def _growth(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step as one size changes and the others stay, the ratio to the usual size, and a plot.

    ``exponents``: p of the cost in proportion to size ** p, by least squares of the logarithms.
    """
    sizes, changes = (ATTENTION_SIZES, ATTENTION_CHANGES) if arguments.attention else (SIZES, CHANGES)
    seconds: dict[str, dict[int, float]] = {}
    ratios: dict[str, dict[int, float]] = {}
    exponents: dict[str, float] = {}
    for name, values in changes.items():
        steps = {str(v): ours({**sizes, name: v}, arguments.attention).step for v in values}
        times = in_turn(steps, arguments.repeats, CLOCKS[arguments.clock])
        usual = times[str(sizes[name])]
        seconds[name] = {int(v): statistics.median(found) for v, found in times.items()}
        ratios[name] = {int(v): ratio(found, to=usual) for v, found in times.items()}
        if name != "candidates":  # of which each costs something else: DARTS' eight, then DCS, RGA-S, RGA-C
            exponents[name] = float(np.polyfit(np.log(list(ratios[name])), np.log(list(ratios[name].values())), 1)[0])
        figures = ", ".join(f"{v}: {s:.3f} s ({ratios[name][v]:.2f})" for v, s in seconds[name].items())
        print(f"{name} {figures}" + (f"; exponent {exponents[name]:.2f}" if name in exponents else ""), flush=True)
    _plot(ratios, sizes, exponents, arguments.growth)
    return {"sizes": sizes, "seconds": seconds, "ratios": ratios, "exponents": exponents}


def _plot(found: dict[str, dict[int, float]], sizes: dict[str, int], exponents: dict[str, float], stem: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = get_theme("light")
    line = colours.families["separable"].line
    fixed = {"svg.hashsalt": "dcs_nas", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10.0}
    with plt.rc_context(fixed):
        size = (3 * len(found), 2.9)
        figure, axes = plt.subplots(1, len(found), figsize=size, layout="constrained", facecolor=colours.ground)
        for axis, (name, ratios) in zip(axes, found.items()):
            usual, power = sizes[name], f": exponent {exponents[name]:.2f}" if name in exponents else ""
            guide = [v**2 / usual**2 if name == "size" else v / usual for v in ratios]
            words = "as the number of pixels" if name == "size" else "in proportion"
            axis.plot(list(ratios), guide, linestyle=":", color=colours.wire, label=words)
            axis.plot(
                list(ratios),
                list(ratios.values()),
                marker="o",
                color=line,
                label=f"measured{power}",
            )
            axis.axvline(usual, color=colours.wire, linewidth=0.8, alpha=0.6)
            axis.set_xlabel(AXES.get(name, name))
            axis.set_xticks(list(ratios))
            axis.set_ylim(bottom=0)
            axis.set_xlim(left=0)
            axis.grid(color=colours.wire, alpha=0.3)
            axis.legend(frameon=False, fontsize=8, loc="upper left")
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
        axes[0].set_ylabel("cost of a step (1: usual size)")
        stem.parent.mkdir(parents=True, exist_ok=True)
        for form in ("svg", "png"):
            metadata = {"Date": None} if form == "svg" else None
            figure.savefig(stem.with_suffix(f".{form}"), dpi=150, metadata=metadata)


def _supernet(sizes: dict[str, int], attention: bool) -> CellSupernet:
    return CellSupernet(*_space(sizes, attention))


def _space(sizes: dict[str, int], attention: bool, without: str = "") -> tuple[CellStructure, NetworkSpec]:
    operations = (*OPERATIONS, *(EDGE_ATTENTION if attention else ()))[: sizes.get("candidates")]
    structure = CellStructure(
        nodes=sizes["nodes"],
        operations=tuple(name for name in operations if name != without),
        attention=ATTENTION if attention else ("none",),
    )
    cells = sizes["cells"]
    reductions = tuple(sorted({cells // 3, 2 * cells // 3})) if cells < 3 else thirds(cells)
    network = NetworkSpec(
        channels=sizes["width"],
        cells=cells,
        reductions=reductions,
        stem="stride4" if attention and sizes["size"] > LARGEST_UNREDUCED else "conv",
        height=sizes["size"],
        width=sizes.get("columns", sizes["size"]),
    )
    return structure, network


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
    parser.add_argument(
        "--plain-blocks", action="store_true", help="with --attention: the plain formulation of blocks too"
    )
    parser.add_argument("--batch", type=int, default=SIZES["batch"], help="images of a compared step")
    parser.add_argument("--growth", type=Path, metavar="STEM", help="how cost grows with each size: STEM.svg, STEM.png")
    parser.add_argument("--outside", action="store_true", help="the share of a real search that is not the network's")
    parser.add_argument("--epochs", type=int, default=3, help="of the real search; the first one is not counted")
    parser.add_argument("--data", type=Path, help="synthetic people for the real search; drawn anew without it")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.plain_blocks and not arguments.attention:
        parser.error("--plain-blocks got no attention; expected --attention --plain-blocks: add --attention")
    return arguments


if __name__ == "__main__":
    main()
