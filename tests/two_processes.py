"""Run by tests/test_parallel.py: a tiny search, by itself or as one of two processes; saves its alphas.

    python -m tests.two_processes JOB FOLDER ALPHAS DEVICES [plain]

``plain`` takes out all that sees one process's part of a batch alone: batch norms.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcs_nas.config import load_config
from dcs_nas.models import banks, operations
from dcs_nas.processes import rank
from dcs_nas.search.bilevel import BilevelSearch
from dcs_nas.search.search import run_search


def main(job: str, folder: str, alphas: str, devices: str, plain: str = "") -> None:
    if plain:
        for norm in (nn.BatchNorm1d, nn.BatchNorm2d):
            norm.forward = lambda self, x: x  # type: ignore[method-assign]
        operations.weighted_norm = lambda norm, x, weight: x if weight is None else weight * x
        banks._normed = _weighted
    BilevelSearch.on_train_end = _saver(Path(alphas))  # type: ignore[method-assign]
    run_search(load_config(Path(job), [f"trainer.devices={devices}"]), Path(folder))


def _weighted(norms: Sequence[nn.Module], x: Tensor, weights: Sequence[Tensor] | None) -> Tensor:
    if weights is None:
        return x
    return x * torch.stack(list(weights)).repeat_interleave(x.shape[1] // len(norms)).view(1, -1, 1, 1)


def _saver(path: Path) -> Any:
    def save(module: BilevelSearch) -> None:
        found = {name: alpha.detach().clone() for name, alpha in module.supernet.alphas().items()}
        torch.save(found, f"{path}.{rank()}")

    return save


if __name__ == "__main__":
    main(*sys.argv[1:])
