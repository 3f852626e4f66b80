"""A single path of a chain supernet: computed alone, and as the masked sum of all candidates.

    python benchmarks/chain_paths.py --json results/reference/chain_paths.json

Forward and backward of the weights for random paths in training mode, and forward in evaluation mode, in turn in one
process with one thread; the medians of ratios of neighbouring calls, and their range.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import in_turn, ratio, write_json
from torch import Tensor

from dcs_nas.models.chain_kind import ChainKind, ChainSupernet
from dcs_nas.models.relaxation import Sample
from dcs_nas.models.supernet import Mixture
from dcs_nas.space import Origin, find_shipped_file, load_space

SPACES = {"bench_chain": (64, 32, 32), "dcs_dnas": (256, 128, 4), "dcs_dnas_3x": (384, 128, 4)}  # height, width, batch


def prepare(space: str, paths: int) -> dict[str, Callable[[], object]]:
    """Return the functions to time, each of which takes the same paths in the same order, again and again."""
    height, width, batch = SPACES[space]
    torch.manual_seed(0)
    spec: Any = load_space(find_shipped_file("search_spaces", space))
    network = spec.network(height, width)
    supernet, images = ChainSupernet(spec, network), torch.randn(batch, 3, height, width)
    for alpha in supernet.alphas().values():
        alpha.requires_grad_(False)
    random = np.random.default_rng(0)
    drawn = [ChainKind().random_genotype(spec, network, random, origin=Origin()) for _ in range(paths)]

    def run(*, alone: bool, training: bool) -> Callable[[], None]:
        def step() -> None:
            supernet.train(training)
            for genotype in drawn:
                with supernet.fix_to(genotype), torch.set_grad_enabled(training):
                    if not alone:
                        _mask_all(supernet)
                    _backward(supernet(images), training=training)

        return step

    return {
        f"{mode}, {'alone' if alone else 'masked'}": run(alone=alone, training=mode == "training")
        for mode in ("training", "evaluation")
        for alone in (True, False)
    }


def _mask_all(supernet: ChainSupernet) -> None:
    """Compute all candidates in the next passes, with the weights that are fixed."""
    for mixture in supernet.mixtures.values():
        assert isinstance(mixture, Mixture)
        assert mixture.fixed is not None
        mixture.fixed = Sample(mixture.fixed.weights)


def _backward(features: Tensor, *, training: bool) -> None:
    if training:
        features.square().mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES), default=list(SPACES))
    parser.add_argument("--paths", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    for space in arguments.spaces:
        seconds = in_turn(prepare(space, arguments.paths), arguments.repeats)
        for mode in ("training", "evaluation"):
            masked, alone = seconds[f"{mode}, masked"], seconds[f"{mode}, alone"]
            ratios = sorted(m / a for m, a in zip(masked, alone))
            results.setdefault(space, {})[mode] = {
                "masked over alone": round(ratio(masked, alone), 2),
                "range": [round(ratios[0], 2), round(ratios[-1], 2)],
            }
            print(f"{space}, {mode}: {results[space][mode]}", flush=True)
    write_json(arguments.json, {"paths": arguments.paths, "repeats": arguments.repeats, "spaces": results})


if __name__ == "__main__":
    main()
