"""Derivation by perturbation: keep the candidates whose removal hurts the supernet most.

Wang et al., "Rethinking Architecture Selection in Differentiable NAS" (DARTS-PT, arXiv 2108.04392, algorithm 1).
E edges of a cell, O operations, A candidates of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from dcs_nas.data.datamodule import Batch
from dcs_nas.models.supernet import frozen_statistics
from dcs_nas.space import AnyGenotype, CellStructure, edge_index
from dcs_nas.strategies.bilevel import BilevelSearch, without_gradients
from dcs_nas.strategies.derive import sum_rows
from dcs_nas.strategies.record import ArchitectureRecord
from dcs_nas.training.joint_batch import sum_gradients

Weights = dict[str, Tensor]
Score = Callable[[Mapping[str, Tensor]], float]


def derive_by_perturbation(
    module: BilevelSearch, record: ArchitectureRecord, loaders: Mapping[str, Iterable[Batch]]
) -> AnyGenotype:
    """Return the genotype of a trained supernet, by the loss on the first batches of the architecture half.

    After each choice the weights take ``tune_steps`` steps of SGD on their own half, in the network as decided so far.
    """
    settings, supernet, wanted = module.settings, module.supernet, module.settings.perturbation
    module.train()
    batches = islice(loaders["architecture"], wanted.batches)
    passes = [module.prepare("architecture", _move_batch(module, batch), i) for i, batch in enumerate(batches)]
    tuner = _Tuner(module, loaders["weights"], lr=wanted.lr) if wanted.tune_steps else None

    def loss(weights: Mapping[str, Tensor]) -> float:
        with torch.no_grad(), frozen_statistics(module.network), supernet.fix_weights(weights):
            return sum(float(p.loss()) for p in passes)

    def tune(weights: Mapping[str, Tensor]) -> None:
        assert tuner is not None
        with supernet.fix_weights(weights):
            tuner.step(wanted.tune_steps)

    weights = choose_by_perturbation(
        supernet.mixture_weights(),
        supernet.structure,
        loss,
        seed=module.config.seed,
        tune=tune if tuner else None,
    )
    return record.genotype(supernet, settings.epochs - 1, weights)


class _Tuner:
    """Trains the weights on batches that repeat."""

    def __init__(self, module: BilevelSearch, loader: Iterable[Batch], *, lr: float) -> None:
        self._module, self._batches, self._steps = module, _repeat(loader), 0
        self._optimizer = SGD(module.weights, lr=lr, momentum=module.settings.momentum)

    def step(self, count: int) -> None:
        module = self._module
        for batch in islice(self._batches, count):
            self._optimizer.zero_grad(set_to_none=True)
            with without_gradients(module.alphas):
                loss = module.prepare("weights", _move_batch(module, batch), self._steps).loss()
                if loss.requires_grad:  # not where every path drawn is ``none``
                    loss.backward()
            sum_gradients(module.weights)
            nn.utils.clip_grad_norm_(module.weights, module.settings.grad_clip)
            self._optimizer.step()
            self._steps += 1


def _repeat(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the loader's batches again and again, without keeping them as ``itertools.cycle`` does."""
    while True:
        yield from loader


def _move_batch(module: BilevelSearch, batch: Batch) -> Batch:
    return {name: value.to(module.device) for name, value in batch.items()}


def choose_by_perturbation(
    start: Mapping[str, Tensor],
    structure: CellStructure,
    loss: Score,
    *,
    seed: int,
    tune: Callable[[Mapping[str, Tensor]], None] | None = None,
) -> Weights:
    """Return mixture weights that are one-hot in the chosen candidates, ready for ``derive``.

    First every edge, in random order, keeps the operation without which the loss is highest, with the edge's weight in
    PC-DARTS; then every node keeps the
    ``edges_per_node`` edges without which it is highest; the outputs' attention is chosen as an edge's operation is.

    Args:
        start: mixture weights (E, O) and (1, A) by name.
        loss: validation loss of the supernet with given weights.
        seed: of the order.
        tune: called with the weights after every edge that is decided, to train the supernet on.
    """
    weights = {name: rows.detach().clone().cpu() for name, rows in start.items()}
    sums = {name: sum_rows(rows) for name, rows in weights.items()}
    random = Random(seed)
    rows = [(name, row) for name, table in weights.items() for row in range(len(table))]
    for name, row in random.sample(rows, len(rows)):
        columns = _candidates(name, structure)
        if len(columns) > 1:
            best = max(columns, key=lambda c: loss(_remove(weights, name, row, c)))
        else:
            best = columns[0]
        weights[name][row] = F.one_hot(torch.tensor(best), weights[name].shape[1]) * sums[name][row]
        if tune:
            tune(weights)
    cells = [name for name in weights if not name.endswith("_attention")]
    nodes = [(name, node) for name in cells for node in range(structure.nodes)]
    for name, node in random.sample(nodes, len(nodes)):
        missed = {source: loss(_remove(weights, name, edge_index(node, source))) for source in range(node + 2)}
        for source in sorted(missed, key=lambda s: -missed[s])[structure.edges_per_node :]:
            weights[name][edge_index(node, source)] = 0
        if tune:
            tune(weights)
    return weights


def _candidates(name: str, structure: CellStructure) -> list[int]:
    if name.endswith("_attention"):
        return list(range(len(structure.attention)))
    return [i for i, op in enumerate(structure.operations) if op != "none"]


def _remove(weights: Mapping[str, Tensor], name: str, row: int, column: int | None = None) -> Weights:
    """Return the weights without an edge, or without one operation of it whose weight goes to the others."""
    changed = weights[name].clone()
    if column is None:
        changed[row] = 0
    else:
        total = changed[row].sum()
        changed[row, column] = 0
        changed[row] *= total / changed[row].sum().clamp_min(1e-12)
    return {**weights, name: changed}
